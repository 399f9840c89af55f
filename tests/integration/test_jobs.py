"""Jobs by HTTP: submitted in every kind, looked at, followed, moved, cancelled, and their results as JSON and files."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from jobs import REQUESTS, done, ended, in_status, look, result, submit
from PIL import Image
from service import Service, model, until
from unified import DRAW, PROCESS, SEE, TEXT, refused
from uploads import data_url, png, saved

from engines.simulated.pictures import seen
from engines.simulated.text import expected_answer

pytestmark = pytest.mark.asyncio(loop_scope="module")
LONG = {"max_tokens": 2000}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A model of each kind; `slow` has one slot and takes its time, `stuck` stops moving after 5 tokens."""
    service = Service(tmp_path_factory.mktemp("jobs"))
    media = service.folder / "media"
    media.mkdir()
    service.write(
        model("chat", priority=60, aliases=["talk"]),
        model("slow", slots=1, priority=40, script={"tokens_per_second": 20}),
        model("stuck", priority=30, script={"faults": [{"kind": "hang", "token": 5}]}),
        model("draw", model_type="text2image"),
        model("see", model_type="image2text"),
        model("change", model_type="image_processing"),
        media={"folder": str(media)},
        scheduling={"stall_seconds": 600},
    )
    await service.start()
    yield service
    await service.end()


async def test_every_kind_can_be_a_job(service: Service) -> None:
    """The result of each is what the call would have been answered with."""
    large = saved(Image.effect_noise((300, 300), 80).convert("RGB"), "PNG")
    assert len(large) > 64 * 1024
    text = await submit(service, TEXT, prompt="say this", parameters={"max_tokens": 5})
    drawn = await submit(service, DRAW, prompt="a cat", parameters={"n": 2, "seed": 3})
    small_seen = await submit(service, SEE, image=data_url(png()), prompt="what", parameters={"max_tokens": 4})
    large_seen = await submit(service, SEE, image=data_url(large), prompt="what", parameters={"max_tokens": 4})
    changed = await submit(
        service, PROCESS, image=data_url(png((20, 10))), operation="upscale", parameters={"scale": 3}
    )

    assert (await done(service, text))["text"] == expected_answer("say this", 5)
    pictures = await done(service, drawn)
    assert (pictures["seeds"], len(pictures["image_paths"])) == ([3, 4], 2)
    assert (await done(service, small_seen))["text"] == expected_answer(f"{seen(png())}\nwhat", 4)
    assert (await done(service, large_seen))["text"] == expected_answer(f"{seen(large)}\nwhat", 4)
    assert (await done(service, changed))["size"] == "60x30"


async def test_a_job_by_its_type(service: Service) -> None:
    """POST /api/v1/requests takes every kind by `type`, as a form too, and does not wait."""
    answer = await service.http.post(
        REQUESTS, json={"type": "text2text", "prompt": "x", "parameters": {"max_tokens": 3}}
    )
    form = {"type": "image_processing", "operation": "flip", "tags": '["form"]'}
    upload = await service.http.post(REQUESTS, data=form, files={"file": ("a.png", png())})

    assert (answer.status_code, upload.status_code) == (202, 202)
    assert (await done(service, answer.json()["request_id"]))["text"] == expected_answer("x", 3)
    assert (await done(service, upload.json()["request_id"]))["operation"] == "flip"


@pytest.mark.parametrize("named", [None, "text2speech", 7])
async def test_an_unknown_type_is_named(service: Service, named: object) -> None:
    """400 that lists the types."""
    answer = await service.http.post(REQUESTS, json={"type": named, "prompt": "x"})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "type"
    assert "text2image" in answer.json()["error_message"]


async def test_a_result_as_a_file(service: Service) -> None:
    """By Accept the picture itself, each by its index; without, or with JSON wanted too, the JSON."""
    request_id = await submit(service, DRAW, prompt="a dog", parameters={"n": 2, "seed": 1})
    paths = (await done(service, request_id))["image_paths"]
    where = f"{REQUESTS}/{request_id}/result"
    files = [await service.http.get(where, params={"index": n}, headers={"accept": "image/*"}) for n in range(3)]
    either = await service.http.get(where, headers={"accept": "application/json, image/png"})

    assert [file.status_code for file in files] == [200, 200, 404]
    for file, path in zip(files[:2], paths, strict=True):
        assert file.headers["content-type"] == "image/png"
        assert file.content == (await service.http.get(path)).content
    assert either.json()["image_paths"] == paths


async def test_waiting_for_a_job(service: Service) -> None:
    """`wait_seconds` gives the answer if it comes in time, else 202; either way it is a job."""
    await done(service, await submit(service, TEXT, prompt="warm", parameters={"max_tokens": 1}))
    quick = await service.http.post(TEXT, json={"prompt": "x", "wait_seconds": 30, "parameters": {"max_tokens": 3}})
    late = await service.http.post(TEXT, json={"prompt": "x", "model": "slow", "wait_seconds": 0.1, "parameters": LONG})

    assert quick.status_code == 200
    assert quick.json()["text"] == expected_answer("x", 3)
    assert (await look(service, quick.json()["request_id"]))["mode"] == "async"
    assert late.status_code == 202
    await _cancel(service, late.json()["request_id"])


async def test_a_running_job_is_cancelled(service: Service) -> None:
    """DELETE ends it at the engine too: the slot is free, the row and the result say so, and once more is harmless."""
    request_id = await submit(service, TEXT, model="slow", prompt="x", parameters=LONG)
    await service.busy("slow", running=1)

    view = await _cancel(service, request_id)

    assert (view["status"], view["error_code"]) == ("cancelled", "cancelled")
    await service.busy("slow", running=0, waiting=0)
    assert (await _cancel(service, request_id))["status"] == "cancelled"
    assert (await result(service, request_id, 499))["status"] == "cancelled"
    row = await service.request(request_id)
    assert (row["outcome"], row["attempts"]) == ("cancelled", 1)


async def test_a_waiting_job_is_cancelled_and_another_moved(service: Service) -> None:
    """Behind one that runs: who is cancelled leaves the line, who is given priority goes first."""
    first = await submit(service, TEXT, model="slow", prompt="first", parameters=LONG)
    await in_status(service, first, "processing")
    ids = [await submit(service, TEXT, model="slow", prompt=f"{n}", parameters={"max_tokens": 2}) for n in range(3)]
    assert [(await look(service, request_id))["position"] for request_id in ids] == [1, 2, 3]

    await _cancel(service, ids[0])
    moved = await service.http.patch(f"{REQUESTS}/{ids[2]}", json={"priority": 90})

    assert (moved.status_code, moved.json()["priority"], moved.json()["position"]) == (200, 90, 1)
    assert (await look(service, ids[1]))["position"] == 2
    await _cancel(service, first)
    views = [await ended(service, request_id) for request_id in ids]
    assert [view["status"] for view in views] == ["cancelled", "complete", "complete"]
    assert views[2]["started_at"] < views[1]["started_at"]
    assert views[0]["tries"] == []


async def test_orders_that_come_too_late(service: Service) -> None:
    """What has ended is neither cancelled nor moved: 409; what never was is 404; a wrong priority 400."""
    request_id = await submit(service, TEXT, prompt="x", parameters={"max_tokens": 1})
    await done(service, request_id)
    where = f"{REQUESTS}/{request_id}"

    assert (await service.http.delete(where)).status_code == 409
    assert (await service.http.patch(where, json={"priority": 1})).status_code == 409
    assert (await service.http.patch(where, json={"priority": 101})).status_code == 400
    for method in ("GET", "DELETE"):
        assert (await service.http.request(method, f"{REQUESTS}/req_none")).status_code == 404
    assert (await service.http.get(f"{REQUESTS}/req_none/result")).status_code == 404
    assert (await service.http.get(f"{REQUESTS}/req_none/events")).status_code == 404


async def test_a_call_that_waits_is_no_job(service: Service) -> None:
    """It is listed, but its result went to its caller and its end is the caller's."""
    answer = await service.http.post(TEXT, json={"prompt": "x", "parameters": {"max_tokens": 1}})
    where = f"{REQUESTS}/{answer.json()['request_id']}"

    async def kept() -> bool:
        return (await service.http.get(where)).status_code == 200

    await until(kept)
    assert (await service.http.get(f"{where}/result")).status_code == 409
    assert (await service.http.delete(where)).status_code == 409


async def test_a_result_that_is_not_there_yet(service: Service) -> None:
    """409 with the time to come back."""
    request_id = await submit(service, TEXT, model="slow", prompt="x", parameters=LONG)
    answer = await service.http.get(f"{REQUESTS}/{request_id}/result")

    assert (answer.status_code, answer.headers["retry-after"]) == (409, "1")
    await _cancel(service, request_id)


async def test_jobs_are_listed_by_tag_status_and_model(service: Service) -> None:
    """Newest first, page by page."""
    ids = []
    for n in range(5):
        ids.append(await submit(service, TEXT, prompt=f"{n}", tags=["listed", f"n{n}"], parameters={"max_tokens": 1}))
    for request_id in ids:
        await done(service, request_id)
    pages, cursor = [], None
    while True:
        query = {"tag": "listed", "status": "complete", "model": "chat", "limit": 2}
        page = (await service.http.get(REQUESTS, params=query | ({"cursor": cursor} if cursor else {}))).json()
        pages.append([row["request_id"] for row in page["requests"]])
        if (cursor := page["next_cursor"]) is None:
            break

    assert pages == [ids[4:2:-1], ids[2:0:-1], ids[:1]]
    (last,) = (await service.http.get(REQUESTS, params={"tag": "n4"})).json()["requests"]
    assert last["tags"] == ["listed", "n4"]
    assert (await service.http.get(REQUESTS, params={"cursor": "x"})).status_code == 400


async def test_a_jobs_deadline_is_kept(service: Service) -> None:
    """Behind one that runs: expired, with the reason it waited for."""
    first = await submit(service, TEXT, model="slow", prompt="first", parameters=LONG)
    await in_status(service, first, "processing")
    late = await submit(service, TEXT, model="slow", prompt="late", deadline_seconds=0.2)

    view = await ended(service, late)

    assert (view["status"], view["error_code"]) == ("expired", "deadline_exceeded")
    assert "slow-0" in (await result(service, late, 503))["error_message"]
    await _cancel(service, first)


class Follower:
    """Reads the events of one request as they come."""

    def __init__(self, service: Service, request_id: str) -> None:
        self.events: list[tuple[str, Any]] = []
        self._service = service
        self._where = f"{REQUESTS}/{request_id}/events"
        self._grown = asyncio.Condition()
        self.task = asyncio.create_task(self._follow())

    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    def text(self) -> str:
        return "".join(fields["text"] for name, fields in self.events if name == "text")

    async def until(self, name: str) -> None:
        """Until an event of this name has come, or the stream has ended."""
        async with self._grown:
            await self._grown.wait_for(lambda: name in self.names() or self.task.done())

    async def _follow(self) -> None:
        async with self._service.http.stream("GET", self._where, timeout=60) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            name = ""
            async for line in stream.aiter_lines():
                key, _, value = line.partition(": ")
                name = value if key == "event" else name
                if key == "data":
                    async with self._grown:
                        self.events.append((name, json.loads(value)))
                        self._grown.notify_all()


async def test_a_jobs_events(service: Service) -> None:
    """queued while it waits, processing when it runs, done at the end, and nothing after."""
    first = await submit(service, TEXT, model="slow", prompt="first", parameters=LONG)
    await in_status(service, first, "processing")
    second = await submit(service, TEXT, model="slow", prompt="second", parameters=LONG)
    follower = Follower(service, second)
    await follower.until("queued")
    assert follower.events[0][1]["position"] == 1

    await _cancel(service, first)
    await follower.until("processing")
    await _cancel(service, second)
    await follower.task

    names = follower.names()
    assert (names[0], names[-1], names.count("done")) == ("queued", "done", 1)
    assert follower.events[-1][1]["status"] == "cancelled"


async def test_a_text_is_seen_as_it_grows(service: Service) -> None:
    """Text comes while the job still runs; its engine stops moving after some tokens, so that it cannot have ended."""
    request_id = await submit(service, TEXT, model="stuck", prompt="one two three", parameters={"max_tokens": 50})
    follower = Follower(service, request_id)
    await follower.until("text")

    assert follower.text()
    assert (await look(service, request_id))["status"] == "processing"
    await _cancel(service, request_id)
    await follower.task
    assert follower.names()[-1] == "done"


async def test_the_pieces_are_the_text(service: Service) -> None:
    """However many there were, also for who comes after the end."""
    request_id = await submit(service, TEXT, prompt="in pieces", parameters={"max_tokens": 40})
    early = Follower(service, request_id)
    text = (await done(service, request_id))["text"]
    late = Follower(service, request_id)
    await asyncio.gather(early.task, late.task)

    assert early.text() == late.text() == text == expected_answer("in pieces", 40)
    assert late.names() == ["text", "done"]


async def test_stats_count_what_was_asked(service: Service) -> None:
    """By model and status, with tokens; what waits and runs is the present."""

    async def chats() -> Any:
        stats = (await service.http.get("/api/v1/stats", params={"seconds": 3600})).json()
        return stats, next(each for each in stats["models"] if each["model"] == "chat")

    _, before = await chats()
    for n in range(3):
        await done(service, await submit(service, TEXT, prompt=f"{n}", parameters={"max_tokens": 4}))
    stats, after = await chats()

    assert after["requests"]["complete"] == before["requests"]["complete"] + 3
    assert after["output_tokens"] == before["output_tokens"] + 12
    assert (after["waiting"], after["running"]) == (0, 0)
    assert stats["requests"]["complete"] >= after["requests"]["complete"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"wait": True, "wait_seconds": 1}, "wait_seconds"),
        ({"wait": True, "callback_url": "http://example.com/"}, "callback_url"),
        ({"wait_seconds": -1}, "wait_seconds"),
        ({"callback_url": "ftp://example.com/"}, "callback_url"),
        ({"callback_url": 7}, "callback_url"),
        ({"tags": ["x"]}, "tags"),
        ({"wait": False, "tags": [""]}, "tags.0"),
        ({"wait": False, "tags": ["a\x00"]}, "tags.0"),
        ({"wait": False, "tags": "x"}, "tags"),
        ({"wait": False, "tags": ["x"] * 17}, "tags"),
        ({"wait": False, "parameters": {"stream": True}}, "parameters.stream"),
        ({"wait": False, "model": "nobody"}, "model"),
    ],
)
async def test_a_wrong_wish_is_named(service: Service, fields: dict[str, Any], param: str) -> None:
    """Refused before anything is accepted."""
    status = 404 if param == "model" else 400
    assert (await refused(service, TEXT, status, json={"prompt": "x", **fields}))["error"]["param"] == param


async def _cancel(service: Service, request_id: str) -> dict[str, Any]:
    answer = await service.http.delete(f"{REQUESTS}/{request_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())
