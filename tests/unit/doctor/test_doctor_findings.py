"""The doctor's judgement: what a host lacks is found, with the remedy that fits that host, and nothing else is."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.doctor.facts import DockerFacts, FolderFacts, GpuFacts, HostFacts
from controlplane.doctor.findings import Finding, Level, examine

GPU = GpuFacts("580.65.06", "13.0", ("RTX 5080",), (16303,), (1200,))
NO_GPU = GpuFacts(problem="NVML Shared Library Not Found")
DOCKER = DockerFacts("28.2.2 (Debian GNU/Linux 12)", ("nvidia", "runc"))
STATE = FolderFacts("state", "/srv/state", "ext4", 500_000, writable=True)
SERVER = HostFacts(
    python=(3, 11),
    kernel="6.1.0-31-amd64",
    wsl=False,
    docker_desktop=False,
    memory_mib=64_000,
    available_mib=60_000,
    swap_mib=0,
    shm_mib=32_000,
    locked_mib=None,
    open_files=1_048_576,
    gpu=GPU,
    docker=DOCKER,
    folders=(STATE,),
    wants_gpu=True,
    largest_model_mib=14_000,
)
WSL = replace(SERVER, kernel="5.15.153.1-microsoft-standard-WSL2", wsl=True)


def finding(facts: HostFacts, subject: str) -> Finding:
    """The one about this subject."""
    (found,) = [each for each in examine(facts) if each.subject == subject]
    return found


def subjects(facts: HostFacts) -> list[str]:
    """What is not good."""
    return [each.subject for each in examine(facts) if each.level is not Level.GOOD]


# A busy machine is slow to draw; that is not what is tried here.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
WHOLE = st.integers(0, 1 << 20)
TEXT = st.text(max_size=12)


@st.composite
def hosts(draw: st.DrawFn) -> HostFacts:
    """Any host at all, sensible or not."""
    cards = draw(st.integers(0, 4))
    gpu = st.builds(
        GpuFacts,
        driver=st.one_of(TEXT, st.just("580.65.06"), st.just("470.1")),
        cuda=TEXT,
        names=st.just(("card",) * cards),
        totals_mib=st.tuples(*[WHOLE] * cards),
        used_mib=st.tuples(*[WHOLE] * cards),
        problem=st.just("") if cards else st.one_of(TEXT, st.just("no driver")),
        device_files=st.sampled_from([(), ("/dev/dxg",), ("/dev/nvidia0",)]),
    )
    docker = st.builds(
        DockerFacts,
        TEXT,
        st.sampled_from([(), ("runc",), ("nvidia", "runc")]),
        st.sampled_from([(), ("nvidia.com/gpu=0",)]),
        st.sampled_from([(), ("engine:1",)]),
        st.sampled_from(["", "it is not there"]),
    )
    kinds = st.sampled_from(["ext4", "9p", "drvfs", "xfs", "nfs4"])
    folder = st.builds(FolderFacts, TEXT, TEXT, kinds, st.none() | WHOLE, st.booleans())
    facts: dict[str, Any] = {
        "python": draw(st.tuples(st.integers(2, 4), st.integers(0, 20))),
        "kernel": draw(TEXT),
        "gpu": draw(gpu),
        "docker": draw(st.none() | docker),
        "folders": tuple(draw(st.lists(folder, max_size=3))),
        "locked_mib": draw(st.none() | WHOLE),
        "environ": draw(st.sampled_from([{}, {"CUDA_VISIBLE_DEVICES": "0"}, {"VLLM_CPU_KVCACHE_SPACE": "4"}])),
    }
    facts |= {name: draw(st.booleans()) for name in ("wsl", "docker_desktop", "wants_gpu")}
    amounts = ("memory_mib", "available_mib", "swap_mib", "shm_mib", "open_files", "largest_model_mib")
    return HostFacts(**facts, **{name: draw(WHOLE) for name in amounts})


@UNHURRIED
@given(hosts())
def test_every_finding_has_a_remedy_unless_it_is_good(facts: HostFacts) -> None:
    """On any host whatever: nothing is complained about without saying what to do, and praise needs no advice."""
    for each in examine(facts):
        assert each.subject
        assert bool(each.remedy) == (each.level is not Level.GOOD)


@UNHURRIED
@given(hosts())
def test_the_same_host_gets_the_same_findings(facts: HostFacts) -> None:
    """The judgement depends on the facts alone."""
    assert examine(facts) == examine(facts)


def test_a_sound_server_is_all_good() -> None:
    """A driver, the toolkit, memory, a fast disk: no complaint."""
    assert subjects(SERVER) == []


def test_a_host_without_a_gpu_that_wants_none_is_all_good() -> None:
    """Models in main memory are a choice and no mistake."""
    host = replace(SERVER, gpu=NO_GPU, wants_gpu=False, docker=replace(DOCKER, runtimes=("runc",)))
    assert subjects(host) == []


@pytest.mark.parametrize(
    ("facts", "advice", "wrong_advice"),
    [
        (replace(SERVER, gpu=NO_GPU), "of your distribution", "Windows"),
        (replace(WSL, gpu=NO_GPU), "in Windows, never one inside WSL", "distribution"),
    ],
    ids=["server", "wsl"],
)
def test_a_missing_driver_is_installed_where_it_belongs(facts: HostFacts, advice: str, wrong_advice: str) -> None:
    """Under WSL2 the driver is Windows'; one inside would break it."""
    found = finding(facts, "gpu driver")
    assert found.level is Level.PROBLEM
    assert advice in found.remedy
    assert wrong_advice not in found.remedy


def test_a_card_without_a_driver_is_a_problem_even_if_nobody_asked_for_it() -> None:
    """Its device file is there, so its owner surely means to use it."""
    card = replace(NO_GPU, device_files=("/dev/nvidia0",))
    assert finding(replace(SERVER, gpu=card, wants_gpu=False), "gpu driver").level is Level.PROBLEM


@pytest.mark.parametrize(
    ("driver", "level"), [("470.256.02", Level.WARNING), ("525.1", Level.GOOD), ("", Level.WARNING)]
)
def test_an_old_driver_is_told(driver: str, level: Level) -> None:
    """Current engines need CUDA 12."""
    assert finding(replace(SERVER, gpu=replace(GPU, driver=driver)), "gpu driver").level is level


@pytest.mark.parametrize(
    ("docker", "desktop", "complaint"),
    [
        (replace(DOCKER, runtimes=("runc",)), False, True),
        (replace(DOCKER, runtimes=("runc",), cdi_devices=("nvidia.com/gpu=0",)), False, False),
        (replace(DOCKER, runtimes=("runc",)), True, False),
        (DOCKER, False, False),
        (None, False, False),
    ],
    ids=["nothing", "cdi", "desktop", "runtime", "processes"],
)
def test_the_toolkit_is_missed_only_where_it_is_needed(
    docker: DockerFacts | None, desktop: bool, complaint: bool
) -> None:
    """Docker Desktop brings its own, CDI does without the runtime, and processes need none."""
    host = replace(SERVER, docker=docker, docker_desktop=desktop)
    assert ("nvidia toolkit" in subjects(host)) is complaint


def test_an_engine_that_does_not_answer_is_the_only_thing_said_of_it() -> None:
    """Its runtimes and images are not known, so nothing is said about them."""
    away = DockerFacts(missing_images=("engine:1",), problem="the Docker engine does not answer: refused")
    assert subjects(replace(SERVER, docker=away)) == ["docker"]
    assert "runtime.docker.address" in finding(replace(SERVER, docker=away), "docker").remedy


def test_missing_images_are_named() -> None:
    """Each one, for each is pulled or built by itself."""
    host = replace(SERVER, docker=replace(DOCKER, missing_images=("a:1", "b:2")))
    assert [each.seen for each in examine(host) if each.subject == "image"] == ["a:1 is not here", "b:2 is not here"]


@pytest.mark.parametrize("kind", ["9p", "drvfs", "virtiofs", "nfs4", "cifs"])
def test_a_slow_file_system_is_told_with_the_place_to_go(kind: str) -> None:
    """Windows' drives under WSL2, network drives elsewhere."""
    slow = replace(STATE, purpose="models", path="/mnt/c/models", file_system=kind)
    assert "WSL's own file system" in finding(replace(WSL, folders=(slow,)), "models folder").remedy
    assert "a local disk" in finding(replace(SERVER, folders=(slow,)), "models folder").remedy


@pytest.mark.parametrize(
    ("folder", "level", "words"),
    [
        (replace(STATE, writable=False, file_system="9p"), Level.PROBLEM, "cannot be written to"),
        (replace(STATE, free_mib=3_000), Level.WARNING, "3000 MiB free"),
        (replace(STATE, free_mib=None), Level.GOOD, "? MiB free"),
    ],
    ids=["read-only", "full", "unknown"],
)
def test_a_folders_worst_fault_is_told(folder: FolderFacts, level: Level, words: str) -> None:
    """One finding for each folder, the one that stops the service first."""
    found = finding(replace(SERVER, folders=(folder,)), "state folder")
    assert found.level is level
    assert words in found.seen


def test_wsls_half_of_the_memory_is_told_with_its_setting() -> None:
    """A model of 14 GB needs more than the 16 GB that WSL gives itself on a machine of 32."""
    found = finding(replace(WSL, memory_mib=15_900), "main memory")
    assert found.level is Level.WARNING
    assert ".wslconfig" in found.remedy
    assert finding(replace(WSL, memory_mib=28_000), "main memory").level is Level.GOOD


def test_too_little_memory_elsewhere_is_not_blamed_on_wsl() -> None:
    """There is no such setting on a server."""
    found = finding(replace(SERVER, memory_mib=8_000), "main memory")
    assert found.level is Level.WARNING
    assert "wsl" not in found.remedy.lower()


def test_wsl_has_its_surprises_named() -> None:
    """The spill to main memory and the limit on pinned memory are told on every WSL host with a GPU, nowhere else."""
    surprises = {"spill to main memory", "pinned memory"}
    assert surprises <= set(subjects(WSL))
    assert not surprises & set(subjects(replace(WSL, gpu=NO_GPU)))
    assert not surprises & set(subjects(SERVER))


def test_a_limit_on_locked_memory_is_told_when_a_model_is_larger() -> None:
    """Sleeping models lie in locked memory."""
    assert finding(replace(SERVER, locked_mib=8_000), "pinned memory").level is Level.WARNING
    assert finding(replace(SERVER, locked_mib=20_000), "pinned memory").level is Level.GOOD


def test_a_gpu_that_others_use_is_told_by_number() -> None:
    """Two cards, the second one busy: its figures, and the setting that keeps models off what is taken."""
    two = replace(GPU, names=("A", "B"), totals_mib=(16_000, 16_000), used_mib=(500, 9_000))
    host = replace(SERVER, gpu=two)
    assert subjects(host) == ["gpu1 memory"]
    assert "devices.budgets_mib" in finding(host, "gpu1 memory").remedy


@pytest.mark.parametrize("name", ["VLLM_CPU_KVCACHE_SPACE", "CUDA_VISIBLE_DEVICES"])
def test_variables_that_would_overrule_the_service_are_told(name: str) -> None:
    """They are named, so that they can be unset."""
    assert name in finding(replace(SERVER, environ={name: "1"}), "environment").seen


def test_small_limits_are_told() -> None:
    """Few open files and little shared memory are found together."""
    assert subjects(replace(SERVER, open_files=1024, shm_mib=64)) == ["open files", "shared memory"]


def test_an_old_python_is_a_problem() -> None:
    """The service would not even start."""
    assert finding(replace(SERVER, python=(3, 10)), "python").level is Level.PROBLEM
