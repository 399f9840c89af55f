"""Remembers what prompts were encoded to, least recently used out first. Sits before a pipeline's `encode_prompt`.

Kept in host memory: a few hundred prompts of a large text encoder are a gigabyte, which the device has better uses for.
"""

import inspect
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

MOST_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Kept:
    value: Any
    device: torch.device
    size: int


class Encodings:
    """At most `most` results and `most_bytes`, by pipeline class and arguments. For one thread."""

    def __init__(self, most: int, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._bytes = 0
        self.hits_total = 0

    def before(self, pipeline: Any) -> Any:
        """`pipeline.encode_prompt`, answered from memory where its arguments came before."""
        encode = type(pipeline).encode_prompt
        signature = inspect.signature(encode)

        def remembered(*positional: Any, **named: Any) -> Any:
            given = signature.bind(pipeline, *positional, **named)
            given.apply_defaults()
            key = _key(type(pipeline).__name__, dict(given.arguments))
            known = self._kept.get(key)
            if known is None:
                return self._keep(key, encode(pipeline, *positional, **named))
            self._kept.move_to_end(key)
            self.hits_total += 1
            return _on(known.device, known.value)

        return remembered

    def _keep(self, key: Hashable, value: Any) -> Any:
        tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
        if key is None or not tensors:
            return value
        kept = _Kept(_on(torch.device("cpu"), value), tensors[0].device, sum(tensor.nbytes for tensor in tensors))
        self._kept[key] = kept
        self._bytes += kept.size
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].size
        return value


def _on(device: torch.device, value: Any) -> Any:
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf, value)


def _key(pipeline: str, arguments: dict[str, Any]) -> Hashable:
    """None where an argument is a tensor: those are encodings already."""
    arguments.pop("self", None)
    if any(isinstance(value, torch.Tensor) for value in arguments.values()):
        return None
    # A torch.device prints as its name, a list of prompts as their text.
    return (pipeline, *((name, repr(value)) for name, value in arguments.items()))
