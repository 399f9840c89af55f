"""Engine images: there already, or pulled with progress in words."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import docker

from controlplane.errors import RuntimeFailure
from controlplane.runtime.docker_engine import DockerEngine, ImageMissing, tell

_MIB = 1024 * 1024
Say = Callable[[str], None]


async def ensure_image(engine: DockerEngine, name: str, say: Say) -> None:
    """Cancelled, the engine may go on with the pull; the next start uses what it fetched. Raises RuntimeFailure."""
    if await engine.call(lambda client: is_here(client, name)):
        return
    say = partial(tell, asyncio.get_running_loop(), say)
    try:
        await engine.call_apart(partial(_pull, name=name, say=say))
    except RuntimeFailure as exc:
        raise ImageMissing(f"cannot pull {name}: {exc}; pull or build it by hand, or configure another") from exc


def is_here(client: docker.DockerClient, name: str) -> bool:
    return bool(client.api.images(name=name if "@" in name else ":".join(split(name)), quiet=True))


def split(name: str) -> tuple[str, str]:
    """Repository and tag, or digest; `latest` where neither is given."""
    if "@" in name:
        repository, _, digest = name.partition("@")
        return repository, digest
    repository, _, tag = name.rpartition(":")
    if not repository or "/" in tag:  # no colon at all, or that of a registry's port
        return name, "latest"
    return repository, tag


def _pull(client: docker.DockerClient, name: str, say: Say) -> None:
    repository, tag = split(name)
    layers: dict[str, tuple[int, int]] = {}
    for step in client.api.pull(repository, tag=tag, stream=True, decode=True):
        if "error" in step:
            raise RuntimeFailure(str(step["error"]))
        _note(layers, step)
        done, total = (sum(column) for column in zip(*layers.values(), strict=True)) if layers else (0, 0)
        say(f"pulling {name}: {done // _MIB} of {total // _MIB} MiB" if total else f"pulling {name}")


def _note(layers: dict[str, tuple[int, int]], step: dict[str, Any]) -> None:
    progress = step.get("progressDetail") or {}
    if step.get("status") == "Downloading" and "total" in progress:
        layers[str(step.get("id"))] = (int(progress["current"]), int(progress["total"]))
    elif step.get("status") in ("Download complete", "Pull complete") and str(step.get("id")) in layers:
        total = layers[str(step["id"])][1]
        layers[str(step["id"])] = (total, total)
