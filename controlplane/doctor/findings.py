"""The doctor's judgement as a whole: from facts to findings, in the order in which they are best read. Pure."""

from collections.abc import Callable, Iterator

from controlplane.doctor.about_docker import DOCKER_LOOKS
from controlplane.doctor.about_gpu import GPU_LOOKS
from controlplane.doctor.about_host import HOST_LOOKS
from controlplane.doctor.about_memory import MEMORY_LOOKS
from controlplane.doctor.about_wsl import WSL_LOOKS
from controlplane.doctor.facts import HostFacts
from controlplane.doctor.finding import Finding

Look = Callable[[HostFacts], Iterator[Finding]]
_LOOKS: tuple[Look, ...] = (*WSL_LOOKS, *GPU_LOOKS, *MEMORY_LOOKS, *DOCKER_LOOKS, *HOST_LOOKS)


def examine(facts: HostFacts) -> list[Finding]:
    """Every finding, one or more for each thing looked at, as far as it applies to this host."""
    return [finding for look in _LOOKS for finding in look(facts)]
