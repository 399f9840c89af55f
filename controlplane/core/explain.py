"""Why something waits, as one sentence with its numbers; the same for API, CLI and page.

Turns a wait reason into words. The reason itself is the planner's.
"""

from dataclasses import dataclass

from controlplane.core.batching import BatchRules, Mode
from controlplane.core.plan import Blocker, Wait, WaitKind


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a waiting request or model stands. `position` None: asked about the model as such.

    `slots` and `busy` count rows, which are requests unless the engine batches by rows.
    """

    now: float
    slots: int
    busy: int
    waiting: int
    position: int | None = None
    eta_seconds: float | None = None
    batching: BatchRules | None = None


def sentence(wait: Wait, standing: Standing) -> str:
    """One sentence without the ETA, starting in lower case so that callers can put a subject in front."""
    return _WORDS[wait.kind](wait, standing)


def waiting_sentence(wait: Wait, standing: Standing) -> str:
    """The whole line a waiting caller sees: place, reason, expectation."""
    place = f"position {standing.position} of {standing.waiting}: " if standing.position else ""
    return place + sentence(wait, standing) + _expectation(standing)


def _expectation(standing: Standing) -> str:
    return f"; about {_seconds(standing.eta_seconds)} to go" if standing.eta_seconds is not None else ""


def _slot(wait: Wait, standing: Standing) -> str:
    ahead = (standing.position or 1) - 1
    behind = f", {ahead} ahead in line" if ahead else ", first in line"
    mode = standing.batching.mode if standing.batching is not None else Mode.CONTINUOUS
    return _SLOT_WORDS[mode](wait, standing) + behind


def _all_busy(wait: Wait, standing: Standing) -> str:
    return f"all slots of {wait.replica_id} are busy ({standing.busy} of {standing.slots})"


def _batch_full(wait: Wait, standing: Standing) -> str:
    rows = standing.batching.batch_rows if standing.batching is not None else standing.slots
    full = f"the batch of {rows} on {wait.replica_id} is full ({standing.busy} at the engine)"
    return f"{full}; it joins at the next free row"


def _call(wait: Wait, standing: Standing) -> str:
    if standing.busy or standing.batching is None:
        return f"{wait.replica_id} computes a batch of {standing.busy}; the next one starts when it ends"
    linger = standing.batching.linger_seconds
    return f"{wait.replica_id} waits up to {linger:g} s for others of the same size and settings"


def _loading(wait: Wait, _: Standing) -> str:
    phase = f" ({wait.detail})" if wait.detail else ""
    return f"{wait.replica_id} is starting on {wait.device_id}{phase}"


def _start_turn(wait: Wait, _: Standing) -> str:
    others = _names(wait.others) or "another replica"
    return f"starts on {wait.device_id} are done one at a time, and {others} is starting"


def _making_room(wait: Wait, _: Standing) -> str:
    return (
        f"room is being made on {wait.device_id}: {wait.need_mib} MiB needed, {wait.free_mib} MiB free, "
        f"{_names(wait.others)} leaving"
    )


def _yielding(wait: Wait, _: Standing) -> str:
    return f"{wait.replica_id} finishes its work and leaves its room to {_names(wait.others)}, which was first in line"


def _stopping(wait: Wait, _: Standing) -> str:
    return f"{wait.replica_id} is stopping; it starts again once its memory is proved free"


def _backing_off(wait: Wait, standing: Standing) -> str:
    pause = _seconds(max(0.0, (wait.until or standing.now) - standing.now))
    return f"{wait.replica_id} failed ({wait.detail}); next try in {pause}"


def _no_room(wait: Wait, standing: Standing) -> str:
    where = f" on {wait.device_id}" if wait.device_id else ""
    kept = ", ".join(_blocker(b, standing.now) for b in wait.blockers)
    return f"no room{where}: {wait.need_mib} MiB needed, {wait.free_mib} MiB free" + (
        f"; kept by {kept}" if kept else ""
    )


def _blocker(blocker: Blocker, now: float) -> str:
    until = f" for {_seconds(blocker.until - now)} more" if blocker.until is not None and blocker.until > now else ""
    return f"{blocker.replica_id} ({blocker.why}{until}, {blocker.mib} MiB)"


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


_SLOT_WORDS = {Mode.CONTINUOUS: _all_busy, Mode.STEPS: _batch_full, Mode.CALLS: _call}
_WORDS = {
    WaitKind.SLOT: _slot,
    WaitKind.LOADING: _loading,
    WaitKind.START_TURN: _start_turn,
    WaitKind.MAKING_ROOM: _making_room,
    WaitKind.YIELDING: _yielding,
    WaitKind.STOPPING: _stopping,
    WaitKind.BACKING_OFF: _backing_off,
    WaitKind.NO_ROOM: _no_room,
}
