"""What is judged of main memory: how much there is for the service, what may be pinned, and what is shared."""

from collections.abc import Iterator

from controlplane.doctor.facts import HostFacts
from controlplane.doctor.finding import Finding, good, note, warning

_LEAST_SHM_MIB = 512
_WSL_GIVES = "WSL gets half of the machine unless told"


def _memory(facts: HostFacts) -> Iterator[Finding]:
    seen = f"{facts.memory_mib} MiB, {facts.available_mib} MiB available, {facts.swap_mib} MiB swap"
    largest = f"the largest model takes {facts.largest_model_mib} MiB"
    if facts.own_memory_mib < min(facts.memory_mib, facts.largest_model_mib) and facts.docker is None:
        yield warning(
            "main memory",
            f"{seen}, but the service and its engines may take {facts.own_memory_mib} MiB of it; {largest}",
            "raise the limit: MemoryMax in the unit, `--memory` or mem_limit of the container",
        )
    elif facts.wsl is not None and facts.memory_mib < 2 * facts.largest_model_mib:
        yield warning(
            "main memory", f"{seen}; {largest}, and loading or sleeping needs as much here; {_given(facts)}", _raise()
        )
    elif facts.memory_mib < facts.largest_model_mib:
        yield warning(
            "main memory",
            f"{seen}; {largest}",
            "loading reads weights through main memory; choose a smaller model or add memory",
        )
    else:
        yield good("main memory", seen)


def _given(facts: HostFacts) -> str:
    told = (facts.wsl.settings or {}).get("memory") if facts.wsl is not None else None
    return f".wslconfig says memory={told}" if told else _WSL_GIVES


def _raise() -> str:
    return "raise memory= under [wsl2] in %UserProfile%\\.wslconfig, then `wsl --shutdown`"


def _pinned(facts: HostFacts) -> Iterator[Finding]:
    if not facts.gpu.cards:
        return
    if facts.wsl is not None:
        yield from _pinned_under_wsl(facts)
    elif facts.locked_mib is not None and facts.locked_mib < facts.largest_model_mib and facts.docker is None:
        yield warning(
            "pinned memory",
            f"at most {facts.locked_mib} MiB may be locked",
            "raise it with `ulimit -l unlimited`, or LimitMEMLOCK=infinity in the unit",
        )
    else:
        yield good("pinned memory", "enough may be locked")


def _pinned_under_wsl(facts: HostFacts) -> Iterator[Finding]:
    asking, others = facts.pins
    if others:
        yield note(
            "pinned memory",
            f"limited under WSL2, so vLLM does without unless asked: {', '.join(others)}",
            '"wsl2_pin_memory": true in its parameters makes offloading and sleep faster; take it out if the model'
            " fails to start with it",
        )
    elif asking:
        yield good("pinned memory", f"asked for by {', '.join(asking)}")


def _shared(facts: HostFacts) -> Iterator[Finding]:
    # Containers get their own, by runtime.docker.shm_mib.
    if facts.docker is None and facts.shm_mib < _LEAST_SHM_MIB:
        yield warning(
            "shared memory",
            f"{facts.shm_mib} MiB; engines on several GPUs need more",
            f"`mount -o remount,size={_LEAST_SHM_MIB}m /dev/shm`, or `--shm-size` where it is a container's",
        )


MEMORY_LOOKS = (_memory, _pinned, _shared)
