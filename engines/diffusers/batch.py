"""One call of the denoiser for many jobs. When it does not fit into memory it is made again in halves.

A row that fails alone fails alone: every answer is the denoiser's or a Fault.
"""

from collections.abc import Callable, Sequence
from typing import Any

from engines.diffusers.families.rows import RowFamily
from engines.diffusers.faults import Fault, attempt
from engines.diffusers.jobs import FailureKind
from engines.diffusers.session import DenoiserCall

Denoise = Callable[[DenoiserCall], Any]


def denoise_together(
    family: RowFamily, denoise: Denoise, calls: Sequence[DenoiserCall], did_not_fit: Callable[[int], None]
) -> list[Any | Fault]:
    """One answer per call, in order. `did_not_fit` hears how many calls were too many for the memory."""
    answer = attempt(lambda: _joined(family, denoise, calls))
    if not isinstance(answer, Fault):
        return answer
    if answer.kind is FailureKind.OUT_OF_MEMORY:
        did_not_fit(len(calls))
    if len(calls) == 1:
        return [answer]
    # Out of memory: halves need less. Any other error: someone's row is bad, and halving finds whose.
    middle = len(calls) // 2
    first = denoise_together(family, denoise, calls[:middle], did_not_fit)
    return first + denoise_together(family, denoise, calls[middle:], did_not_fit)


def _joined(family: RowFamily, denoise: Denoise, calls: Sequence[DenoiserCall]) -> list[Any]:
    rows = [family.rows(call) for call in calls]
    return family.split(denoise(family.join(calls)), rows)
