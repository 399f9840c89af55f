"""SIGKILL of the control plane at random points of a storm of starts, stops and evictions on real containers.

Three rounds unless INFERENCE_MANAGER_STORM_ROUNDS says otherwise; the seed is fixed, the machine's timing is not.
"""

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import docker
import httpx
import openai
import pytest
from docker.models.containers import Container

from tests.docker.container_service import ContainerService, Serve
from tests.integration.chats import ask, later, streamed
from tests.integration.service import model, until

ROUNDS = int(os.environ.get("INFERENCE_MANAGER_STORM_ROUNDS", "3"))
SEED = 4
NAMES = ("a", "b", "c")
SCRIPT = {"load_seconds": 0.3, "tokens_per_second": 100, "memory_mib": 10}
# What is done to containers counts as their failure, and a model that is left alone for long is no storm.
IMPATIENT = {"backoff_initial_seconds": 0.2, "backoff_max_seconds": 0.5}
_LONGEST_SECONDS = 6.0
VERBS = ("load", "unload")
_DEEDS: Mapping[str, Callable[[Container], object]] = {
    "kill": lambda one: one.kill(),
    "remove": lambda one: one.remove(force=True),
    "pause": lambda one: one.pause(),
    "rename": lambda one: one.rename(f"{one.name}-{one.short_id}"),
}


@dataclass
class Storm:
    """What is drawn, and what was seen."""

    service: ContainerService
    draw: random.Random = field(default_factory=lambda: random.Random(SEED))
    seen: Counter[str] = field(default_factory=Counter)
    containers: set[str] = field(default_factory=set)

    async def blow(self) -> None:
        """Traffic and an operator's orders, for a moment that is drawn; then SIGKILL in the middle of it."""
        work = [later(self._traffic(self.draw.random())) for _ in range(4)]
        work += [later(self._operator(self.draw.random())), later(self._watch())]
        await asyncio.wait(work, timeout=self.draw.uniform(0.0, _LONGEST_SECONDS), return_when=asyncio.FIRST_EXCEPTION)
        assert self.service.process is not None
        assert self.service.process.poll() is None, self.service.log_path.read_text()[-4000:]
        self.service.process.kill()
        for task in work:
            task.cancel()
        for outcome in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(outcome, (AssertionError, docker.errors.DockerException)):
                raise outcome
        await self.service.kill()

    def interfere(self) -> None:
        """While nobody watches, now and then a container is killed, frozen, renamed or taken away."""
        self.look()
        found = self.service.containers(alive=True)
        if not found or self.draw.random() < 0.5:
            return
        how, one = self.draw.choice(tuple(_DEEDS)), self.draw.choice(found)
        with contextlib.suppress(docker.errors.APIError):  # it was frozen already, or is just ending
            _DEEDS[how](one)
            self.seen[how] += 1

    def look(self) -> None:
        """No replica has two containers, at no time."""
        found = self.service.containers()
        self.containers |= {str(one.id) for one in found}
        twins = {name: count for name, count in Counter(_replica(one) for one in found).items() if count > 1}
        assert not twins, twins

    async def settled(self) -> None:
        """Once it listens again: nothing dead is left of the last life, and the books are within the budget."""
        self.look()
        (device,) = (await self.service.admin("devices"))["devices"]
        assert device["booked_mib"] <= device["budget_mib"], device
        self.seen["adopted"] += len(self._events("recovered")[0]["adopted"])
        self.seen["orphans"] += len(self._events("replica.orphan_removed"))

    def _events(self, name: str) -> list[dict[str, list[str]]]:
        return [event for event in self.service.events() if event["event"] == name]

    async def _traffic(self, seed: float) -> None:
        """Calls without end; they break with the control plane."""
        draw, client = random.Random(seed), self.service.openai()
        while True:
            call = streamed if draw.random() < 0.5 else ask
            try:
                await call(client, draw.choice(NAMES), f"hello {draw.random()}", draw.randint(1, 30))
                self.seen["answers"] += 1
            except openai.APIConnectionError:
                return
            except openai.APIError:
                self.seen["errors"] += 1

    async def _operator(self, seed: float) -> None:
        draw = random.Random(seed)
        while True:
            await asyncio.sleep(draw.uniform(0.2, 2.0))
            try:
                await self.service.order(draw.choice(NAMES), draw.choice(VERBS))
            except httpx.HTTPError:
                return

    async def _watch(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(0.1)


def _replica(container: Container) -> str:
    return str(container.labels["im.replica"])


@pytest.mark.timeout(120 + 30 * ROUNDS)
async def test_kills_at_random_points_leak_nothing(serve: Serve) -> None:
    """Whatever was under way: never two containers of a replica, none without an owner, and afterwards all works.

    That no container and no socket is left after the orderly end is proved by the fixture.
    """
    models = [model(name, mib=400, slots=2, script=SCRIPT) for name in NAMES]
    storm = Storm(await serve(*models, scheduling=IMPATIENT))
    service = storm.service
    for _ in range(ROUNDS):
        await storm.blow()
        await asyncio.to_thread(storm.interfere)
        await service.start()
        await storm.settled()

    for name in NAMES:
        await until(lambda name=name: _answers(service, name), 150)  # type: ignore[misc]
    rows = [row for row in await service.journal() if row["outcome"] is None]
    assert not rows
    # A dead container may be on its way out when it is looked at, so it is waited for.
    await until(lambda: all(one.status == "running" for one in service.containers()))
    assert len(service.containers()) == len(service.litter())
    print(f"{ROUNDS} SIGKILLs, {len(storm.containers)} containers seen, {dict(storm.seen)}")


async def _answers(service: ContainerService, name: str) -> bool:
    try:
        return name in await ask(service.openai(), name, name)
    except (
        openai.InternalServerError,
        openai.APITimeoutError,
    ):  # what was done to it while nobody watched may have used up its tries
        return False
