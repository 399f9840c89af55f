"""The configuration as a Docker runtime's settings: images, users, folders, and paths the kernel would not take."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controlplane.runtime.choosing import docker_settings, fetching
from controlplane.runtime.docker_container import DockerSettings, Share
from controlplane.settings import load

Choose = Callable[..., DockerSettings]


@pytest.fixture
def choose(tmp_path: Path) -> Choose:
    """`choose(models, docker={...}, **sections)`: what that configuration makes."""

    def made(*models: dict[str, Any], docker: dict[str, Any] | None = None, **sections: Any) -> DockerSettings:
        runtime = {"kind": "docker", "docker": docker or {}}
        config = {"state_dir": "state", "cache_dir": "cache", "runtime": runtime, **sections}
        (tmp_path / "service.json").write_text(json.dumps(config))
        (tmp_path / "models.json").write_text(json.dumps({"models": models or [_model("a")]}))
        return docker_settings(load(tmp_path / "service.json", {}))

    return made


def _model(model_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "model_id": model_id,
        "model_type": "text2text",
        "engine": "simulated",
        "vram_required_mb": 100,
        **fields,
    }


def test_the_models_folder_is_shared_read_only(choose: Choose, tmp_path: Path) -> None:
    """Under its own path."""
    models = tmp_path / "cache" / "models"
    assert choose().shares == (Share(str(models), str(models), read_only=True),)


def test_a_share_that_covers_the_models_stands_for_them(choose: Choose, tmp_path: Path) -> None:
    """Such as a volume where the service is a container itself: nothing of the host is bound beside it."""
    given = [{"path": str(tmp_path / "cache"), "source": "cache", "read_only": False}]
    assert choose(docker={"shares": given}).shares == (Share(str(tmp_path / "cache"), "cache", read_only=False),)


def test_a_models_own_folder_is_shared_once(choose: Choose, tmp_path: Path) -> None:
    """Two models in one folder outside make one share."""
    own = tmp_path / "own"
    own.mkdir()
    two = [_model(name, model_path=str(own)) for name in ("a", "b")]
    assert [share.path for share in choose(*two).shares] == [str(tmp_path / "cache" / "models"), str(own)]


def test_limits_and_images_are_the_configured_ones(choose: Choose) -> None:
    """The logs' limits are the service's own; an image given by name replaces the built-in one."""
    docker = {"memory_mib": 512, "cpus": 2, "shm_mib": 64, "user": "7:8", "images": {"simulated": "mine:1"}}
    made = choose(docker=docker, logs={"max_mib": 5, "keep": 2})
    limits = made.limits
    assert (limits.memory_mib, limits.cpus, limits.shm_mib, limits.log_mib, limits.log_files) == (512, 2, 64, 5, 3)
    assert (made.user, made.image(None).name) == ("7:8", "mine:1")
    assert made.image("vllm-cuda").name.startswith("vllm/vllm-openai:")


def test_what_fetches_is_told_what_this_host_knows_of_fetching() -> None:
    """Proxies, indexes, the Hub and its token go along; everything else the service was started with stays here."""
    told = {
        "HTTPS_PROXY": "http://proxy:1",
        "no_proxy": "localhost",
        "PIP_INDEX_URL": "https://index.example/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "HF_TOKEN": "hf_x",
        "HF_ENDPOINT": "https://hub.example",
    }
    kept = {"INFERENCE_MANAGER_KEY": "secret", "PATH": "/bin", "PIP_CERT": "/cert", "HF_HOME": "/x", "MY_HF_TOKEN": "y"}
    assert fetching({**told, **kept}) == told


def test_errands_are_not_roots(choose: Choose) -> None:
    """Whoever the service is: its own user where that is not root, else nobody."""
    uid, gid = os.getuid(), os.getgid()
    assert choose(docker={"user": "0:0"}).errand_user == (f"{uid}:{gid}" if uid else "65534:65534")
