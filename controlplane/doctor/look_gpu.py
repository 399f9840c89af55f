"""Asks NVML about the GPUs; a question that one driver does not answer is left out, not a failure. Judges nothing."""

from pathlib import Path
from typing import Any

from controlplane.doctor.facts import CardFacts, GpuFacts

_MIB = 1024 * 1024
_DEVICE_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
_SHARED_COMPUTE_MODE = 0
_MIG_ENABLED = 1


def look_at_gpus(nvml: Any) -> GpuFacts:
    """`nvml` is the module pynvml."""
    files = tuple(path for path in _DEVICE_FILES if Path(path).exists())
    try:
        nvml.nvmlInit()
        cards = tuple(_card(nvml, nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(nvml.nvmlDeviceGetCount()))
        cuda = nvml.nvmlSystemGetCudaDriverVersion()
        return GpuFacts(
            driver=_text(nvml.nvmlSystemGetDriverVersion()),
            cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
            cards=cards,
            problem="" if cards else "the driver answers, but there is no card",
            device_files=files,
        )
    except nvml.NVMLError as exc:
        return GpuFacts(problem=str(exc), device_files=files)


def _card(nvml: Any, handle: Any) -> CardFacts:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return CardFacts(
        name=_text(nvml.nvmlDeviceGetName(handle)),
        total_mib=int(memory.total) // _MIB,
        used_mib=int(memory.used) // _MIB,
        shareable=_asked(nvml, nvml.nvmlDeviceGetComputeMode, handle) in (None, _SHARED_COMPUTE_MODE),
        split=(_asked(nvml, nvml.nvmlDeviceGetMigMode, handle) or [0])[0] == _MIG_ENABLED,
    )


def _asked(nvml: Any, question: Any, handle: Any) -> Any:
    """The answer, or None where the card or the platform has none."""
    try:
        return question(handle)
    except nvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
