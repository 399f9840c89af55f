"""Images that are pulled for real, from a registry on this host, through the gate."""

import contextlib
import re
from collections.abc import AsyncIterator

import docker
import pytest

from controlplane.runtime.docker_engine import DockerEngine, ImageMissing
from controlplane.runtime.docker_images import ensure_image
from tests.docker.gates import Gate
from tests.docker.registry import registry

LAYER_MIB = 24


@pytest.fixture
async def engine(gate: Gate) -> AsyncIterator[DockerEngine]:
    made = DockerEngine(gate.address)
    yield made
    await made.close()


async def test_a_pull_tells_how_far_it_is(engine: DockerEngine, client: docker.DockerClient) -> None:
    """In MiB of the whole, rising to all of it; the second time the image is there and nobody is asked."""
    said: list[str] = []
    with registry() as place:
        image = place.add("engines/large", LAYER_MIB)
        try:
            await ensure_image(engine, image, said.append)
            asked = len(place.asked)
            await ensure_image(engine, image, said.append)
            assert len(place.asked) == asked
        finally:
            with contextlib.suppress(docker.errors.ImageNotFound):
                client.images.remove(image, force=True)

    figures = [tuple(map(int, found.groups())) for text in said if (found := re.search(r": (\d+) of (\d+) MiB", text))]
    assert figures == sorted(figures)
    assert figures[-1] == (LAYER_MIB, LAYER_MIB)
    assert all(text.startswith(f"pulling {image}") for text in said)


async def test_a_digest_pulls_that_very_image(engine: DockerEngine, client: docker.DockerClient) -> None:
    """Pinned by content instead of by a name that may move."""
    with registry() as place:
        place.add("engines/pinned", 1)
        image = f"{place.address}/engines/pinned@{place.images['engines/pinned']}"
        try:
            await ensure_image(engine, image, lambda _: None)
            assert client.images.get(image).attrs["RepoDigests"] == [image]
        finally:
            with contextlib.suppress(docker.errors.ImageNotFound):
                client.images.remove(image, force=True)


async def test_a_tag_that_is_not_there_is_told(engine: DockerEngine) -> None:
    """With the registry's refusal and what to do."""
    with registry() as place, pytest.raises(ImageMissing, match=r"cannot pull .*/nothing:2: .*; pull or build it by"):
        await ensure_image(engine, f"{place.address}/engines/nothing:2", lambda _: None)
