"""Turns whatever one step raised into a value: what kind of failure, in one sentence.

The value holds no traceback: its frames would keep the tensors alive that did not fit.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from engines.diffusers.jobs import Failed, FailureKind

T = TypeVar("T")
_log = logging.getLogger(__name__)

# What PyTorch's CPU allocator and cuDNN say; they raise a plain RuntimeError.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "cudnn_status_alloc_failed")


class InvalidJob(Exception):
    """The job asks for something that this pipeline cannot do; `param`: the field at fault, where known."""

    def __init__(self, message: str, param: str | None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Fault:
    kind: FailureKind
    message: str
    param: str | None = None

    def failed(self) -> Failed:
        return Failed(self.kind, self.message, self.param)


def attempt(action: Callable[[], T]) -> T | Fault:
    """What the action returns, or why it failed. The one place of the worker where every error is met."""
    try:
        return action()
    except InvalidJob as error:
        return Fault(FailureKind.INVALID, str(error), error.param)
    except torch.AcceleratorError:
        # The device is of no more use to this process: let the thread end, so that the engine is replaced.
        raise
    except Exception as error:  # noqa: BLE001 the one place around one step
        if is_out_of_memory(error):
            return Fault(FailureKind.OUT_OF_MEMORY, _one_line(error))
        _log.exception("a step failed")
        return Fault(FailureKind.INTERNAL, f"{type(error).__name__}: {_one_line(error)}")


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
