"""Models fetched and converted by one-off containers, through the gate, on the real engine: no environment is here."""

import asyncio
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import docker
import openai
import pytest
from docker.models.containers import Container
from docker.types import Mount

from controlplane.errors import RuntimeFailure
from controlplane.runtime.docker_container import ContainerLimits, DockerSettings, EngineImage, Share
from controlplane.runtime.docker_engine import DockerEngine
from controlplane.runtime.docker_errands import ContainerErrands
from controlplane.runtime.model_catalog import Catalog, load_catalog, load_shipped
from controlplane.runtime.model_fetch import ModelFetchFailed
from controlplane.runtime.model_files import ModelFiles
from controlplane.runtime.progress import OnProgress, Progress
from tests.docker import provision
from tests.docker.container_service import ContainerService, Serve
from tests.docker.docker_world import ALLOWED
from tests.docker.gates import Gate
from tests.integration.chats import ask, later
from tests.integration.service import until
from tests.unit.tiny_wheel import make_wheel

PYTHON = "/opt/inference-manager/bin/python"
MODEL = {"config.json": "{}", "model.safetensors": "weights", "tokenizer.json": "{}"}
# A script of ours that writes down what it could do where it ran.
LOOK = """
import json, os, pathlib, sys
def can(deed):
    try:
        deed()
    except OSError:
        return False
    return True
folder = pathlib.Path(sys.argv[2])
folder.mkdir(exist_ok=True)
lines = pathlib.Path("/proc/self/status").read_text().splitlines()
status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
seen = {
    "said": sys.argv[1],
    "user": os.getuid(),
    "capabilities": int(status["CapEff"], 16),
    "guarded": status["NoNewPrivs"] == "1",
    "networks": sorted(os.listdir("/sys/class/net")),
    "writes_beside": can(lambda: (folder.parents[1] / "beside").mkdir()),
    "writes_root": can(lambda: pathlib.Path("/beside").mkdir()),
    "token": os.environ.get("HF_TOKEN"),
}
for position, name in enumerate(("config.json", "model.safetensors", "tokenizer.json"), start=1):
    print(f"file {position} of 3: {name} (2)")
    (folder / name).write_text(json.dumps(seen))
"""
# A control plane's own part, as it runs in its slim image: what it fetches, and where that lies then.
SLIM = """
import asyncio, json, sys
from dataclasses import replace
from pathlib import Path
from controlplane.runtime.docker_container import DockerSettings, EngineImage, Share
from controlplane.runtime.docker_engine import DockerEngine
from controlplane.runtime.docker_errands import ContainerErrands
from controlplane.runtime.model_catalog import load_catalog, shipped_catalog
from controlplane.runtime.model_files import ModelFiles
store, volume, image, python, env = sys.argv[1:]
cache = Path("/var/cache/inference-manager")
share = Share(str(cache), volume, read_only=False)
images = {"tiny": EngineImage(image, python)}
settings = DockerSettings(
    store, images, "", share, "none", shares=(share,), fetch_env=json.loads(env), errand_user="2000:2000"
)
catalog = load_catalog(Path("/catalog"), Path("/catalog/hub.py"), "tiny")
errands = ContainerErrands(settings, DockerEngine("unix:///gate/gate.sock"))
files = ModelFiles(cache / "models", replace(catalog, shipped=shipped_catalog().shipped), errands, place_shipped=True)
async def fetch():
    names = "small", "org/one", "shapes-draw", "shapes-caption"
    folders = [await files.fetch(name, lambda _: None) for name in names]
    await files.close()
    return folders
for folder in asyncio.run(fetch()):
    names = sorted(path.name for path in folder.iterdir())
    owners = sorted({path.stat().st_uid for path in folder.rglob("*")})
    print(json.dumps({"folder": str(folder), "names": names, "owners": owners}))
"""
FOR_EVER = 'import time\nprint("file 1 of 3: config.json (2)", flush=True)\ntime.sleep(600)\n'


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture(scope="module")
def bridge(client: docker.DockerClient) -> str:
    """This host's address on the network over which models are fetched."""
    return str(client.networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"])


@dataclass
class Index:
    """A package index on this host that holds the wheels of its folder."""

    folder: Path
    url: str

    def env(self) -> dict[str, str]:
        """All that pip looks into."""
        host = self.url.split("/")[2].split(":")[0]
        nowhere_else = {"PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
        return {"PIP_INDEX_URL": self.url, "PIP_TRUSTED_HOST": host, **nowhere_else}

    def hold(self, files: Mapping[str, str]) -> str:
        """The package small-model with these files; its sha256."""
        return make_wheel(self.folder, "small-model", {f"small_model/{name}": text for name, text in files.items()})


@pytest.fixture
def index(bridge: str, tmp_path: Path) -> Iterator[Index]:
    folder = tmp_path / "simple" / "small-model"
    folder.mkdir(parents=True)
    server = ThreadingHTTPServer((bridge, 0), partial(_Quiet, directory=str(tmp_path)))
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield Index(folder, f"http://{bridge}:{server.server_port}/simple")
    server.shutdown()
    serving.join()
    server.server_close()


@dataclass
class Host:
    """A models folder, and the containers of one store that fetch into it."""

    models: Path
    settings: DockerSettings
    gate: Gate
    client: docker.DockerClient

    def files(self, catalog: Catalog, *, place_shipped: bool = False, **settings: object) -> ModelFiles:
        """As a control plane has them; `settings` replace the host's."""
        errands = ContainerErrands(replace(self.settings, **settings), DockerEngine(self.gate.address))  # type: ignore[arg-type]
        return ModelFiles(self.models, catalog, errands, place_shipped=place_shipped)

    async def fetch(
        self, catalog: Catalog, name: str, progress: OnProgress = lambda _: None, **settings: object
    ) -> Path:
        files = self.files(catalog, **settings)
        try:
            return await files.fetch(name, progress)
        finally:
            await files.close()

    def containers(self) -> list[Container]:
        filters = {"label": f"im.store={self.settings.store_id}"}
        return self.client.containers.list(all=True, filters=filters, ignore_removed=True)

    def left(self) -> list[str]:
        """What stands in the models folder beside models, logs and locks."""
        return [path.name for path in self.models.glob(".*") if path.is_dir()]


@pytest.fixture
def host(tmp_path: Path, contract_gate: Gate, client: docker.DockerClient) -> Iterator[Host]:
    models = tmp_path / "models"
    models.mkdir()
    settings = DockerSettings(
        store_id=uuid.uuid4().hex[:12],
        images={"tiny": EngineImage(provision.CONTROL_PLANE, PYTHON), "absent": EngineImage("127.0.0.1:1/absent:1")},
        engines_dir="/nowhere",
        sockets=Share(str(tmp_path), str(tmp_path)),
        network="none",
        shares=(Share(str(models), str(models)),),
        limits=ContainerLimits(memory_mib=512),
    )
    made = Host(models, settings, contract_gate, client)
    yield made
    left = made.containers()
    for one in left:
        one.remove(force=True, v=True)
    assert not left


def catalog(folder: Path, sha256: str = "0" * 64, *, hub: str = LOOK, convert: str = "") -> Catalog:
    """One entry, `small`, from package small-model; `hub` and `convert` are the scripts' texts."""
    folder = folder / "catalog"
    folder.mkdir(exist_ok=True)
    (folder / "hub.py").write_text(hub)
    (folder / "convert.py").write_text(convert)
    conversion = '[convert]\nscript = "convert.py"\nsource = "model.raw"\n' if convert else ""
    (folder / "small.toml").write_text(
        'name = "small"\nsummary = "s"\nmodel_type = "text2text"\nlicense = "MIT"\nenvironments = ["tiny"]\n'
        f'[package]\nname = "small-model"\nversion = "1.0"\nsha256 = "{sha256}"\nfolder = "small_model"\n'
        f'notices = ["small_model-1.0.dist-info/METADATA"]\n{conversion}'
    )
    return load_catalog(folder, folder / "hub.py", "tiny")


async def test_a_package_is_fetched_and_converted(host: Host, index: Index, tmp_path: Path) -> None:
    """pip reaches the index from its container; the script then runs where there is no network, and writes only there.

    Neither is root nor has a capability, and nothing is left of them but the model, which belongs to the service.
    """
    asked = catalog(tmp_path, index.hold({"model.raw": "raw"}), convert=LOOK)
    seen: list[Progress] = []

    folder = await host.fetch(asked, "small", seen.append, fetch_env=index.env())

    found = json.loads((folder / "config.json").read_text())
    assert found["said"].endswith("/unpacked/small_model/model.raw")
    assert found == {
        "said": found["said"],
        "user": 65534,
        "capabilities": 0,
        "guarded": True,
        "networks": ["lo"],
        "writes_beside": False,
        "writes_root": False,
        "token": None,
    }
    assert {path.stat().st_uid for path in (folder, *folder.rglob("*"))} == {os.getuid()}
    assert "small-model" in (folder / "notices" / "METADATA").read_text()
    assert {"fetching", "converting", "ready"} <= {step.phase for step in seen}
    assert (host.left(), host.containers()) == ([], [])


async def test_a_package_that_needs_no_conversion_comes_whole(host: Host, index: Index, tmp_path: Path) -> None:
    """A second call finds it, and needs neither index nor engine."""
    asked = catalog(tmp_path, index.hold(MODEL))
    folder = await host.fetch(asked, "small", fetch_env=index.env())
    assert {name: (folder / name).read_text() for name in MODEL} == MODEL
    host.gate = Gate(Path("/nowhere"), Path("/nowhere.sock"), tmp_path)
    assert await host.fetch(asked, "small") == folder


async def test_a_hub_model_is_fetched_with_progress(host: Host, tmp_path: Path) -> None:
    """The script has a network and the owner's token; its lines become progress."""
    seen: list[Progress] = []

    folder = await host.fetch(catalog(tmp_path), "org/some-model", seen.append, fetch_env={"HF_TOKEN": "hf_x"})

    found = json.loads((folder / "config.json").read_text())
    assert (found["said"], found["token"], found["user"]) == ("org/some-model", "hf_x", 65534)
    assert len(found["networks"]) > 1
    assert Progress("org/some-model", "fetching", "tokenizer.json (2)", 2, 3) in seen
    assert "tokenizer.json" in (host.models / ".org--some-model.log").read_text()


@pytest.mark.parametrize(
    ("hub", "said"),
    [
        ('import sys; sys.exit("error: org/some-model is gated")', "org/some-model is gated; check the id"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("held = bytearray(1 << 30)", "out of memory; raise runtime.docker.memory_mib"),
        ("print('nothing')", "what came lacks config.json"),
    ],
)
async def test_a_failure_is_told_and_leaves_nothing(host: Host, tmp_path: Path, hub: str, said: str) -> None:
    """With what the script said last, or why it was killed; no folder and no container remain."""
    with pytest.raises(ModelFetchFailed, match=f"cannot fetch model org/some-model: .*{said}"):
        await host.fetch(catalog(tmp_path, hub=hub), "org/some-model")
    assert (host.left(), host.containers()) == ([], [])
    assert not (host.models / "org--some-model").exists()


async def test_an_image_that_is_not_to_be_had_is_told(host: Host, tmp_path: Path) -> None:
    """Before anything is made."""
    asked = replace(catalog(tmp_path), hub_environments=("absent",))
    with pytest.raises(RuntimeFailure, match=r"cannot pull 127\.0\.0\.1:1/absent:1: .*pull or build it by hand"):
        await host.fetch(asked, "org/some-model")
    assert host.left() == []


async def test_an_image_that_is_here_is_preferred(host: Host, tmp_path: Path) -> None:
    """Any of several environments can fetch: the one whose image is here does, wherever it stands in the list."""
    asked = replace(catalog(tmp_path), hub_environments=("absent", "tiny"))
    assert (await host.fetch(asked, "org/some-model")).is_dir()


async def test_a_container_removed_by_hand_is_told(host: Host, tmp_path: Path) -> None:
    """Whoever waits for the model hears why it does not come."""
    fetching = await _under_way(host, catalog(tmp_path, hub=FOR_EVER))
    (container,) = host.containers()
    container.remove(force=True)
    with pytest.raises(ModelFetchFailed, match="cannot fetch model org/some-model"):
        await fetching
    assert host.left() == []


async def test_a_cancelled_fetch_leaves_nothing(host: Host, tmp_path: Path) -> None:
    """Its container is killed and gone before the cancellation is over; until then nobody's boot takes it away."""
    asked = catalog(tmp_path, hub=FOR_EVER)
    fetching = await _under_way(host, asked)
    other = host.files(asked)
    await other.recover()
    await other.close()
    (container,) = host.containers()
    assert container.status == "running"

    fetching.cancel()
    await asyncio.wait([fetching])

    assert fetching.cancelled()
    assert (host.left(), host.containers()) == ([], [])


async def _under_way(host: Host, asked: Catalog) -> "asyncio.Task[Path]":
    """Returns once the container has said something."""
    said = asyncio.Event()

    def on_progress(step: Progress) -> None:
        if step.phase == "fetching":
            said.set()

    task = asyncio.create_task(host.fetch(asked, "org/some-model", on_progress))
    waiting = asyncio.create_task(said.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    assert said.is_set(), task.exception()
    return task


async def test_a_shipped_model_is_placed_where_engines_see_it(host: Host, tmp_path: Path) -> None:
    """Among the fetched models, for images do not all hold it; anew once another one is shipped, else as it stands."""
    shipped = tmp_path / "demo" / "small-one"
    shipped.mkdir(parents=True)
    keys = 'name = "small-one"\nsummary = "s"\nmodel_type = "text2text"\nlicense = "MIT"\n'
    for name, text in {**MODEL, "model.toml": keys}.items():
        (shipped / name).write_text(text)
    asked = replace(catalog(tmp_path), shipped=load_shipped(tmp_path / "demo"))
    files = host.files(asked, place_shipped=True)

    placed = await files.fetch("small-one", lambda _: None)
    first = placed.stat().st_ino
    assert (placed, (placed / "config.json").read_text()) == (host.models / "small-one", "{}")
    assert (await files.fetch("small-one", lambda _: None)).stat().st_ino == first
    (shipped / "config.json").write_text('{"new": 1}')
    assert (await files.fetch("small-one", lambda _: None) / "config.json").read_text() == '{"new": 1}'
    await files.close()


@pytest.fixture
def volume(client: docker.DockerClient) -> Iterator[str]:
    made = client.volumes.create(f"im-test-{uuid.uuid4().hex[:12]}")
    yield str(made.name)
    made.remove()


async def test_a_control_plane_in_its_slim_image_fetches_into_a_volume(
    docker_socket: Path, index: Index, volume: str, tmp_path: Path, client: docker.DockerClient
) -> None:
    """Not root, no environment, no engine's socket but the gate's: a package, a Hub id and the shipped models come."""
    asked, store_id = catalog(tmp_path, index.hold({"model.raw": "raw"}), convert=LOOK), uuid.uuid4().hex[:12]
    for folder in (tmp_path, asked.folder):
        folder.chmod(0o755)
    allowed = (*ALLOWED, "--volume", volume, "--store", store_id, "--mode", "666")
    gate = Gate(docker_socket, tmp_path / "gate.sock", Path("/nowhere"), *allowed)
    gate.start()
    words = ["-c", SLIM, store_id, volume, provision.CONTROL_PLANE, PYTHON, json.dumps(index.env())]
    mounts = [
        Mount("/var/cache/inference-manager", volume),
        Mount("/catalog", str(asked.folder), type="bind", read_only=True),
        Mount("/gate", str(tmp_path), type="bind"),
    ]
    slim = client.containers.create(provision.CONTROL_PLANE, words, entrypoint=[PYTHON], mounts=mounts, read_only=True)
    try:
        slim.start()
        status = await asyncio.to_thread(slim.wait)
        said = slim.logs().decode()
    finally:
        slim.remove(force=True)
        gate.stop()

    assert status["StatusCode"] == 0, said
    found = {Path(each["folder"]).name: each for each in map(json.loads, said.splitlines())}
    assert list(found) == ["small", "org--one", "shapes-draw", "shapes-caption"]
    assert all(each["owners"] == [2000] and "SOURCE.json" in each["names"] for each in found.values())
    assert "model_index.json" in found["shapes-draw"]["names"]
    labels = {"label": f"im.store={store_id}"}
    assert client.containers.list(all=True, filters=labels, ignore_removed=True) == []


@pytest.fixture
def silent_index(bridge: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package index that takes calls and never answers, as services started now are told."""
    with closing(socket.create_server((bridge, 0))) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://{bridge}:{server.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_TRUSTED_HOST", bridge)
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
        yield


async def _fetching(serve: Serve, gate: Gate) -> tuple[ContainerService, "asyncio.Task[str]", Container]:
    """A service in the midst of fetching for a caller, from an index that never answers."""
    entry = {
        "model_id": "a",
        "model_type": "text2text",
        "engine": "vllm",
        "model_path": "smollm2-135m",
        "vram_required_mb": 500,
    }
    images = {"images": {"vllm-cpu": provision.CONTROL_PLANE}, "pythons": {"vllm-cpu": PYTHON}}
    service = await serve(entry, docker=images, address=gate.address)
    call = later(ask(service.openai(), "a", "x"))
    (container,) = await until(lambda: service.containers(alive=True))
    assert container.labels["im.errand"] == "smollm2-135m"
    return service, call, container


def _half_made(service: ContainerService) -> list[Path]:
    return list((service.folder / "cache" / "models").glob(".*.partial"))


async def test_what_a_killed_service_was_fetching_is_removed_at_the_next_boot(
    serve: Serve, contract_gate: Gate, silent_index: None
) -> None:
    """SIGKILL while pip waits for an index: its container outlives the service, and is gone before the next listens."""
    service, call, container = await _fetching(serve, contract_gate)

    await service.kill()
    with pytest.raises(openai.APIError):
        await call
    assert [one.id for one in service.containers(alive=True)] == [container.id]
    assert _half_made(service)
    await service.start()

    assert service.containers() == []
    assert not _half_made(service)
    assert await service.stop() == 0


async def test_a_service_that_stops_in_order_takes_its_fetches_along(
    serve: Serve, contract_gate: Gate, silent_index: None
) -> None:
    """SIGTERM: when it has ended there is neither container nor half a model, and its caller was told."""
    service, call, _ = await _fetching(serve, contract_gate)

    assert await service.stop() == 0

    with pytest.raises(openai.APIError):
        await call
    assert service.containers() == []
    assert not _half_made(service)
