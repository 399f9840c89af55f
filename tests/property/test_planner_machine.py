"""The planner against everything that can happen around it, in any order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from planner_world import World, model

from controlplane.core.model import ModelSpec, ReplicaState, Rules

_IDS = "ABCDEF"
_priorities = st.sampled_from([0, 20, 50, 80, 100])
_seconds = st.sampled_from([0.0, 0.1, 1.0, 5.0, 19.9, 20.0, 60.0, 300.0, 700.0])


_SIZES = st.sampled_from([20, 30, 45, 60, 60, 60, 90, 130])
_seldom = st.sampled_from([False] * 5 + [True])
_ORDERS = ("load", "unload", "pin", "unpin", "unset_pin")


@st.composite
def _models(draw: st.DrawFn) -> list[ModelSpec]:
    return [
        model(
            model_id,
            draw(_SIZES),
            max_concurrency=draw(st.integers(1, 3)),
            priority=draw(_priorities),
            pinned=draw(_seldom),
            min_replicas=int(draw(_seldom)),
            idle_timeout_seconds=draw(st.sampled_from([None, None, 5.0, 120.0])),
            loading_seconds=draw(st.sampled_from([1.0, 10.0, 90.0])),
        )
        for model_id in _IDS[: draw(st.integers(2, len(_IDS)))]
    ]


_rules = st.builds(
    Rules,
    ageing_seconds_per_point=st.sampled_from([6.0, 0.0, 1.0]),
    min_residency_seconds=st.sampled_from([20.0, 0.0]),
    parallel_starts_per_device=st.sampled_from([1, 2]),
)
_budgets = st.lists(st.sampled_from([100, 100, 60]), min_size=1, max_size=3)


class PlannerMachine(RuleBasedStateMachine):
    """Claim: after any history every plan is fair, complete, settled and within budget, and the world drains."""

    world: World

    @initialize(models=_models(), budgets=_budgets, rules=_rules, lease_seconds=st.sampled_from([2.0, 45.0, 2000.0]))
    def build(self, models: list[ModelSpec], budgets: list[int], rules: Rules, lease_seconds: float) -> None:
        self.removed: dict[str, ModelSpec] = {}
        self.world = World(models, budgets, rules)
        self.world.lease_seconds = lease_seconds

    @rule()
    def plan(self) -> None:
        self.world.step()

    @rule(moments=st.integers(1, 6))
    def fair_moments(self, moments: int) -> None:
        """What is due next in a fair world happens: gets the machine into deep states quickly."""
        for _ in range(moments):
            self.world.step()
            self.world.pass_time()

    @rule(data=st.data(), priority=_priorities, count=st.integers(1, 4))
    def submit(self, data: st.DataObject, priority: int, count: int) -> None:
        model_id = self._model(data)
        for _ in range(count):
            self.world.submit(model_id, priority)

    @rule(priority=_priorities)
    def rush(self, priority: int) -> None:
        """Somebody asks for every model at once."""
        for model_id in list(self.world.models):
            self.world.submit(model_id, priority)

    @precondition(lambda self: len(self.world.queue))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.world.cancel(data.draw(st.sampled_from([head.request_id for head in self.world.queue])))

    @precondition(lambda self: len(self.world.queue))
    @rule(data=st.data())
    def all_give_up(self, data: st.DataObject) -> None:
        """Everybody who waits for one model goes away."""
        model_id = data.draw(st.sampled_from(sorted(self.world.queue.demands())))
        while self.world.queue.pop(model_id):
            pass

    @precondition(lambda self: self.world.leases)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.world.finish(data.draw(st.sampled_from(self.world.leases)))

    @rule(seconds=_seconds)
    def advance(self, seconds: float) -> None:
        self.world.now += seconds

    @precondition(lambda self: self.world.in_state(ReplicaState.STARTING))
    @rule(data=st.data(), dispatched=st.booleans())
    def start_succeeds(self, data: st.DataObject, dispatched: bool) -> None:
        self.world.became_ready(self._one(data, ReplicaState.STARTING), dispatched=dispatched)

    @precondition(lambda self: self.world.in_state(ReplicaState.STARTING, ReplicaState.READY))
    @rule(data=st.data(), retry=st.booleans())
    def crash(self, data: st.DataObject, retry: bool) -> None:
        self.world.crash(self._one(data, ReplicaState.STARTING, ReplicaState.READY), retry=retry)

    @precondition(lambda self: self.world.in_state(ReplicaState.STOPPING))
    @rule(data=st.data())
    def stop_is_proved(self, data: st.DataObject) -> None:
        self.world.proved_gone(self._one(data, ReplicaState.STOPPING))

    @precondition(lambda self: self.world.in_state(ReplicaState.READY))
    @rule(data=st.data())
    def falls_sick(self, data: st.DataObject) -> None:
        self.world.sick(self._one(data, ReplicaState.READY))

    @rule(data=st.data(), order=st.sampled_from(_ORDERS))
    def operator_orders(self, data: st.DataObject, order: str) -> None:
        model_id = self._model(data)
        if order == "load":
            self.world.load(model_id)
        elif order == "unload":
            self.world.unload(model_id)
        else:
            self.world.pin(model_id, pinned={"pin": True, "unpin": False, "unset_pin": None}[order])

    @precondition(lambda self: any(r.cordoned for r in self.world.in_state(ReplicaState.READY)))
    @rule(data=st.data())
    def operator_pins_what_drains(self, data: st.DataObject) -> None:
        draining = [r.model_id for r in self.world.in_state(ReplicaState.READY) if r.cordoned]
        self.world.pin(data.draw(st.sampled_from(draining)), pinned=True)

    @rule(data=st.data())
    def config_changes(self, data: st.DataObject) -> None:
        """One model leaves the config, or comes back."""
        model_id = data.draw(st.sampled_from(sorted({**self.world.models, **self.removed})))
        if model_id in self.removed:
            self.world.models[model_id] = self.removed.pop(model_id)
        elif len(self.world.models) > 1:
            self.removed[model_id] = self.world.models.pop(model_id)

    @invariant()
    def books_balance(self) -> None:
        """Leases never exceed slots and stand on replicas that hold memory."""
        if not hasattr(self, "world"):
            return
        for lease in self.world.leases:
            replica = self.world.replicas[lease.replica_id]
            assert replica.holds_memory
            assert self.world.snapshot().leases[replica.replica_id] <= 3

    def teardown(self) -> None:
        """Everything that can fit is served in the end, when the world is fair."""
        if hasattr(self, "world"):
            drain(self.world)

    def _one(self, data: st.DataObject, *states: ReplicaState) -> str:
        return data.draw(st.sampled_from([r.replica_id for r in self.world.in_state(*states)]))

    def _model(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.world.models)))


def drain(world: World) -> None:
    """Run fairly until nothing can happen; whoever still waits must not fit beside the pinned."""
    world.run(max_steps=100 + 20 * (len(world.queue) + len(world.leases) + len(world.models)))
    for model_id in world.queue.demands():
        spec = world.models.get(model_id)
        if spec is None:
            continue
        for device in world.devices.values():
            pinned = sum(
                r.reserved_mib
                for r in world.replicas.values()
                if r.holds_memory and r.device_id == device.device_id and world.pinned(r.model_id)
            )
            assert device.budget_mib - pinned < spec.vram_mib, f"{model_id} fits on {device} and was never served"


TestPlannerMachine = PlannerMachine.TestCase
# A run is cheap, and rare combinations are what it is for.
TestPlannerMachine.settings = settings(max_examples=5 * settings().max_examples)
