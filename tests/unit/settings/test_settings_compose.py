"""What compose ships fits together: the configuration is valid, and the gate lets through what it will ask for."""

import json
import re
import shutil
from pathlib import Path

import pytest

from controlplane.gate.rules import Rules
from controlplane.settings import Settings, load

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = ROOT / "compose"
NAME = "inference-manager"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """As the container sees it: both files side by side, the key in the environment."""
    shutil.copy(COMPOSE / "config" / "inference_manager.json", tmp_path)
    shutil.copy(ROOT / "config" / "models.json", tmp_path)
    return load(tmp_path / "inference_manager.json", {"INFERENCE_MANAGER_KEY": "a key for the tests"})


@pytest.fixture
def rules() -> Rules:
    """What the gate is told under the default name."""
    text = (COMPOSE / "compose.yaml").read_text().replace("${INFERENCE_MANAGER_NAME:-inference-manager}", NAME)
    told = re.findall(r"- --(image|volume|network|folder)=(\S+)", text)
    return Rules(
        *(tuple(value for key, value in told if key == kind) for kind in ("image", "folder", "volume", "network"))
    )


def test_every_image_may_pass_the_gate(settings: Settings, rules: Rules) -> None:
    """All engines of the shipped configuration, and no image of another's registry with a name like ours."""
    docker = settings.runtime.docker
    images = [docker.image(environment) for environment in docker.environments]
    assert [image for image in images if image is None or not rules.allows_image(image)] == []
    assert not rules.allows_image(f"{NAME}.example/{NAME}:0.1.0")
    assert not rules.allows_image(f"{NAME}-vllm-cpu.example/x:1")


def test_every_mount_and_network_may_pass_the_gate(settings: Settings, rules: Rules) -> None:
    """By volumes' and networks' names alone: no folder of the host is open to engines."""
    docker = settings.runtime.docker
    assert docker.sockets is not None
    assert {share.source for share in (docker.sockets, *docker.shares)} <= set(rules.volumes)
    assert {docker.network, docker.fetch_network} <= set(rules.networks)
    assert rules.folders == ()


def test_what_engines_share_lies_where_the_service_looks(settings: Settings) -> None:
    """The models folder is a share that only the service writes to, and the home folder one that engines write to."""
    docker = settings.runtime.docker
    read_only = {share.path: share.read_only for share in docker.shares}
    assert read_only == {str(settings.models_dir): True, docker.home: False}


def test_nobody_comes_in_without_the_key(settings: Settings) -> None:
    """It listens on every address of its container, so it has a key; and none is shipped."""
    assert [key.name for key in settings.api_keys] == ["owner"]
    assert re.search(r"^INFERENCE_MANAGER_KEY=$", (COMPOSE / ".env.example").read_text(), re.MULTILINE)


def test_the_images_tags_are_the_ones_compose_builds(settings: Settings) -> None:
    """A new version in one place and not in the other would leave the service without its engines."""
    built = set(re.findall(r"^ *image: (\S+)$", "\n".join(path.read_text() for path in COMPOSE.glob("*.yaml")), re.M))
    docker = settings.runtime.docker
    ours = {image for name in docker.environments if (image := docker.image(name)) and image.startswith(NAME)}
    assert built == ours, json.dumps(sorted(built ^ ours))
