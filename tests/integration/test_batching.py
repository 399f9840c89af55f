"""How engines are fed, from outside: rows, calls, company and displacement, with the reasons that callers see."""

import asyncio
from typing import Any

from chats import ask, begin, later
from service import Serve, Service, model

GENERATIONS = "/v1/images/generations"
# So that nothing but the event or the deadline at hand can wake the loop within a test's patience.
SELDOM = {"resync_seconds": 3600}


def pool(**more: Any) -> Any:
    """A model whose engine is fed whole calls of two."""
    return model("pool", slots=2, model_type="text2image", parameters={"batching": "call", **more})


async def draw(service: Service, size: str = "64x64", **fields: Any) -> float:
    """Seconds that one drawing waited for the engine, by the journal."""
    body = {"model": "pool", "prompt": "a circle", "size": size, "steps": 1, **fields}
    answer = await service.http.post(GENERATIONS, json=body)
    assert answer.status_code == 200, answer.text
    row = await service.request(answer.headers["x-request-id"])
    return float(row["wait_seconds"])


async def reason(service: Service, model_id: str) -> str:
    return str((await service.admin("explain", model=model_id))["sentence"])


async def test_company_is_waited_for_and_not_longer_than_said(serve: Serve) -> None:
    """Alone, a drawing goes when the linger is over, though nothing happens then."""
    service = await serve(pool(linger_seconds=0.4), scheduling=SELDOM)
    await draw(service)

    assert 0.4 <= await draw(service) < 5


async def test_a_full_call_goes_at_once_and_another_size_is_not_in_it(serve: Serve) -> None:
    """The first two of a size need no linger; the third request is of another size and waits on, told why."""
    service = await serve(pool(linger_seconds=600), scheduling=SELDOM)
    await service.order("pool", "load")
    await service.in_state("pool-0", "ready")
    large = later(draw(service, "128x128"))
    await service.busy("pool", waiting=1)
    assert "waits up to 600 s for others of the same size and settings" in await reason(service, "pool")
    first = later(draw(service, "64x64", priority=90))
    await service.busy("pool", waiting=2)

    await asyncio.gather(first, draw(service, "64x64"))

    await service.busy("pool", running=0, waiting=1)
    assert not large.done()
    await asyncio.gather(large, draw(service, "128x128"))


async def test_a_request_for_several_images_fills_as_many_rows(serve: Serve) -> None:
    """Two images are a whole call of two: no linger."""
    service = await serve(pool(linger_seconds=600), scheduling=SELDOM)

    assert await draw(service, n=2) < 60


async def test_a_higher_request_goes_beyond_a_full_batch_and_an_equal_one_waits(serve: Serve) -> None:
    """An engine that displaces is sent what it computes at once; who would only wait there waits here."""
    script = {"tokens_per_second": 50, "max_num_seqs": 4}
    service = await serve(model("a", slots=1, script=script, parameters={"batching": "step"}))
    client = service.openai()
    low = await begin(client, "a", "low", 1000, **{"X-Priority": "20"})
    equal = later(ask(client, "a", "equal", 2, **{"X-Priority": "20"}))
    await service.busy("a", running=1, waiting=1)
    assert "the batch of 1 on a-0 is full (1 at the engine); it joins at the next free row" in await reason(
        service, "a"
    )

    higher = await begin(client, "a", "higher", 1000, **{"X-Priority": "80"})

    await service.busy("a", running=2, waiting=1)
    await low.leave()
    await service.busy("a", running=1, waiting=1)
    await higher.leave()
    assert "equal" in await equal
