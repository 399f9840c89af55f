"""The one loop: learn facts, plan, commit the plan, start effects, wait for a poke or the next deadline.

Level-triggered: a poke carries nothing, and losing one costs at most one
resync. Here stands the one `except Exception` around a step.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, replace

import structlog

from adapters.http1 import Pool
from controlplane.core.lifecycle import Backoff
from controlplane.core.model import Replica, ReplicaState
from controlplane.core.plan import CordonReplica, Plan, StopReplica, apply
from controlplane.core.planner import plan
from controlplane.errors import StoreFailure
from controlplane.loop import rejections
from controlplane.loop.actuator import Actuator
from controlplane.loop.dispatcher import Dispatcher
from controlplane.loop.facts import Fact, Ready, Well, learned
from controlplane.loop.outlook import Outlook
from controlplane.loop.rows import RowKeeper
from controlplane.loop.telemetry import Telemetry
from controlplane.loop.world import World
from controlplane.store.records import LoadTier
from controlplane.store.store import Store

log = structlog.get_logger(__name__)

_LEAST_PAUSE_SECONDS = 0.005
_AFTER_FAILURE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class LoopRules:
    """How often the loop looks anyway, and how it backs off."""

    resync_seconds: float
    backoff: Backoff


class Inbox:
    """Facts and pokes on their way to the loop; made first, so that everybody can have it."""

    def __init__(self) -> None:
        self._facts: deque[Fact] = deque()
        self.woken = asyncio.Event()

    def poke(self) -> None:
        self.woken.set()

    def report(self, fact: Fact) -> None:
        self._facts.append(fact)
        self.woken.set()

    def take(self) -> list[Fact]:
        taken = list(self._facts)
        self._facts.clear()
        return taken


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop drives."""

    world: World
    dispatcher: Dispatcher
    actuator: Actuator
    rows: RowKeeper
    store: Store
    outlook: Outlook
    telemetry: Telemetry


class Loop:
    """Owns the scheduling state while it runs."""

    def __init__(self, inbox: Inbox, parts: Parts, rules: LoopRules) -> None:
        self._inbox = inbox
        self._parts = parts
        self._rules = rules
        self._world = parts.world

    async def run(self) -> None:
        """Until cancelled. A failing step is logged and tried again; it never ends the loop."""
        while True:
            self._inbox.woken.clear()
            try:
                pause = self._pause(await self.step())
            except StoreFailure as exc:
                log.error("loop.store_failed", reason=str(exc))
                pause = _AFTER_FAILURE_SECONDS
            except Exception:
                log.exception("loop.step_failed")
                pause = _AFTER_FAILURE_SECONDS
            await self._rest(pause)

    async def step(self) -> float | None:
        """One pass; returns when to look again at the latest, on the loop's clock."""
        now = self._world.clock()
        self._learn(now)
        # Slots go to the line before the plan: a replica that is about to work must not look idle.
        self._parts.dispatcher.fill_all()
        self._parts.dispatcher.expire(now, self._parts.outlook.sentence_of_wait)
        decided = plan(self._world.snapshot(), now)
        self._adopt(decided, now)
        self._parts.dispatcher.fill_all()
        await self._parts.rows.commit()
        await self._fulfil_loads()
        self._refuse_hopeless()
        self._parts.actuator.reconcile(self._parts.rows.settled())
        self._parts.telemetry.steps.inc()
        times = (decided.wake_at, self._world.queue.next_deadline(), self._parts.dispatcher.wake_at())
        return min((at for at in times if at is not None), default=None)

    def _learn(self, now: float) -> None:
        for fact in self._inbox.take():
            replica = self._world.replicas.get(fact.replica_id)
            if replica is None or replica.generation != fact.generation:
                continue
            after = learned(fact, replica, now, self._rules.backoff)
            if isinstance(fact, Well):
                self._world.slots[replica.replica_id].suspected = False
            if isinstance(fact, Ready) and after.state is ReplicaState.READY:
                self._welcome(fact, after)
            self._move(after)

    def _welcome(self, fact: Ready, replica: Replica) -> None:
        self._world.connect(replica, fact.endpoint, fact.handle, Pool(fact.endpoint))
        entry = self._world.models.get(replica.model_id)
        if fact.took_seconds is None or entry is None:
            return
        entry.load = entry.load.learn(fact.took_seconds)
        peak = self._world.measured_mib.get(replica.replica_id, 0)
        self._parts.rows.learn_load(replica.model_id, entry.config_hash, LoadTier.COLD, fact.took_seconds, peak)

    async def _fulfil_loads(self) -> None:
        """An order to load is done once the model serves, also for the next life: else it would evict for ever."""
        for model_id, intent in list(self._world.intents.items()):
            if intent.load_since is not None and any(True for _ in self._world.serving(model_id)):
                done = replace(intent, load_since=None)
                self._world.intents[model_id] = done
                await self._parts.store.set_intent(model_id, done)

    def _adopt(self, decided: Plan, now: float) -> None:
        """The plan takes effect in memory at once: a cordon must close the door before anything is written."""
        for action in decided.actions:
            after = apply(action, self._world.replicas, now, self._rules.backoff)
            if isinstance(action, StopReplica):
                self._parts.rows.note(action.replica_id, {"reason": action.reason.value, "for": action.for_model})
            elif isinstance(action, CordonReplica):
                self._parts.rows.note(action.replica_id, {"for": action.for_model})
            self._move(after)
        self._world.holds, self._world.waits = decided.holds, decided.waits

    def _move(self, after: Replica) -> None:
        before = self._world.replicas.get(after.replica_id)
        self._world.update(after)
        if before is None or before.state is not after.state:
            self._parts.telemetry.replica_moves.labels(after.model_id, after.state.value).inc()
            log.info(
                "replica.moved",
                replica=after.replica_id,
                generation=after.generation,
                state=after.state.value,
                reason=after.failure_reason or None,
            )

    def _refuse_hopeless(self) -> None:
        """Nobody is kept waiting for a model that failed again and again."""
        now, patience = self._world.clock(), self._rules.backoff.patience
        for replica in self._world.replicas.values():
            if replica.failures >= patience and replica.state in {ReplicaState.FAILED, ReplicaState.STOPPING}:
                wait = max(1.0, replica.retry_at - now)
                rejection = rejections.model_failing(replica.model_id, replica.failure_reason, wait)
                self._parts.dispatcher.refuse_waiting(replica.model_id, rejection)

    def _pause(self, wake_at: float | None) -> float:
        if wake_at is None:
            return self._rules.resync_seconds
        return min(self._rules.resync_seconds, max(_LEAST_PAUSE_SECONDS, wake_at - self._world.clock()))

    async def _rest(self, pause: float) -> None:
        try:
            async with asyncio.timeout(pause):
                await self._inbox.woken.wait()
        except TimeoutError:
            return
