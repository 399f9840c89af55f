"""Room for one model only, and callers for several: nobody starves, and the pinned stay."""

import asyncio
import json

import openai
import pytest
from chats import ask, begin, later
from openai import AsyncOpenAI
from service import Serve, Service, model, until

SCRIPT = {"tokens_per_second": 50, "memory_mib": 20}


async def _steady(client: AsyncOpenAI, name: str, done: asyncio.Event, served: list[str]) -> None:
    """One call after the other until told to end."""
    while not done.is_set():
        served.append(await ask(client, name, "steady", 10))


async def test_steady_traffic_on_one_model_does_not_starve_another(serve: Serve) -> None:
    """Six callers keep A busy without a gap; B is answered all the same, and A's callers go on afterwards."""
    service = await serve(model("a", mib=600, slots=4, script=SCRIPT), model("b", mib=600, script=SCRIPT))
    client = service.openai()
    done, served = asyncio.Event(), list[str]()
    traffic = [later(_steady(client, "a", done, served)) for _ in range(6)]
    await until(lambda: len(served) > 6)

    assert "me too" in " ".join([await ask(client, "b", "me too", 3), "me too"])
    before = len(served)
    await until(lambda: len(served) >= before + 6)

    done.set()
    await asyncio.gather(*traffic)
    rows = await service.journal()
    assert {row["outcome"] for row in rows} == {"succeeded"}
    assert {row["attempts"] for row in rows} == {1}


async def test_eviction_waits_for_the_answers_under_way(serve: Serve) -> None:
    """The busy replica is never cut: its stream ends whole, and the other starts only then."""
    service = await serve(model("a", mib=600, script=SCRIPT), model("b", mib=600, script=SCRIPT))
    client = service.openai()
    stream = await begin(client, "a", "whole please", 60)
    waiting = later(ask(client, "b", "next"))
    await service.busy("b", waiting=1)
    assert "a-0" in (await service.admin("explain", model="b"))["sentence"]

    await stream.rest()

    assert stream.complete
    assert "next" in await waiting
    assert (await service.replica("a-0"))["generation"] == 1


async def test_a_pinned_model_is_not_evicted(serve: Serve) -> None:
    """Who wants its room is told who keeps it, with numbers; the end of the pin lets them in."""
    service = await serve(model("a", mib=600, script=SCRIPT), model("b", mib=600, script=SCRIPT))
    client = service.openai()
    await ask(client, "a", "x")
    await service.order("a", "pin")
    waiting = later(ask(client, "b", "let in"))
    await service.busy("b", waiting=1)

    explained = await until(lambda: _no_room(service))
    assert "600 MiB needed, 400 MiB free" in explained["sentence"]
    assert "a-0 (pinned" in explained["sentence"]
    with pytest.raises(openai.InternalServerError, match=r"no room.*a-0 \(pinned"):
        await ask(client, "b", "no patience", **{"X-Deadline-Seconds": "0.2"})
    assert (await service.replica("a-0"))["state"] == "ready"

    await service.order("a", "unpin")
    assert "in" in await waiting
    events = (await service.admin("events", limit=1000))["events"]
    evicted = [event for event in events if event["subject"] == "a-0" and "evict" in json.dumps(event)]
    assert evicted, events


async def _no_room(service: Service) -> dict[str, str] | None:
    found = await service.admin("explain", model="b")
    return found if found["reason"] == "no_room" else None
