"""What a waiting request or model can be told: reason, position, expectation.

Reads the world and asks the planner; changes nothing. The words are `explain`'s.
"""

from dataclasses import dataclass

from controlplane.core.estimates import Pace, eta_seconds, remaining_seconds
from controlplane.core.explain import Standing, sentence, waiting_sentence
from controlplane.core.model import Replica, ReplicaState
from controlplane.core.plan import Wait
from controlplane.core.planner import plan
from controlplane.loop.world import ModelEntry, World


@dataclass(frozen=True, slots=True)
class Explanation:
    """The one reason, in words and numbers."""

    model_id: str
    state: str
    wait: Wait | None
    standing: Standing
    sentence: str


class Outlook:
    """Answers why and how long."""

    def __init__(self, world: World) -> None:
        self._world = world

    def of_request(self, request_id: str) -> Explanation | None:
        """None when the request is not waiting."""
        head = self._world.queue.get(request_id)
        return self._explain(head.model_id, request_id) if head is not None else None

    def of_model(self, model_id: str) -> Explanation | None:
        return self._explain(model_id, None) if model_id in self._world.models else None

    def line(self, request_id: str) -> str:
        """What a waiting caller sees."""
        found = self.of_request(request_id)
        return found.sentence if found is not None else "on its way to the engine"

    def sentence_of_model(self, model_id: str) -> str:
        found = self.of_model(model_id)
        return found.sentence if found is not None else f"{model_id} is not configured"

    def sentence_of_wait(self, model_id: str) -> str:
        """Why the model's requests waited when it was planned last, even if nobody waits any more."""
        wait = self._world.waits.get(model_id)
        if wait is None:
            return self.sentence_of_model(model_id)
        return sentence(wait, self._standing(self._world.models[model_id], None))

    def state_of(self, model_id: str) -> str:
        """The best state any replica of it is in."""
        mine = [r for r in self._world.replicas.values() if r.model_id == model_id]
        return min((r.state for r in mine), key=_ORDER.index, default=ReplicaState.STOPPED).value

    def retry_after_seconds(self, model_id: str) -> float:
        """When somebody refused now should come back: when the line has moved by one, within a minute."""
        entry = self._world.models[model_id]
        return min(60.0, max(1.0, self._pace(entry).answer_seconds))

    def _explain(self, model_id: str, request_id: str | None) -> Explanation:
        entry = self._world.models[model_id]
        wait = self._wait(model_id)
        standing = self._standing(entry, request_id)
        if wait is None:
            words = self._at_rest(entry)
        elif request_id is None:
            words = sentence(wait, standing)
        else:
            words = waiting_sentence(wait, standing)
        return Explanation(model_id, self.state_of(model_id), wait, standing, words)

    def _wait(self, model_id: str) -> Wait | None:
        if not self._world.queue.waiting(model_id):
            return None
        known = self._world.waits.get(model_id)
        return known or plan(self._world.snapshot(), self._world.clock()).waits.get(model_id)

    def _standing(self, entry: ModelEntry, request_id: str | None) -> Standing:
        model_id = entry.spec.model_id
        mine = list(self._world.serving(model_id))
        position = self._world.queue.position(request_id) if request_id else None
        return Standing(
            now=self._world.clock(),
            slots=sum(s.rules.depth_rows for s in mine) or entry.spec.max_concurrency,
            busy=sum(s.rows for s in mine),
            waiting=self._world.queue.waiting(model_id),
            position=position,
            eta_seconds=eta_seconds(position, self._pace(entry)) if position else None,
            batching=entry.batching,
        )

    def _pace(self, entry: ModelEntry) -> Pace:
        ready = next(iter(self._world.serving(entry.spec.model_id)), None)
        return Pace(
            slots=max(1, entry.spec.max_concurrency),
            answer_seconds=entry.answer.seconds,
            ready_in_seconds=0.0 if ready is not None else self._ready_in(entry),
        )

    def _ready_in(self, entry: ModelEntry) -> float:
        starting = next((r for r in self._replicas(entry) if r.state is ReplicaState.STARTING), None)
        if starting is None:
            return entry.load.seconds
        return remaining_seconds(self._world.clock() - starting.changed_at, entry.load.seconds)

    def _replicas(self, entry: ModelEntry) -> list[Replica]:
        return [r for r in self._world.replicas.values() if r.model_id == entry.spec.model_id]

    def _at_rest(self, entry: ModelEntry) -> str:
        model_id, state = entry.spec.model_id, self.state_of(entry.spec.model_id)
        failed = next((r for r in self._replicas(entry) if r.state is ReplicaState.FAILED), None)
        if failed is not None:
            return f"{model_id} failed: {failed.failure_reason}"
        if state == ReplicaState.READY:
            return f"{model_id} is ready and nobody waits"
        starting = next((r for r in self._replicas(entry) if r.state is ReplicaState.STARTING), None)
        if starting is not None:
            return f"{model_id} is starting" + (f" ({starting.phase})" if starting.phase else "") + " and nobody waits"
        return f"{model_id} is {state}; a request starts it"


_ORDER = [
    ReplicaState.READY,
    ReplicaState.STARTING,
    ReplicaState.ASLEEP,
    ReplicaState.STOPPING,
    ReplicaState.FAILED,
    ReplicaState.STOPPED,
]
