"""Accepted means done: jobs outlive SIGKILL of the control plane and of engines, each with one outcome."""

import random
from pathlib import Path

from jobs import done, ended, in_status, look, result, submit
from service import Serve, Service, model, until
from unified import DRAW, TEXT

from engines.simulated.text import expected_answer

SLOW = {"tokens_per_second": 20}


async def test_jobs_outlive_the_control_plane(serve: Serve) -> None:
    """SIGKILL with one running and others waiting: the next life ends all of them, in their order, each once."""
    service = await serve(model("a", slots=1, script=SLOW))
    prompts, counts = [f"number {n}" for n in range(4)], [200, 2, 2, 2]
    ids = [
        await submit(service, TEXT, prompt=prompt, parameters={"max_tokens": count})
        for prompt, count in zip(prompts, counts, strict=True)
    ]
    await in_status(service, ids[0], "processing")

    await service.restart()
    results = [await done(service, request_id) for request_id in ids]

    assert [each["text"] for each in results] == list(map(expected_answer, prompts, counts))
    views = [await look(service, request_id) for request_id in ids]
    starts = [view["tries"][-1]["started_at"] for view in views]
    assert starts == sorted(starts)
    assert [each["outcome"] for each in views[0]["tries"]] == ["interrupted", "succeeded"]
    assert all(len(view["tries"]) == 1 for view in views[1:])


async def test_an_engine_that_dies_costs_a_job_nothing(serve: Serve, tmp_path: Path) -> None:
    """The engine is killed while it works on a job: the job runs again and succeeds, without a failed try."""
    stuck = {"faults": [{"kind": "hang", "token": 5, "only_first_start": True}]}
    service = await serve(model("a", script=stuck, args=["--state-dir", str(tmp_path)]))
    request_id = await submit(service, TEXT, prompt="again", parameters={"max_tokens": 40})
    await in_status(service, request_id, "processing")
    for process in service.engines("a-0"):
        process.kill()

    assert (await done(service, request_id))["text"] == expected_answer("again", 40)
    assert [each["outcome"] for each in (await look(service, request_id))["tries"]] == ["interrupted", "succeeded"]


async def test_what_kills_every_engine_is_given_up(serve: Serve) -> None:
    """A job whose engine dies at every try ends as failed after the fifth."""
    crash = {"faults": [{"kind": "crash", "token": 2}]}
    service = await serve(model("a", script=crash))
    request_id = await submit(service, TEXT, prompt="poison", parameters={"max_tokens": 5})

    view = await in_status(service, request_id, "failed", timeout=240)

    assert view["error_code"] == "interrupted_too_often"
    assert [each["outcome"] for each in view["tries"]] == ["interrupted"] * 5
    assert (await result(service, request_id, 500))["error"]["code"] == "interrupted_too_often"


async def test_what_the_engine_refuses_fails_at_once(serve: Serve) -> None:
    """An error that trying again cannot mend is the result, after one try."""
    service = await serve(model("a"))
    request_id = await submit(service, TEXT, prompt="x", parameters={"max_tokens": -1})

    view = await ended(service, request_id)

    assert (view["status"], view["attempts"]) == ("failed", 1)
    assert (await result(service, request_id, 400))["error"]["param"] == "parameters.max_tokens"


async def test_a_stop_in_order_keeps_what_waits(serve: Serve) -> None:
    """SIGTERM: what runs may finish, what waits is done by the next life, with one try."""
    service = await serve(model("a", slots=1, script={"tokens_per_second": 30}))
    ids = [await submit(service, TEXT, prompt=f"{n}", parameters={"max_tokens": 30}) for n in range(3)]
    await in_status(service, ids[0], "processing")

    assert await service.stop() == 0
    service.assert_nothing_left()
    await service.start()

    for request_id in ids:
        await done(service, request_id)
        assert (await look(service, request_id))["attempts"] == 1


async def test_a_job_of_a_removed_model_ends(serve: Serve) -> None:
    """Nothing can serve it any more: it fails and says so; the others go on."""
    service = await serve(model("a", slots=1, script=SLOW), model("b", slots=1, script=SLOW))
    first = await submit(service, TEXT, model="a", prompt="x", parameters={"max_tokens": 2000})
    await in_status(service, first, "processing")
    removed = await submit(service, TEXT, model="a", prompt="x", parameters={"max_tokens": 1})
    other = await submit(service, TEXT, model="b", prompt="y", parameters={"max_tokens": 10})

    await service.kill()
    service.write(model("b", script=SLOW))
    await service.start()

    for request_id in (first, removed):
        view = await ended(service, request_id)
        assert (view["status"], view["error_code"]) == ("failed", "model_not_found")
    assert (await done(service, other))["model"] == "b"


async def test_a_job_waits_for_a_model_that_cannot_start(serve: Serve) -> None:
    """Callers are refused after some failures; a job waits, says why, and is done once the model can be started."""
    service = await serve(model("a", script={"faults": [{"kind": "exit", "code": 3}]}))
    request_id = await submit(service, TEXT, prompt="patient", parameters={"max_tokens": 3})
    refused = await until(lambda: _refused(service), 120, "a caller that is refused")
    assert refused == "model_failed"
    view = await look(service, request_id)
    assert view["status"] == "pending"
    assert "a-0" in view["reason"]

    await service.kill()
    service.write(model("a"))
    await service.start()

    assert (await done(service, request_id))["text"] == expected_answer("patient", 3)


async def _refused(service: Service) -> str | None:
    answer = await service.http.post(TEXT, json={"prompt": "x", "deadline_seconds": 0.05})
    code = answer.json()["error"]["code"]
    return code if code == "model_failed" else None


SEED = 6


async def test_random_kills_lose_and_double_nothing(serve: Serve) -> None:
    """Eight SIGKILLs at moments drawn from a seed, with swaps and engines killed too: every job ends once."""
    script = {"load_seconds": 0.2, "tokens_per_second": 200, "steps_per_second": 100, "memory_mib": 10}
    service = await serve(
        *(model(name, mib=400, slots=2, script=script) for name in ("a", "b")),
        model("c", mib=400, slots=2, model_type="text2image", script=script),
    )
    draw = random.Random(SEED)
    accepted: dict[str, str] = {}
    for life in range(8):
        for n in range(draw.randint(2, 6)):
            prompt, name = f"life {life} job {n}", draw.choice(["a", "b", "c"])
            path, parameters = (DRAW, {"steps": 5}) if name == "c" else (TEXT, {"max_tokens": 10})
            request_id = await submit(service, path, model=name, prompt=prompt, parameters=parameters)
            accepted[request_id] = prompt
        wanted = draw.randint(0, len(accepted))
        if draw.random() < 0.5:
            await until(lambda wanted=wanted: _so_many_ended(service, wanted), what=f"{wanted} ended")
        if draw.random() < 0.5:
            for process in service.engines():
                process.kill()
        await service.restart()

    views = [await ended(service, request_id) for request_id in accepted]

    assert {view["status"] for view in views} == {"complete"}
    rows = await service.journal()
    assert sorted(row["request_id"] for row in rows) == sorted(accepted)


async def _so_many_ended(service: Service, wanted: int) -> bool:
    rows = await service.journal()
    return sum(row["outcome"] is not None for row in rows) >= wanted
