"""The compose files with the real engines: the README's calls, a swap, deaths, a restart, and what is left at the end.

The tests share one installation, brought up once; each asks for what it needs, and finds it warm where another did.
"""

import asyncio
import base64
import io
import os
import shutil
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import docker
import openai
import pytest
import pytest_asyncio
from PIL import Image

from engines.demo.world import Scene, measure, parse
from tests.docker import provision
from tests.docker.composed_service import BUDGET_MIB, COLD_SECONDS, ComposedService
from tests.e2e.vllm_service import shipped
from tests.integration.chats import begin, later
from tests.integration.service import until

pytest_plugins = ("tests.real",)
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(3 * COLD_SECONDS)]

CHAT, DRAW, CAPTION = "smollm2-135m", "shapes-draw", "shapes-caption"
MIB = {entry["model_id"]: entry["vram_required_mb"] for entry in shipped(CHAT, DRAW, CAPTION)}
WANTED = Scene("red", "circle", "blue")
QUESTION = "What is the capital of France?"
GATE = "unix:///run/inference-manager/gate/docker.sock"


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory, model_folder: Callable[[str], Path]) -> Path:
    """A folder of this host with the chat model's files, into which the service may fetch."""
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(model_folder(CHAT), models / CHAT, copy_function=os.link)
    os.chown(models, 2000, 2000)
    return models


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    client: docker.DockerClient,
    real_engines: None,
    models_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[ComposedService]:
    """Up, until the last test takes it down."""
    service = ComposedService(tmp_path_factory.mktemp("composed"), models_dir, client)
    service.configure()
    try:
        await service.start()
        yield service
    finally:
        await service.end()


async def chat(system: ComposedService) -> str:
    """A streamed answer, through the official SDK."""
    stream = await system.openai().chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        temperature=0,
        max_tokens=24,
    )
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


async def draw(system: ComposedService, **parameters: object) -> bytes:
    """A picture of what is wanted, through the unified API: its PNG."""
    body = {"model": "draw", "prompt": WANTED.prompt, "parameters": {"seed": 1, **parameters}}
    answer = await system.http.post("/api/v1/text-to-image", json=body, timeout=COLD_SECONDS)
    assert answer.status_code == 200, answer.text
    (path,) = answer.json()["image_paths"]
    return (await system.http.get(path)).content


async def caption(system: ComposedService, png: bytes) -> str:
    """What the vision model says, through the official SDK."""
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png).decode()}"}}
    answer = await system.openai().chat.completions.create(
        model="caption",
        messages=[{"role": "user", "content": [{"type": "text", "text": "What is in the picture?"}, picture]}],  # type: ignore[misc,list-item]
        temperature=0,
        max_tokens=20,
    )
    return answer.choices[0].message.content or ""


def shown(png: bytes) -> Scene | None:
    return measure(Image.open(io.BytesIO(png)))


async def test_the_first_calls_start_their_engines_as_containers(system: ComposedService) -> None:
    """A streamed chat and a drawing at once, from cold: both are right, each from a container of its own image."""
    told, png = await asyncio.gather(chat(system), draw(system))

    assert "Paris" in told
    assert shown(png) == WANTED
    images = {one.attrs["Config"]["Image"] for one in system.containers(alive=True)}
    assert images == {provision.VLLM_CPU, provision.DIFFUSERS_CPU}


async def test_only_the_gate_holds_the_docker_socket(system: ComposedService) -> None:
    """The control plane and the engines have no mount of it, are not root, and the gate has no network at all."""
    gate, plane = system.part("gate"), system.part("controlplane")
    others = [plane, *system.containers(alive=True)]

    holders = {one.name for one in [gate, *others] for mount in one.attrs["Mounts"] if "docker.sock" in mount["Source"]}
    assert holders == {gate.name}
    assert gate.attrs["HostConfig"]["NetworkMode"] == "none"
    for one in [gate, *others]:
        host = one.attrs["HostConfig"]
        assert (host["Privileged"], host["ReadonlyRootfs"], host["CapDrop"]) == (False, True, ["ALL"])
    assert {one.attrs["Config"]["User"] for one in others} == {"2000:2000"}


@pytest.mark.parametrize("asked", ["privileged=True", "mounts=[docker.types.Mount('/host', '/', type='bind')]"])
async def test_what_would_reach_the_host_is_refused(system: ComposedService, asked: str) -> None:
    """Whoever has taken over the control plane asks its only way to Docker for the host, and is refused."""
    program = f"""
import docker
client = docker.DockerClient(base_url={GATE!r}, version="auto")
try:
    client.containers.create({provision.CONTROL_PLANE!r}, labels={{"im.managed": "1"}}, {asked})
except docker.errors.APIError as exc:
    print(exc.status_code, exc.explanation)
"""
    told = await asyncio.to_thread(system.part("controlplane").exec_run, ["python", "-c", program])

    assert told.output.decode().startswith("403 refused by the gate"), told.output


async def test_a_restart_of_the_control_plane_keeps_the_engines(system: ComposedService) -> None:
    """`docker restart`: the same containers, never started anew, answer the next calls."""
    await asyncio.gather(chat(system), draw(system))
    before = {one.id: one.attrs["State"]["StartedAt"] for one in system.containers(alive=True)}

    await system.restart()
    told, png = await asyncio.gather(chat(system), draw(system))

    assert "Paris" in told
    assert shown(png) == WANTED
    assert {one.id: one.attrs["State"]["StartedAt"] for one in system.containers()} == before


async def test_a_call_survives_the_death_of_its_engine(system: ComposedService) -> None:
    """`docker kill` while it draws: nothing had been delivered, so the same call is answered by the next container."""
    await draw(system)
    doomed = await system.container(f"{DRAW}-0")

    call = later(draw(system, seed=2, steps=150))
    await system.busy(DRAW, running=1)
    await asyncio.to_thread(doomed.kill)
    png = await call

    assert shown(png) == WANTED
    assert (await system.container(f"{DRAW}-0")).id != doomed.id


async def test_a_swap_keeps_to_the_budget(system: ComposedService) -> None:
    """The caption model takes the place of the one that was used least recently: what was drawn is what it sees."""
    png = await draw(system)
    await chat(system)
    drew = await system.container(f"{DRAW}-0")

    call = later(caption(system, png))
    await until(partial(_kept_within, system, call), COLD_SECONDS, "the caption, within the budget")

    assert parse(await call) == WANTED == shown(png)
    assert drew.id not in [one.id for one in system.containers()]


async def _kept_within(system: ComposedService, call: "asyncio.Task[str]") -> bool:
    """Whether the call is over; whoever runs meanwhile fits into the budget, as declared and as booked."""
    alive = {one.labels["im.replica"].rpartition("-")[0] for one in system.containers(alive=True)}
    assert sum(MIB[model] for model in alive) <= BUDGET_MIB, alive
    (device,) = (await system.admin("devices"))["devices"]
    assert device["booked_mib"] <= BUDGET_MIB
    return call.done()


async def test_a_stream_ends_with_an_error_when_its_engine_dies(system: ComposedService) -> None:
    """`docker kill` after the first word: the SDK raises an error that says so, at once and not at a timeout."""
    await chat(system)
    stream = await begin(system.openai(), CHAT, "Write a long story about a lighthouse.", 1500)
    doomed = await system.container(f"{CHAT}-0")

    await asyncio.to_thread(doomed.kill)

    with pytest.raises(openai.APIError, match="engine"):
        await stream.rest()


async def test_down_leaves_nothing_but_volumes(system: ComposedService) -> None:
    """`make down` with engines running: no container and no network of ours, and volumes that can be removed."""
    await draw(system)
    assert system.containers(alive=True)

    await system.end()

    system.assert_nothing_left()
