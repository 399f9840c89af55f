"""Where the weights are: sleep frees the device's memory, wake brings the same weights back into the same modules.

On CUDA they wait in host memory. On a CPU they are in host memory already, so sleep drops them and wake reads them from
disk again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from engines.diffusers.memory import Memory


class Residence(Protocol):
    def sleep(self) -> None: ...

    def wake(self) -> None: ...


@dataclass(frozen=True, slots=True)
class HostMemoryHeld:
    """Weights of a CUDA pipeline. With offload they are in host memory between calls anyway."""

    modules: tuple[torch.nn.Module, ...]
    offloaded: bool
    memory: Memory

    def sleep(self) -> None:
        if not self.offloaded:
            for module in self.modules:
                module.to("cpu")
        self.memory.release()

    def wake(self) -> None:
        if not self.offloaded:
            for module in self.modules:
                module.to("cuda")


@dataclass(frozen=True, slots=True)
class ReadAgain:
    """Weights of a CPU pipeline. `reload` loads the same folder once more and gives its modules in the same order."""

    modules: tuple[torch.nn.Module, ...]
    reload: Callable[[], Iterable[torch.nn.Module]]
    memory: Memory

    def sleep(self) -> None:
        for weight in _weights(self.modules):
            weight.data = weight.data.new_empty(0)
        self.memory.release()

    def wake(self) -> None:
        fresh = tuple(self.reload())
        for weight, read in zip(_weights(self.modules), _weights(fresh), strict=True):
            weight.data = read.data


def _weights(modules: Iterable[torch.nn.Module]) -> list[torch.Tensor]:
    """Parameters only: buffers are small, and some are not in the file."""
    return [weight for module in modules for weight in module.parameters()]
