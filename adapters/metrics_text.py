"""Reads named samples out of Prometheus text, as engines print it at /metrics.

Reads only what is asked for and passes over the rest, broken lines included. No types, buckets or timestamps.
"""

import math
from collections.abc import Collection


def read_samples(text: bytes, names: Collection[bytes]) -> dict[bytes, float]:
    """The samples called `names`, each summed over its label sets; a name that is not there is not in the result."""
    found: dict[bytes, float] = {}
    for line in text.splitlines():
        name = line.split(b"{", 1)[0].split(b" ", 1)[0]
        if name in names:
            value = _value(line)
            if value is not None:
                found[name] = found.get(name, 0.0) + value
    return found


def _value(line: bytes) -> float | None:
    # A label's value may hold spaces and braces, but what follows the labels never does.
    fields = line[line.rfind(b"}") + 1 :].split() if b"{" in line else line.split()[1:]
    try:
        value = float(fields[0])
    except (IndexError, ValueError):
        return None
    return value if math.isfinite(value) else None
