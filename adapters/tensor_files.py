"""Reads the headers of safetensors files, and says what their tensors take in memory. Tensors are never read."""

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MIB = 1024 * 1024

# Tensors of these types are converted to the width that the engine computes in; others (quantised, integer) are not.
_CONVERTED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


class TensorSizes(NamedTuple):
    """`values` floating-point values take the engine's width each, `fixed_bytes` stay as stored."""

    values: int
    fixed_bytes: int


def tensor_sizes(path: Path) -> TensorSizes:
    """What one file holds. Raises OSError, and ValueError, KeyError or TypeError where it is not whole and valid."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if not 0 < length <= _MAX_HEADER_BYTES:
            raise ValueError(f"{path.name} is not a safetensors file")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("not a JSON object")
    stored_bytes = path.stat().st_size - 8 - length
    sizes, end = _sum_tensors(tensor for name, tensor in header.items() if name != "__metadata__")
    if end > stored_bytes:
        raise ValueError(f"{path.name} is cut short: {end - stored_bytes} bytes are missing")
    return sizes


def _sum_tensors(tensors: Iterable[object]) -> tuple[TensorSizes, int]:
    """The sum, and where the last tensor ends."""
    values = fixed_bytes = last_end = 0
    for tensor in tensors:
        if not isinstance(tensor, dict):
            raise TypeError("a tensor's header is not an object")
        begin, end = tensor["data_offsets"]
        last_end = max(last_end, end)
        width_bytes = _CONVERTED_BYTES.get(tensor["dtype"])
        if width_bytes is None:
            fixed_bytes += end - begin
        else:
            values += (end - begin) // width_bytes
    return TensorSizes(values, fixed_bytes), last_end
