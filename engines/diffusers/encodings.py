"""Remembers what prompts were encoded to, least recently used out first. Sits before a pipeline's `encode_prompt`."""

import inspect
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch


class Encodings:
    """At most `most` results, by pipeline class and arguments. For one thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[Hashable, Any] = OrderedDict()
        self.hits_total = 0

    def before(self, pipeline: Any) -> Any:
        """`pipeline.encode_prompt`, answered from memory where its arguments came before."""
        encode = type(pipeline).encode_prompt
        signature = inspect.signature(encode)

        def remembered(*positional: Any, **named: Any) -> Any:
            given = signature.bind(pipeline, *positional, **named)
            given.apply_defaults()
            key = _key(type(pipeline).__name__, dict(given.arguments))
            return self._answer(key, lambda: encode(pipeline, *positional, **named))

        return remembered

    def clear(self) -> None:
        self._known.clear()

    def _answer(self, key: Hashable, encode: Any) -> Any:
        if key is None or self._most == 0:
            return encode()
        if key in self._known:
            self._known.move_to_end(key)
            self.hits_total += 1
            return self._known[key]
        result = self._known[key] = encode()
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return result


def _key(pipeline: str, arguments: dict[str, Any]) -> Hashable:
    """None where an argument is a tensor: those are encodings already."""
    arguments.pop("self", None)
    if any(isinstance(value, torch.Tensor) for value in arguments.values()):
        return None
    # A torch.device prints as its name, a list of prompts as their text.
    return (pipeline, *((name, repr(value)) for name, value in arguments.items()))
