"""The gate before a real Docker engine: strangers' containers stay out of reach, dangerous ones are never made."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, NotFound
from docker.models.containers import Container
from docker.types import Mount

from controlplane.doctor.look_docker import look_at_docker
from controlplane.settings import load
from tests.docker.gates import Gate
from tests.docker.provision import PYTHON_IMAGE, SOCKET
from tests.integration.service import model

LABELS = {"im.managed": "1", "im.store": "gate-test"}
FOR_EVER = ["python3", "-c", "import time; time.sleep(600)"]


@pytest.fixture
def gated(contract_gate: Gate) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=contract_gate.address, version="auto")
    yield client
    client.close()


@pytest.fixture
def stranger() -> Iterator[Container]:
    """A running container that is nobody's business."""
    client = docker.DockerClient(base_url=f"unix://{SOCKET}", version="auto")
    container = client.containers.run(PYTHON_IMAGE, FOR_EVER, detach=True, network_mode="none")
    yield container
    container.remove(force=True)
    client.close()


@pytest.mark.parametrize(
    "asked",
    [
        {"privileged": True},
        {"mounts": [Mount("/host", "/", type="bind")]},
        {"mounts": [Mount("/run/docker.sock", str(SOCKET), type="bind")]},
        {"volumes": ["/:/host"]},
        {"network_mode": "host"},
        {"pid_mode": "host"},
        {"cap_add": ["SYS_ADMIN"]},
        {"labels": {}},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_a_dangerous_container_is_never_made(gated: docker.DockerClient, asked: dict[str, Any]) -> None:
    """Refused with a reason, and no such container exists afterwards."""
    with pytest.raises(APIError, match="refused by the gate") as refusal:
        gated.containers.create(PYTHON_IMAGE, FOR_EVER, **{"labels": LABELS, "network_mode": "none", **asked})
    assert refusal.value.status_code == 403
    assert gated.containers.list(all=True, filters={"label": ["im.managed=1", "im.store=gate-test"]}) == []


def test_strangers_are_out_of_reach(gated: docker.DockerClient, stranger: Container) -> None:
    """By id and by name: not seen, not stopped, not removed, not read; it runs on."""
    for name in (stranger.id, stranger.name):
        with pytest.raises(NotFound):
            gated.containers.get(str(name))
        for path in (f"/containers/{name}/stop", f"/containers/{name}/kill"):
            answer = gated.api.post(f"{gated.api.base_url}{path}")
            assert answer.status_code == 404
        assert gated.api.delete(f"{gated.api.base_url}/containers/{name}?force=1").status_code == 404
    stranger.reload()
    assert stranger.status == "running"


def test_nothing_is_executed(gated: docker.DockerClient, stranger: Container) -> None:
    """No exec, no attach, no archive, in any container."""
    for path in ("exec", "attach", "archive?path=/"):
        answer = gated.api.post(f"{gated.api.base_url}/containers/{stranger.id}/{path}", json={"Cmd": ["id"]})
        assert answer.status_code == 403


@pytest.mark.parametrize("guarded", [True, False], ids=["gate", "engine"])
def test_the_doctor_tells_a_gate_from_the_engine(contract_gate: Gate, tmp_path: Path, guarded: bool) -> None:
    """By what it is refused; what it reads of the engine is the same on both ways."""
    address = contract_gate.address if guarded else f"unix://{SOCKET}"
    (tmp_path / "models.json").write_text(json.dumps({"models": [model("a")]}))
    config = tmp_path / "service.json"
    section = {"kind": "docker", "docker": {"address": address, "images": {"simulated": "nobody/has-it:1"}}}
    config.write_text(json.dumps({"state_dir": "state", "cache_dir": "cache", "runtime": section}))

    seen = look_at_docker(load(config), gpus=False)

    assert (seen.problem, seen.guarded, seen.address) == ("", guarded, address)
    assert seen.missing_images == ("nobody/has-it:1",)
    assert "runc" in seen.runtimes
    assert not seen.missing_limits
