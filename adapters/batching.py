"""What an image request means for a batch: how many rows it fills, and which others it can share a call with.

Reads the fields of OpenAI's images API and the names that image engines add.
Judges nothing: what is no number or no text is the engine's to refuse.
"""

from collections.abc import Mapping

_MOST_ROWS = 10
_LONGEST = 64
# What a whole call has once for all its rows. Seeds and prompts are a row's own, but all have a negative one or none.
_SHARED = (
    ("size",),
    ("steps", "num_inference_steps"),
    ("guidance", "guidance_scale"),
    ("scheduler",),
    ("strength",),
)


def image_rows(fields: Mapping[str, object]) -> int:
    """One row an image; `n` may be text, as in a form."""
    wanted = fields.get("n")
    if isinstance(wanted, str) and wanted.isascii() and wanted.isdigit() and len(wanted) <= _LONGEST:
        wanted = int(wanted)
    return min(max(1, wanted), _MOST_ROWS) if isinstance(wanted, int) else 1


def image_key(path: str, fields: Mapping[str, object]) -> str:
    """Path, size and sampling, in words short enough to show."""
    negative = "negative" if fields.get("negative_prompt") else "-"
    return " ".join((path, *(_first(fields, names) for names in _SHARED), negative))


def _first(fields: Mapping[str, object], names: tuple[str, ...]) -> str:
    """The value under the first of its names, a number and its text alike."""
    found = next((fields[name] for name in names if fields.get(name) is not None), None)
    if isinstance(found, float):
        return f"{found:g}"
    return str(found)[:_LONGEST] if isinstance(found, str | int) else "-"
