"""A device's account: each column from its own source, none from another's promise."""

from __future__ import annotations

from controlplane.core.ledger import Books, LedgerLine, Measured, booked_mib, ledger_line
from controlplane.core.model import DeviceBudget, Hold, InferenceType, ModelSpec, Replica, ReplicaState

S = ReplicaState


def _replica(name: str, state: ReplicaState, mib: int, device_id: str = "d0") -> Replica:
    return Replica(f"{name}-0", name, 1, state, device_id, mib, changed_at=0.0)


def _spec(name: str, mib: int) -> ModelSpec:
    return ModelSpec(name, (InferenceType.TEXT2TEXT,), mib, max_concurrency=1)


def _books(*replicas: Replica, holds: tuple[Hold, ...] = ()) -> Books:
    models = {name: _spec(name, mib) for name, mib in (("a", 30), ("b", 25), ("c", 10))}
    return Books(models, {r.replica_id: r for r in replicas}, holds)


def _line(books: Books, budget: int = 100, used: int | None = 70, **measured: int) -> LedgerLine:
    ours = {f"{name}-0": mib for name, mib in measured.items()}
    return ledger_line(DeviceBudget("d0", budget), books, Measured(120, used, ours))


def test_a_reservation_counts_in_every_state_that_may_hold_memory() -> None:
    """Starting, ready, asleep and stopping are booked; stopped and failed are not, whatever their rows say."""
    for state in S:
        books = _books(_replica("a", state, 30))
        held = state in {S.STARTING, S.READY, S.ASLEEP, S.STOPPING}
        assert _line(books).booked_mib == booked_mib(books.replicas, "d0") == (30 if held else 0)


def test_the_columns_come_from_their_own_sources() -> None:
    """Declared from the files, booked from the rows, measured and unattributed from the sensors."""
    books = _books(
        _replica("a", S.READY, 35),
        _replica("b", S.STOPPING, 25),
        holds=(Hold("c", "d0", 10), Hold("c", "d1", 7)),
    )
    line = _line(books, a=33, b=20, stranger=9)
    assert line == LedgerLine(
        device_id="d0",
        total_mib=120,
        budget_mib=100,
        declared_mib=55,
        booked_mib=60,
        held_mib=10,
        measured_mib=53,
        unattributed_mib=17,
        free_mib=40,
    )


def test_another_device_is_another_account() -> None:
    """What lies elsewhere changes nothing here."""
    line = _line(_books(_replica("a", S.READY, 30, "d1")), used=None, a=30)
    assert (line.booked_mib, line.declared_mib, line.measured_mib, line.free_mib) == (0, 0, 0, 100)


def test_a_model_that_left_the_config_is_booked_but_not_declared() -> None:
    """Its replica holds memory until it is gone."""
    line = _line(_books(_replica("gone", S.READY, 30)))
    assert (line.declared_mib, line.booked_mib, line.free_mib) == (0, 30, 70)


def test_free_never_goes_below_nothing() -> None:
    """A budget lowered under running replicas leaves no negative room; the booking stays visible."""
    line = _line(_books(_replica("a", S.READY, 30)), budget=20)
    assert (line.booked_mib, line.free_mib) == (30, 0)


def test_what_nobody_measured_is_unknown_not_zero() -> None:
    """Where the platform does not tell, unattributed is None; where ours exceed the total, it is nothing."""
    books = _books(_replica("a", S.READY, 30))
    assert _line(books, used=None, a=30).unattributed_mib is None
    assert _line(books, used=20, a=30).unattributed_mib == 0
