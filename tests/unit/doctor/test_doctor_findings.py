"""The doctor's judgement: what a host lacks is found, with the remedy that fits that host, and nothing else is."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.doctor.facts import CardFacts, DockerFacts, FolderFacts, GpuFacts, HostFacts, SocketFacts, WslFacts
from controlplane.doctor.finding import Finding, Level
from controlplane.doctor.findings import examine

CARD = CardFacts("RTX 5080", 16_303, 1_200)
GPU = GpuFacts("580.65.06", "13.0", (CARD,))
NO_GPU = GpuFacts(problem="NVML Shared Library Not Found")
SOCKET = SocketFacts("/run/im/docker.sock", "root", "inference", "srw-rw----", open_to_all=False)
DOCKER = DockerFacts(
    "28.2.2", "Debian GNU/Linux 12", "unix:///run/im/docker.sock", ("nvidia", "runc"), guarded=True, socket=SOCKET
)
OPEN = replace(SOCKET, open_to_all=True)
DESKTOP = replace(DOCKER, system="Docker Desktop", runtimes=("runc",))
STATE = FolderFacts("state", "/srv/state", "ext4", 500_000, usable=True)
SERVER = HostFacts(
    python=(3, 11),
    container=False,
    wsl=None,
    memory_mib=64_000,
    available_mib=60_000,
    swap_mib=0,
    own_memory_mib=64_000,
    shm_mib=32_000,
    locked_mib=None,
    open_files=1_048_576,
    gpu=GPU,
    docker=DOCKER,
    folders=(STATE,),
    wants_gpu=True,
    margin_mib=1024,
    largest_model_mib=14_000,
)
NEVER_IDLE = {"instanceidletimeout": "-1", "vmidletimeout": "-1"}
GUEST = WslFacts(2, NEVER_IDLE, systemd=True, driver_library=True)
WSL = replace(SERVER, wsl=GUEST)
PROCESSES = replace(SERVER, docker=None)


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


CARDS = st.builds(CardFacts, TEXT, WHOLE, WHOLE, st.booleans(), st.booleans())
SOCKETS = st.builds(SocketFacts, TEXT, TEXT, TEXT, TEXT, st.booleans())
NAMES = st.sampled_from([(), ("a",), ("a", "b")])
GUESTS = st.builds(
    WslFacts,
    st.integers(1, 2),
    st.none() | st.dictionaries(st.sampled_from(["memory", "automemoryreclaim", "vmidletimeout"]), TEXT),
    st.booleans(),
    st.booleans(),
    NAMES,
)
GPUS = st.builds(
    GpuFacts,
    driver=st.one_of(TEXT, st.just("580.65.06"), st.just("470.1")),
    cuda=TEXT,
    cards=st.lists(CARDS, max_size=3).map(tuple),
    problem=st.one_of(TEXT, st.just("no driver")),
    device_files=st.sampled_from([(), ("/dev/dxg",), ("/dev/nvidia0",)]),
)
ENGINES = st.builds(
    DockerFacts,
    version=TEXT,
    system=st.sampled_from(["Docker Desktop", "Debian"]),
    address=st.sampled_from(["unix:///run/docker.sock", "tcp://engine:2375", "https://engine:2376"]),
    runtimes=NAMES,
    cdi_devices=NAMES,
    missing_images=st.sampled_from([(), ("engine:1",), ("inference-manager:1",)]),
    missing_limits=NAMES,
    mapped=st.sampled_from(["", "rootless"]),
    guarded=st.booleans(),
    socket=st.none() | SOCKETS,
    problem=st.sampled_from(["", "it is not there"]),
)
FOLDERS = st.builds(
    FolderFacts,
    st.sampled_from(["state", "models", "sockets", "model"]),
    TEXT,
    st.sampled_from(["ext4", "9p", "drvfs", "xfs", "nfs4", "virtiofs"]),
    st.none() | WHOLE,
    st.booleans(),
    st.booleans(),
)
HOSTS = st.builds(
    HostFacts,
    python=st.tuples(st.integers(2, 4), st.integers(0, 20)),
    container=st.booleans(),
    wsl=st.none() | GUESTS,
    memory_mib=WHOLE,
    available_mib=WHOLE,
    swap_mib=WHOLE,
    own_memory_mib=WHOLE,
    shm_mib=WHOLE,
    locked_mib=st.none() | WHOLE,
    open_files=WHOLE,
    gpu=GPUS,
    docker=st.none() | ENGINES,
    folders=st.lists(FOLDERS, max_size=3).map(tuple),
    wants_gpu=st.booleans(),
    margin_mib=WHOLE,
    largest_model_mib=WHOLE,
    pins=st.tuples(NAMES, NAMES),
    environ=st.sampled_from([{}, {"CUDA_VISIBLE_DEVICES": "0"}, {"VLLM_CPU_KVCACHE_SPACE": "4"}]),
)


@UNHURRIED
@given(HOSTS)
def test_every_finding_has_a_remedy_unless_it_is_good(facts: HostFacts) -> None:
    """On any host whatever: nothing is complained about without saying what to do, and praise needs no advice."""
    for each in examine(facts):
        assert each.subject
        assert bool(each.remedy) == (each.level is not Level.GOOD)


@UNHURRIED
@given(HOSTS)
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


def test_a_service_in_a_container_is_given_the_gpus() -> None:
    """Inside, there is nothing to install: the container is told to be given what the host has."""
    found = finding(replace(WSL, gpu=NO_GPU, container=True), "gpu driver")
    assert (found.level, "--gpus all" in found.remedy) == (Level.PROBLEM, True)


def test_a_linux_driver_inside_wsl_is_found_by_its_file() -> None:
    """It hides what Windows gives, whether or not it seems to answer."""
    guest = replace(GUEST, own_drivers=("/usr/lib/x86_64-linux-gnu/libcuda.so.1",))
    found = finding(replace(WSL, wsl=guest), "linux driver")
    assert (found.level, "libcuda.so.1" in found.seen) == (Level.PROBLEM, True)
    assert "linux driver" not in subjects(replace(WSL, wsl=guest, container=True))


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
    ("docker", "complaint"),
    [
        (replace(DOCKER, runtimes=("runc",)), True),
        (replace(DOCKER, runtimes=("runc",), cdi_devices=("nvidia.com/gpu=0",)), False),
        (DESKTOP, False),
        (DOCKER, False),
        (None, False),
    ],
    ids=["nothing", "cdi", "desktop", "runtime", "processes"],
)
def test_the_toolkit_is_missed_only_where_it_is_needed(docker: DockerFacts | None, complaint: bool) -> None:
    """Docker Desktop brings its own, CDI does without the runtime, and processes need none."""
    assert ("nvidia toolkit" in subjects(replace(SERVER, docker=docker))) is complaint


def test_an_engine_that_does_not_answer_is_the_only_thing_said_of_it() -> None:
    """Its runtimes and images are not known, so nothing is said about them."""
    away = DockerFacts(address="tcp://a:1", missing_images=("engine:1",), problem="the Docker engine does not answer")
    assert subjects(replace(SERVER, docker=away)) == ["docker"]
    assert "runtime.docker.address" in finding(replace(SERVER, docker=away), "docker").remedy


@pytest.mark.parametrize(
    ("host", "socket", "advice"),
    [
        (SERVER, None, "start the engine"),
        (WSL, None, "WSL integration"),
        (SERVER, SOCKET, "/run/im/docker.sock is srw-rw---- root:inference"),
    ],
    ids=["nothing there", "nothing there under wsl", "there and closed"],
)
def test_an_engine_out_of_reach_is_told_by_what_stands_at_its_address(
    host: HostFacts, socket: SocketFacts | None, advice: str
) -> None:
    """No file: it does not run. A file: who may use it."""
    away = replace(DOCKER, problem="the Docker engine does not answer", socket=socket)
    assert advice in finding(replace(host, docker=away), "docker").remedy


@pytest.mark.parametrize(
    ("docker", "level", "words"),
    [
        (DOCKER, Level.GOOD, "behind the gate"),
        (replace(DOCKER, guarded=False), Level.NOTE, "srw-rw---- root:inference"),
        (replace(DOCKER, guarded=False, socket=None, address="tcp://a:1"), Level.WARNING, "without a password"),
        (replace(DOCKER, guarded=False, socket=None, address="https://a:1"), Level.NOTE, "https://a:1"),
        (replace(DOCKER, guarded=False, socket=OPEN), Level.PROBLEM, "every user of this host is root"),
        (replace(DOCKER, socket=OPEN), Level.WARNING, "through the gate"),
    ],
    ids=["gate", "raw", "network", "tls", "open", "open gate"],
)
def test_who_holds_the_socket_is_told(docker: DockerFacts, level: Level, words: str) -> None:
    """From a gate that lets nothing through but ours, to a socket that makes everybody root."""
    found = finding(replace(SERVER, docker=docker), "docker socket")
    assert (found.level, words in found.seen) == (level, True)


def test_a_gate_that_only_a_container_sees_may_be_open() -> None:
    """Its folder is shared with nobody but the service, whose user the gate need not know."""
    host = replace(SERVER, container=True, docker=replace(DOCKER, socket=OPEN))
    assert finding(host, "docker socket").level is Level.GOOD


def test_what_the_engine_cannot_do_is_told() -> None:
    """Limits that the kernel does not keep, and users that are not the host's."""
    host = replace(SERVER, docker=replace(DOCKER, missing_limits=("memory", "CPUs"), mapped="rootless"))
    assert subjects(host) == ["docker limits", "docker users"]
    assert "memory, CPUs" in finding(host, "docker limits").seen


def test_missing_images_are_named_with_where_they_come_from() -> None:
    """Each one: ours is built, others' are pulled."""
    host = replace(SERVER, docker=replace(DOCKER, missing_images=("inference-manager-vllm-cpu:1", "vllm/vllm:2")))
    ours, theirs = (each for each in examine(host) if each.subject == "image")
    assert ("inference-manager-vllm-cpu:1" in ours.seen, "build it" in ours.remedy) == (True, True)
    assert ("vllm/vllm:2" in theirs.seen, "docker pull" in theirs.remedy) == (True, True)


@pytest.mark.parametrize("kind", ["9p", "drvfs", "virtiofs", "nfs4", "cifs"])
def test_a_slow_file_system_is_told_with_the_place_to_go(kind: str) -> None:
    """Windows' drives under WSL2, network drives elsewhere."""
    slow = replace(STATE, purpose="models", path="/mnt/c/models", file_system=kind)
    assert "WSL's own file system" in finding(replace(WSL, folders=(slow,)), "models folder").remedy
    assert "a local disk" in finding(replace(SERVER, folders=(slow,)), "models folder").remedy


@pytest.mark.parametrize("purpose", ["state", "sockets"])
def test_databases_and_sockets_need_a_local_file_system(purpose: str) -> None:
    """SQLite's log needs shared memory and sockets a real inode: on Windows' drives neither works."""
    folder = replace(STATE, purpose=purpose, path="/mnt/c/state", file_system="9p")
    assert finding(replace(WSL, folders=(folder,)), f"{purpose} folder").level is Level.PROBLEM


@pytest.mark.parametrize(
    ("folder", "level", "words"),
    [
        (replace(STATE, usable=False, file_system="9p"), Level.PROBLEM, "cannot be written to"),
        (replace(STATE, usable=False, kept=False), Level.PROBLEM, "cannot be read"),
        (replace(STATE, free_mib=10, kept=False), Level.GOOD, "/srv/state on ext4"),
        (replace(STATE, free_mib=3_000), Level.WARNING, "3000 MiB free"),
        (replace(STATE, free_mib=None), Level.GOOD, "? MiB free"),
    ],
    ids=["read-only", "unreadable", "read only", "full", "unknown"],
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


def test_wsls_own_setting_is_quoted() -> None:
    """Who has set it already learns that it is too little, not that it is missing."""
    guest = replace(GUEST, settings={**NEVER_IDLE, "memory": "12GB"})
    assert "memory=12GB" in finding(replace(WSL, wsl=guest, memory_mib=12_000), "main memory").seen


def test_too_little_memory_elsewhere_is_not_blamed_on_wsl() -> None:
    """There is no such setting on a server."""
    found = finding(replace(SERVER, memory_mib=8_000), "main memory")
    assert found.level is Level.WARNING
    assert "wsl" not in found.remedy.lower()


def test_a_limit_of_the_service_binds_engines_that_are_its_children() -> None:
    """Engines in containers are limited apart."""
    small = replace(PROCESSES, own_memory_mib=4_000)
    assert "4000 MiB of it" in finding(small, "main memory").seen
    assert finding(replace(small, docker=DOCKER), "main memory").level is Level.GOOD


def test_wsl_1_is_a_problem() -> None:
    """It has no GPU and no containers."""
    assert finding(replace(WSL, wsl=replace(GUEST, version=1)), "wsl").level is Level.PROBLEM
    assert "wsl" not in [each.subject for each in examine(SERVER)]


def test_a_sound_wsl_host_has_only_what_cannot_be_seen() -> None:
    """Whether Windows spills is nowhere to be read: it is noted where there is a card, and nothing else is said."""
    assert [(each.subject, each.level) for each in examine(WSL) if each.level is not Level.GOOD] == [
        ("spill to main memory", Level.NOTE)
    ]
    assert subjects(replace(WSL, gpu=NO_GPU, wants_gpu=False)) == []


def test_a_small_margin_is_told_under_wsl_only() -> None:
    """Windows' desktop takes from the same card."""
    assert finding(replace(WSL, margin_mib=512), "gpu margin").level is Level.WARNING
    assert subjects(replace(SERVER, margin_mib=512)) == []


@pytest.mark.parametrize("settings", [None, {}, {"vmidletimeout": "-1"}])
def test_the_end_of_an_idle_distribution_is_noted(settings: dict[str, str] | None) -> None:
    """Both settings together keep it; Docker Desktop keeps itself."""
    host = replace(WSL, wsl=replace(GUEST, settings=settings))
    assert finding(host, "idle end").level is Level.NOTE
    assert finding(WSL, "idle end").level is Level.GOOD
    assert "idle end" not in [each.subject for each in examine(replace(host, docker=DESKTOP))]


def test_what_an_engine_inside_wsl_needs_is_told_to_nobody_else() -> None:
    """systemd starts it, and one way to reclaim memory stops it; Docker Desktop has neither trouble."""
    guest = replace(GUEST, systemd=False, settings={**NEVER_IDLE, "automemoryreclaim": "gradual"})
    needed = {"systemd", "memory reclaim"}
    assert needed <= set(subjects(replace(WSL, wsl=guest)))
    assert not needed & set(subjects(replace(WSL, wsl=guest, docker=DESKTOP)))
    assert not needed & set(subjects(replace(WSL, wsl=guest, docker=None)))


def test_pinned_memory_is_told_by_model_under_wsl() -> None:
    """Those that do without are named; where all ask for it, it is good; without vLLM nothing is said."""
    assert "a" in finding(replace(WSL, pins=(("b",), ("a",))), "pinned memory").seen
    assert finding(replace(WSL, pins=(("b",), ())), "pinned memory").level is Level.GOOD
    assert "pinned memory" not in [each.subject for each in examine(WSL)]


def test_a_limit_on_locked_memory_is_told_when_a_model_is_larger() -> None:
    """Sleeping models lie in locked memory."""
    assert finding(replace(PROCESSES, locked_mib=8_000), "pinned memory").level is Level.WARNING
    assert finding(replace(PROCESSES, locked_mib=20_000), "pinned memory").level is Level.GOOD


def test_a_gpu_that_others_use_is_told_by_number() -> None:
    """Two cards, the second one busy: its figures, and the setting that keeps models off what is taken."""
    host = replace(SERVER, gpu=replace(GPU, cards=(CardFacts("A", 16_000, 500), CardFacts("B", 16_000, 9_000))))
    assert subjects(host) == ["gpu1 memory"]
    assert "devices.budgets_mib" in finding(host, "gpu1 memory").remedy


@pytest.mark.parametrize("name", ["VLLM_CPU_KVCACHE_SPACE", "CUDA_VISIBLE_DEVICES"])
def test_variables_that_would_overrule_the_service_are_told(name: str) -> None:
    """They are named, so that they can be unset; containers do not see them."""
    assert name in finding(replace(PROCESSES, environ={name: "1"}), "environment").seen
    assert "environment" not in subjects(replace(SERVER, environ={name: "1"}))


def test_small_limits_are_told() -> None:
    """Few open files and little shared memory are found together."""
    assert subjects(replace(PROCESSES, open_files=1024, shm_mib=64)) == ["shared memory", "open files"]


@pytest.mark.parametrize(
    ("card", "level"),
    [(replace(CARD, shareable=False), Level.PROBLEM), (replace(CARD, split=True), Level.WARNING)],
    ids=["exclusive", "mig"],
)
def test_a_card_that_cannot_be_shared_as_it_is_is_told(card: CardFacts, level: Level) -> None:
    """A compute mode for one process, or a card that is cut up: named by number, with the command that undoes it."""
    found = finding(replace(SERVER, gpu=replace(GPU, cards=(card,))), "gpu0 sharing")
    assert (found.level, "nvidia-smi -i 0" in found.remedy) == (level, True)


def test_an_old_python_is_a_problem() -> None:
    """The service would not even start."""
    assert finding(replace(SERVER, python=(3, 10)), "python").level is Level.PROBLEM
