"""One finding of the doctor's, and how much it matters."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much it matters: it works; it cannot be seen from here; it works, with a surprise; it will not work."""

    GOOD = "good"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at, what was seen, and what to do about it; `remedy` is empty when it is good."""

    subject: str
    level: Level
    seen: str
    remedy: str = ""


def good(subject: str, seen: str) -> Finding:
    return Finding(subject, Level.GOOD, seen)


def note(subject: str, seen: str, remedy: str) -> Finding:
    return Finding(subject, Level.NOTE, seen, remedy)


def warning(subject: str, seen: str, remedy: str) -> Finding:
    return Finding(subject, Level.WARNING, seen, remedy)


def problem(subject: str, seen: str, remedy: str) -> Finding:
    return Finding(subject, Level.PROBLEM, seen, remedy)
