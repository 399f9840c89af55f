"""Nobody starves: traffic that never ends against models that wait, on a virtual clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from planner_world import EPOCH, Arrival, World, model

from controlplane.core.model import ReplicaState, Rules
from controlplane.core.plan import StopReason

RULES = Rules()
AGEING = RULES.ageing_seconds_per_point
RESIDENCY = RULES.min_residency_seconds
LEASE = 5.0


def _steady(model_id: str, every: float, until: float, *, start: float = 0.0) -> list[Arrival]:
    return [Arrival(EPOCH + start + n * every, model_id) for n in range(int((until - start) / every))]


def _world(*models: object, budget: int = 100) -> World:
    world = World(models, [budget], RULES)  # type: ignore[arg-type]
    world.lease_seconds = LEASE
    return world


def _wait_for_start(world: World, model_id: str, asked: float) -> float:
    return next(at for at, started in world.seen.started if started == model_id) - EPOCH - asked


def _busy_pair(**second: object) -> World:
    """A and B exclude each other; A has a slot to spare, so nobody of A ever queues while it is up."""
    return _world(model("A", 80, max_concurrency=4, **second), model("B", 80))


def test_steady_traffic_does_not_starve_an_equal() -> None:
    """A is never idle; B of the same priority gets its room after A's leases end, once A has had its residency."""
    world = _busy_pair()
    world.run([*_steady("A", 2.0, 300.0), Arrival(EPOCH + 101.0, "B")], until=EPOCH + 300.0)
    assert _wait_for_start(world, "B", 101.0) <= LEASE + world.stop_seconds + 0.1


def test_a_fresh_replica_is_left_alone_for_its_minimum_residency() -> None:
    """B asks right after A came up: A is drained when its residency ends, neither before nor much later."""
    world = _busy_pair()
    world.run([*_steady("A", 2.0, 300.0), Arrival(EPOCH + 11.0, "B")], until=EPOCH + 300.0)
    ready_at = world.seen.ready[0][0] - EPOCH
    waited = _wait_for_start(world, "B", 11.0)
    assert waited >= ready_at + RESIDENCY - 11.0
    assert waited <= ready_at + RESIDENCY - 11.0 + LEASE + world.stop_seconds + 0.1


def test_a_lower_priority_waits_its_ageing_and_no_longer() -> None:
    """A at 100 and never idle against one request of B at 50: B waits fifty points of ageing, then goes first."""
    world = _busy_pair(priority=100)
    traffic = [Arrival(a.at, "A", 100) for a in _steady("A", 2.0, 600.0)]
    world.run([*traffic, Arrival(EPOCH + 100.0, "B", 50)], until=EPOCH + 600.0)
    waited = _wait_for_start(world, "B", 100.0)
    assert waited >= 50 * AGEING
    assert waited <= 50 * AGEING + RESIDENCY + LEASE + world.stop_seconds + 0.1


def test_two_overloaded_models_swap_no_faster_than_the_minimum_residency() -> None:
    """Both always have a line: each life of a replica lasts at least its residency, and both are served."""
    world = World([model("A", 80), model("B", 80)], [100], RULES)
    world.lease_seconds = 1.0
    world.run([*_steady("A", 0.5, 600.0), *_steady("B", 0.5, 600.0)], until=EPOCH + 600.0)
    evictions = [(at, model_id) for at, model_id, reason in world.seen.stopped if reason is StopReason.EVICTED]
    for stopped_at, model_id in evictions:
        ready_at = max(at for at, ready in world.seen.ready if ready == model_id and at <= stopped_at)
        assert stopped_at - ready_at >= RESIDENCY
    assert {model_id for _, model_id in evictions} == {"A", "B"}
    assert len(evictions) <= 600.0 / RESIDENCY


def test_the_higher_priority_starts_first() -> None:
    """Of two cold models the more urgent one starts first, whatever the order of arrival and of names."""
    world = World([model("A", 80), model("B", 80)], [100], RULES)
    world.submit("A", 50)
    world.submit("B", 51)
    world.run()
    assert [model_id for _, model_id in world.seen.started] == ["B", "A"]


def test_an_idle_replica_leaves_at_once_whatever_its_priority() -> None:
    """Nobody waits out the residency of a replica that has nothing to do."""
    world = World([model("A", 80, priority=100), model("B", 80)], [100], RULES)
    world.submit("A", 100)
    world.run()
    asked = world.now - EPOCH
    world.submit("B", 0)
    world.run()
    assert _wait_for_start(world, "B", asked) <= world.stop_seconds + 0.1


def test_small_models_do_not_nibble_at_the_room_of_big_ones() -> None:
    """Two models that need nearly the whole device, many small ones that swap all the time: both are served."""
    small = [f"s{n}" for n in range(8)]
    world = _world(model("X", 95), model("Y", 95), *(model(name, 20, max_concurrency=4) for name in small))
    traffic = [a for n, name in enumerate(small) for a in _steady(name, 3.0, 900.0, start=0.37 * n)]
    traffic += [Arrival(EPOCH + 100.0, "X"), Arrival(EPOCH + 100.5, "Y")]
    world.run(traffic, until=EPOCH + 900.0)
    one_swap = 5 * (10.0 + world.stop_seconds) + RESIDENCY + LEASE
    assert _wait_for_start(world, "X", 100.0) <= 2 * one_swap
    assert _wait_for_start(world, "Y", 100.5) <= 4 * one_swap


def test_a_big_model_does_not_idle_the_device_while_others_are_ahead() -> None:
    """Room that a big model cannot use before its turn is used by small ones meanwhile."""
    world = _world(model("A", 60, max_concurrency=4, priority=100), model("X", 95), model("s", 30))
    traffic = [Arrival(a.at, "A", 100) for a in _steady("A", 2.0, 200.0)]
    world.run([*traffic, Arrival(EPOCH + 50.0, "X", 0), Arrival(EPOCH + 60.0, "s", 0)], until=EPOCH + 200.0)
    assert _wait_for_start(world, "s", 60.0) <= 1.0


def test_a_replica_that_died_while_serving_comes_back_unasked() -> None:
    """Nobody waits for it, yet it starts again after its back-off."""
    world = World([model("A", 80)], [100], RULES)
    world.submit("A")
    world.run()
    world.crash("a-559aea-0", retry=False)
    world.run()
    assert [r.state for r in world.replicas.values()] == [ReplicaState.READY]
    assert len(world.seen.started) == 2


@st.composite
def _crowds(draw: st.DrawFn) -> tuple[World, list[Arrival], list[Arrival]]:
    """A few models, background traffic that does not end within the horizon, and a handful of victims."""
    names = "ABCDE"[: draw(st.integers(2, 5))]
    sizes = st.sampled_from([20, 40, 60, 90])
    slots = st.sampled_from([4, 8])
    models = [model(name, draw(sizes), max_concurrency=draw(slots), priority=draw(_POINTS)) for name in names]
    world = World(models, draw(st.sampled_from([[100], [100, 60]])), RULES)
    world.lease_seconds = draw(st.sampled_from([0.5, 3.0, 6.0]))
    noisy = draw(st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True))
    noise = [
        Arrival(EPOCH + t, name, draw(_POINTS))
        for name in noisy
        for t in range(draw(st.integers(0, 40)), _HORIZON, draw(st.sampled_from([4, 9, 25])))
    ]
    victims = [
        Arrival(EPOCH + draw(st.integers(0, 200)), draw(st.sampled_from(names)), draw(_POINTS))
        for _ in range(draw(st.integers(1, 3)))
    ]
    return world, noise, victims


_POINTS = st.sampled_from([40, 50, 60])
_HORIZON = 1200


@given(_crowds())
def test_nobody_waits_for_ever_in_a_crowd(crowd: tuple[World, list[Arrival], list[Arrival]]) -> None:
    """Whoever asks early is served long before the traffic ends, whatever sizes, priorities and rates are around it."""
    world, noise, victims = crowd
    fits = max(device.budget_mib for device in world.devices.values())
    world.run([*noise, *victims], until=EPOCH + _HORIZON)
    late = [h for h in world.queue if h.enqueued_at < EPOCH + 300 and world.models[h.model_id].vram_mib <= fits]
    assert not late, f"still waiting at the end: {late}; served {world.seen}"
