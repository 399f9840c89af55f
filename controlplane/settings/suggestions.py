"""Did-you-mean for words that must come from a known set."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """The known word closest to `word`, or None when none is close."""
    folded = {name.casefold().replace("-", "_"): name for name in known}
    close = difflib.get_close_matches(word.casefold().replace("-", "_"), folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def listed(known: Iterable[str]) -> str:
    """Known words as they stand in a sentence."""
    return ", ".join(f'"{name}"' for name in sorted(known))
