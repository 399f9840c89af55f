"""What is judged of the GPUs: driver, NVML, the cards, and the spill of their memory under Windows."""

from collections.abc import Iterator

from controlplane.doctor.facts import CardFacts, HostFacts
from controlplane.doctor.finding import Finding, good, note, problem, warning

_LEAST_DRIVER = 525
_LEAST_WSL_MARGIN_MIB = 1024


def _driver(facts: HostFacts) -> Iterator[Finding]:
    gpu = facts.gpu
    if gpu.problem:
        yield from _no_gpu(facts)
        return
    words = f"NVIDIA driver {gpu.driver}, CUDA {gpu.cuda}"
    major = int(gpu.driver.partition(".")[0] or 0) if gpu.driver[:1].isdecimal() else 0
    if major < _LEAST_DRIVER:
        yield warning("gpu driver", words, f"update it to {_LEAST_DRIVER} or newer; current engines need CUDA 12")
    else:
        yield good("gpu driver", words)


def _no_gpu(facts: HostFacts) -> Iterator[Finding]:
    if not facts.wants_gpu and not facts.gpu.device_files:
        yield good("gpu driver", "no NVIDIA GPU; models run in main memory")
    elif facts.container:
        yield problem(
            "gpu driver",
            f"{facts.gpu.problem} in this container",
            "give the container of the service the GPUs, for it measures their memory: `--gpus all`, or"
            " deploy.resources.reservations.devices in compose, with NVIDIA_DRIVER_CAPABILITIES=utility",
        )
    elif facts.wsl is not None:
        there = "is there" if facts.wsl.driver_library else "is not there"
        yield problem(
            "gpu driver",
            f"{facts.gpu.problem}; Windows' /usr/lib/wsl/lib/libnvidia-ml.so.1 {there}",
            "install the NVIDIA driver in Windows, never one inside WSL; then `wsl --update` and `wsl --shutdown`",
        )
    else:
        yield problem(
            "gpu driver",
            facts.gpu.problem,
            "install the NVIDIA driver of your distribution; `nvidia-smi` must list the card",
        )


def _own_driver(facts: HostFacts) -> Iterator[Finding]:
    if facts.wsl is not None and facts.wsl.own_drivers and not facts.container:
        yield problem(
            "linux driver",
            f"{', '.join(facts.wsl.own_drivers)} hides the driver that Windows gives",
            "remove the NVIDIA driver packages inside WSL (`apt-get purge 'libnvidia-*' 'nvidia-driver-*'`);"
            " the toolkit for containers may stay",
        )


def _cards(facts: HostFacts) -> Iterator[Finding]:
    for index, card in enumerate(facts.gpu.cards):
        yield _memory(f"gpu{index} memory", card)
        if not card.shareable:
            yield problem(
                f"gpu{index} sharing",
                "its compute mode lets one process at a time use it, so only one engine could start",
                f"`nvidia-smi -i {index} -c DEFAULT`",
            )
        if card.split:
            yield warning(
                f"gpu{index} sharing",
                "it is cut into MIG instances; the service sees and books whole cards only",
                f"name the part that engines may take in devices.budgets_mib, or `nvidia-smi -i {index} -mig 0`",
            )


def _memory(subject: str, card: CardFacts) -> Finding:
    seen = f"{card.name}: {card.total_mib} MiB, {card.used_mib} MiB in use"
    if card.used_mib * 4 > card.total_mib:
        return warning(
            subject,
            seen,
            "if these are not the service's own models: close what holds it, or lower devices.budgets_mib so that"
            " models do not count on it",
        )
    return good(subject, seen)


def _spill(facts: HostFacts) -> Iterator[Finding]:
    if facts.wsl is None or not facts.gpu.cards:
        return
    if facts.margin_mib < _LEAST_WSL_MARGIN_MIB:
        yield warning(
            "gpu margin",
            f"devices.margin_mib is {facts.margin_mib}; Windows takes and moves about as much as 1 GiB of its own",
            f"set it to {_LEAST_WSL_MARGIN_MIB} or more, or name devices.budgets_mib",
        )
    yield note(
        "spill to main memory",
        "Windows may move GPU memory to main memory instead of failing, which makes everything slow without a word;"
        " whether it does cannot be seen from here",
        "in the NVIDIA control panel set 'CUDA - Sysmem Fallback Policy' to 'Prefer No Sysmem Fallback'",
    )


GPU_LOOKS = (_driver, _own_driver, _cards, _spill)
