"""Moves of a replica: which are allowed, what each keeps and what it forgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from controlplane.core import lifecycle
from controlplane.core.lifecycle import Backoff, IllegalMoveError
from controlplane.core.model import Replica, ReplicaState

S = ReplicaState
NOW = 5_000.0
BACKOFF = Backoff(initial_seconds=2.0, max_seconds=300.0, stable_seconds=60.0)


def row(state: ReplicaState, **more: object) -> Replica:
    base = Replica("a-0", "a", generation=3, state=state, device_id="d0", reserved_mib=80, changed_at=NOW - 10.0)
    return replace(base, **more)  # type: ignore[arg-type]


def _start(replica: Replica) -> Replica:
    return lifecycle.starting(replica, row(S.STARTING, device_id="d1", reserved_mib=60), NOW)


MOVES: dict[str, tuple[Callable[[Replica], Replica], dict[ReplicaState, ReplicaState]]] = {
    "starting": (_start, {S.STOPPED: S.STARTING, S.FAILED: S.STARTING}),
    "ready": (lambda r: lifecycle.ready(r, NOW), {S.STARTING: S.READY, S.ASLEEP: S.READY}),
    "stopping": (
        lambda r: lifecycle.stopping(r, NOW),
        {S.STARTING: S.STOPPING, S.READY: S.STOPPING, S.ASLEEP: S.STOPPING},
    ),
    "crashed": (
        lambda r: lifecycle.crashed(r, "boom", NOW, BACKOFF),
        {S.STARTING: S.STOPPING, S.READY: S.STOPPING, S.ASLEEP: S.STOPPING, S.STOPPING: S.STOPPING},
    ),
    "gone": (lambda r: lifecycle.gone(r, NOW), {S.STOPPING: S.STOPPED}),
}


@pytest.mark.parametrize("state", list(S))
@pytest.mark.parametrize("name", list(MOVES))
def test_every_move_from_every_state(name: str, state: ReplicaState) -> None:
    """A move leads where the table says, and raises, naming the replica and both states, where it says nothing."""
    move, leads_to = MOVES[name]
    if state in leads_to:
        assert move(row(state)).state is leads_to[state]
    else:
        with pytest.raises(IllegalMoveError, match=f"replica a-0: {state.value} cannot become"):
            move(row(state))


def test_a_first_start_is_generation_one() -> None:
    """A replica without an earlier row starts fresh, whatever the fresh row claims."""
    begun = lifecycle.starting(None, row(S.STOPPED, generation=0), NOW)
    assert (begun.generation, begun.state, begun.changed_at, begun.last_used_at) == (1, S.STARTING, NOW, NOW)


def test_a_restart_keeps_the_failures_and_takes_the_new_place() -> None:
    """The next life begins healthy and uncordoned on the new device, but failures still count."""
    before = row(S.FAILED, failures=2, retry_at=NOW - 1.0, cordoned_for="b", healthy=False, phase="loading")
    after = _start(before)
    assert (after.generation, after.failures, after.device_id, after.reserved_mib) == (4, 2, "d1", 60)
    assert (after.cordoned_for, after.healthy, after.phase, after.changed_at) == (None, True, "", NOW)


def test_a_revival_is_owed_until_it_is_ready() -> None:
    """A replica that died while serving comes back even if its first restarts fail too."""
    died = lifecycle.crashed(row(S.READY), "boom", NOW, BACKOFF)
    assert died.revive
    again = lifecycle.crashed(_start(lifecycle.gone(died, NOW)), "boom", NOW, BACKOFF)
    assert again.revive
    assert not lifecycle.ready(_start(lifecycle.gone(again, NOW)), NOW).revive


def test_a_failed_start_is_not_a_revival() -> None:
    """What never served is not brought back unasked; neither is what was told to leave."""
    assert not lifecycle.crashed(row(S.STARTING), "boom", NOW, BACKOFF).revive
    assert not lifecycle.crashed(row(S.READY, cordoned_for="b"), "boom", NOW, BACKOFF).revive
    assert not lifecycle.crashed(row(S.READY, cordoned_for=""), "boom", NOW, BACKOFF).revive


def test_only_a_proof_ends_the_reservation() -> None:
    """Crashed or stopped, the memory stays booked until the processes are proved gone."""
    for left in (lifecycle.crashed(row(S.READY), "boom", NOW, BACKOFF), lifecycle.stopping(row(S.READY), NOW)):
        assert left.reserved_mib == 80
        assert left.holds_memory
        proved = lifecycle.gone(left, NOW)
        assert (proved.reserved_mib, proved.holds_memory) == (0, False)


def test_a_crash_ends_failed_and_a_stop_ends_stopped() -> None:
    """The last state tells whether somebody wanted it; a cordon ends with the life it was put on."""
    crashed = lifecycle.gone(lifecycle.crashed(row(S.READY, cordoned_for="b"), "boom", NOW, BACKOFF), NOW)
    assert (crashed.state, crashed.failure_reason, crashed.cordoned_for) == (S.FAILED, "boom", None)
    stopped = lifecycle.gone(lifecycle.stopping(row(S.READY, failure_reason="earlier"), NOW), NOW)
    assert (stopped.state, stopped.failure_reason) == (S.STOPPED, "")


def test_a_crash_always_has_a_reason() -> None:
    """Without a word from the engine it still ends FAILED."""
    silent = lifecycle.gone(lifecycle.crashed(row(S.READY), "", NOW, BACKOFF), NOW)
    assert silent.state is S.FAILED
    assert silent.failure_reason


def test_dying_while_stopping_is_not_a_failure() -> None:
    """A stop was asked for, so the end of the process proves nothing against it."""
    stopping = lifecycle.stopping(row(S.READY), NOW)
    assert lifecycle.crashed(stopping, "boom", NOW + 1.0, BACKOFF) == stopping


def test_failures_add_up_until_it_was_stable() -> None:
    """Each crash soon after the start doubles the delay; one after long service starts over."""
    soon = lifecycle.crashed(row(S.READY, failures=3), "boom", NOW, BACKOFF)
    assert (soon.failures, soon.retry_at) == (4, NOW + 16.0)
    stable = row(S.READY, failures=3, changed_at=NOW - BACKOFF.stable_seconds)
    assert lifecycle.crashed(stable, "boom", NOW, BACKOFF).failures == 1
    slow_start = row(S.STARTING, failures=3, changed_at=NOW - 10 * BACKOFF.stable_seconds)
    assert lifecycle.crashed(slow_start, "boom", NOW, BACKOFF).failures == 4


def test_a_hopeless_start_exhausts_patience_at_once() -> None:
    """What cannot succeed is not made to fail again and again before callers hear of it."""
    assert lifecycle.crashed(row(S.STARTING), "boom", NOW, BACKOFF, hopeless=True).failures == BACKOFF.patience
    worn = row(S.STARTING, failures=BACKOFF.patience + 4)
    assert lifecycle.crashed(worn, "boom", NOW, BACKOFF, hopeless=True).failures == BACKOFF.patience + 5


def test_a_served_request_clears_the_record() -> None:
    """Earlier failures are forgotten; a clean row is returned as it is."""
    after = lifecycle.proved(row(S.READY, failures=2, retry_at=NOW, failure_reason="boom"))
    assert (after.failures, after.retry_at, after.failure_reason) == (0, 0.0, "")
    clean = row(S.READY)
    assert lifecycle.proved(clean) is clean


def test_cordon_and_health_decide_about_leases_not_the_state() -> None:
    """A cordoned or unhealthy replica stays READY but serves nobody new."""
    ready = row(S.READY)
    assert ready.serves
    assert not lifecycle.cordoned(ready, "b").serves
    assert not lifecycle.cordoned(ready, "").serves
    assert lifecycle.uncordoned(lifecycle.cordoned(ready, "b")) == ready
    sick = lifecycle.unhealthy(ready, "no progress")
    assert (sick.state, sick.serves, sick.failure_reason) == (S.READY, False, "no progress")


def test_the_delay_doubles_up_to_its_limit() -> None:
    """2, 4, 8, ... seconds, never more than the limit, however often it failed."""
    assert [BACKOFF.delay_seconds(n) for n in (1, 2, 3, 4)] == [2.0, 4.0, 8.0, 16.0]
    assert BACKOFF.delay_seconds(9) == BACKOFF.delay_seconds(10_000) == 300.0
