"""How a parameter is refused: by its name, with a remedy."""

import difflib
from collections.abc import Iterable


class ParameterRefused(Exception):
    """A call cannot be answered as asked. `field` is its path there: `operation`, `parameters.width`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """A sentence that says which word was meant, or which there are."""
    names = list(known)
    near = difflib.get_close_matches(word.casefold().replace("-", "_"), names, n=1, cutoff=0.6)
    remedy = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(names)}" if names else "it takes none"
    return f'unknown {what} "{word[:80]}"; {remedy}'
