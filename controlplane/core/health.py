"""Whether a ready replica still works, judged from one look after another.

An engine can answer its health check while nothing moves, so a replica with
work is only healthy while its counters rise. Pure; asking is the observer's.
"""

from dataclasses import dataclass, replace

_STRIKES = 3


@dataclass(frozen=True, slots=True)
class Look:
    """One look. `progressed` None: the engine does not tell."""

    ready: bool
    working: bool
    progressed: float | None


@dataclass(frozen=True, slots=True)
class Pulse:
    """What is remembered between looks; times in the loop's seconds."""

    moved_at: float
    strikes: int = 0
    progressed: float | None = None
    verdict: str = ""


def feel(pulse: Pulse, look: Look, now: float, stall_seconds: float) -> Pulse:
    """The pulse after a look; a non-empty `verdict` says what is wrong."""
    if not look.ready:
        strikes = pulse.strikes + 1
        return replace(pulse, strikes=strikes, verdict="it does not answer" if strikes >= _STRIKES else "")
    moved = not look.working or look.progressed is None or look.progressed != pulse.progressed
    moved_at = now if moved else pulse.moved_at
    stalled = now - moved_at >= stall_seconds
    verdict = f"it answers, but nothing has moved for {now - moved_at:.0f} s" if stalled else ""
    return Pulse(moved_at=moved_at, progressed=look.progressed, verdict=verdict)
