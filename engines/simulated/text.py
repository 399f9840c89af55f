"""Deterministic words and numbers: what a prompt is answered with, and how text counts as tokens.

Every token of an answer carries a mark of its prompt, so that a client notices a single stray one.
"""

from __future__ import annotations

import base64
import hashlib
import struct

_BYTES_PER_TOKEN = 3
_SHIFT = 8 * _BYTES_PER_TOKEN


class Answer:
    """The endless answer to one prompt: a digest of it, its last word, then numbered tokens."""

    __slots__ = ("_first", "_mark")

    def __init__(self, prompt: str) -> None:
        digest = hashlib.sha256(prompt.encode()).hexdigest()[:12]
        words = prompt.split()
        marker = words[-1][:64] if words else ""
        self._mark = f"-{digest[:6]}"
        self._first = f"{digest} {marker} tok0{self._mark}"

    def token(self, index: int) -> str:
        """The text of one token, from 0."""
        return f" tok{index}{self._mark}" if index else self._first

    def text(self, tokens: int) -> str:
        """The first so many tokens."""
        return "".join(map(self.token, range(tokens)))


def expected_answer(prompt: str, tokens: int) -> str:
    """What a simulated engine answers to `prompt` (the last user message) with that many tokens."""
    return Answer(prompt).text(tokens)


def count_tokens(text: str) -> int:
    """How many tokens `tokenize` makes of it; at least one, as a model's start token would be."""
    return max(1, -(-len(text.encode()) // _BYTES_PER_TOKEN))


def tokenize(text: str) -> list[int]:
    """Up to three UTF-8 bytes to a token, reversible."""
    raw = text.encode()
    parts = [raw[n : n + _BYTES_PER_TOKEN] for n in range(0, len(raw), _BYTES_PER_TOKEN)]
    return [(len(part) << _SHIFT) | int.from_bytes(part, "big") for part in parts]


def detokenize(tokens: list[int]) -> str:
    """The reverse of `tokenize`. Raises `ValueError` for a number that is no token."""
    parts = []
    for token in tokens:
        size = token >> _SHIFT
        if not 1 <= size <= _BYTES_PER_TOKEN:
            raise ValueError(f"{token} is not in the vocabulary")
        parts.append((token & ((1 << _SHIFT) - 1)).to_bytes(_BYTES_PER_TOKEN, "big")[-size:])
    return b"".join(parts).decode(errors="replace")


def embedding(text: str, dimensions: int) -> list[float]:
    """A unit vector that depends on the text alone, in values that a 32-bit float holds exactly."""
    raw = hashlib.shake_256(text.encode()).digest(2 * dimensions)
    values = [number - 32768 for number in struct.unpack(f"<{dimensions}H", raw)]
    length = sum(value * value for value in values) ** 0.5 or 1.0
    return list(struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *(value / length for value in values))))


def embedding_base64(values: list[float]) -> str:
    """The form that the OpenAI SDK asks for: little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
