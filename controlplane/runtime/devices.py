"""Chooses which devices the control plane hands out memory of: the GPUs, or else the host's own memory."""

import platform
from typing import Literal

from controlplane.ports import Devices
from controlplane.runtime.devices_host import HostMemory
from controlplane.runtime.devices_nvml import NvmlDevices, NvmlLibrary

DeviceChoice = Literal["auto", "host", "cuda"]


async def detect(choice: DeviceChoice, nvml: NvmlLibrary) -> Devices:
    """`auto` takes the GPUs when there is one now; it does not change its mind later, for budgets name devices."""
    if choice == "host":
        return HostMemory()
    gpus = NvmlDevices(nvml, hides_processes=_is_wsl(platform.release()))
    return gpus if choice == "cuda" or await gpus.read() else HostMemory()


def _is_wsl(kernel_release: str) -> bool:
    """Under WSL2 Windows owns the GPU's processes; NVML lists none of them here."""
    return "microsoft" in kernel_release.lower()
