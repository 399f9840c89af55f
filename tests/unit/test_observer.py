"""The observer's looks, one at a time, at a runtime that is away."""

from collections.abc import Mapping

from structlog.testing import capture_logs

from controlplane.core.model import Rules
from controlplane.errors import RuntimeFailure
from controlplane.loop.observer import Observer, ObserverRules
from controlplane.loop.world import World
from tests.fakes.devices import FakeDevices
from tests.fakes.runtime import FakeRuntime


class _Distant(FakeRuntime):
    """A runtime whose host cannot be read while it is away; each time in other words."""

    away = False
    looks = 0

    async def memory_mib(self) -> Mapping[str, int]:
        self.looks += 1
        if self.away:
            raise RuntimeFailure(f"the Docker engine does not answer: try {self.looks}")
        return await super().memory_mib()


async def test_memory_that_cannot_be_read_is_told_once_each_time_it_is_lost() -> None:
    """Not at each look, whatever the words; and again after it could be read in between."""
    world = World({}, Rules(1.0), lambda: 0.0)
    runtime = _Distant(lambda _: None)
    rules = ObserverRules(every_seconds=1, stall_seconds=1, budget_mib=lambda _, total_mib: total_mib)
    observer = Observer(world, FakeDevices.host(), runtime, rules, lambda _: None)

    with capture_logs() as said:
        for away in (False, True, True, True, False, True, True):
            runtime.away = away
            await observer.measure()

    assert runtime.looks == 7
    told = [entry["reason"].rpartition(" ")[2] for entry in said if entry["event"] == "memory.unreadable"]
    assert told == ["2", "6"]
