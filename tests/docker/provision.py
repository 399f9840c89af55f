"""A real Docker engine and the product's images for the tests: installed, started and built where they are missing.

`python -m tests.docker.provision` prints what it does; what is there already is used as it is. Needs root where
something has to be installed or started.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOCKET = Path("/var/run/docker.sock")
PYTHON_IMAGE = "python:3.11-slim-bookworm"
RAW_IMAGE = "inference-manager-test-base:bookworm"
CONTROL_PLANE = "inference-manager:0.1.0"
VLLM_CPU = "inference-manager-vllm-cpu:0.1.0"
DIFFUSERS_CPU = "inference-manager-diffusers-cpu:0.1.0"
_PROGRAMS = {"dockerd": "docker.io", "docker-compose": "docker-compose", "mmdebstrap": "mmdebstrap"}
_START_SECONDS = 60
_PULL_SECONDS = 120
_INDEX_PORT = 18923


@dataclass(frozen=True)
class Image:
    """One of the product's images: its Dockerfile, target and name."""

    name: str
    dockerfile: str
    target: str


# In the order of the file: a builder that makes every stage up to its target finds the ones before already made.
IMAGES = (
    Image(CONTROL_PLANE, "Dockerfile.controlplane", "controlplane"),
    Image(DIFFUSERS_CPU, "Dockerfile.engine", "diffusers-cpu"),
    Image(VLLM_CPU, "Dockerfile.engine", "vllm-cpu"),
)


def main() -> None:
    ensure_engine()
    ensure_base()
    for image in IMAGES:
        build(image)


def ensure_engine() -> None:
    """An engine that answers at SOCKET, and compose."""
    answers = _answers()
    wanted = [program for program in _PROGRAMS if program == "docker-compose" or not answers]
    if missing := [_PROGRAMS[program] for program in wanted if shutil.which(program) is None]:
        _say(f"installing {', '.join(missing)}")
        _run(["apt-get", "update", "-q"], quiet=True)
        _run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing], quiet=True)
    if not answers:
        _start()
    _say("the Docker engine answers")


def ensure_base() -> None:
    """The image that the Dockerfiles build from: from a registry, or made of Debian's packages where there is none."""
    if _has(PYTHON_IMAGE):
        return
    if _pulled():
        _run(["docker", "tag", PYTHON_IMAGE, RAW_IMAGE])
    elif not _has(RAW_IMAGE):
        _say(f"making {PYTHON_IMAGE} of Debian's packages")
        _make_raw()
    _add_pip_settings()


def build(image: Image) -> None:
    """From the real Dockerfile; unchanged layers are reused."""
    _say(f"building {image.name}")
    began = time.monotonic()
    command = ["docker", "build", "--quiet", "--network", "host", "--file", image.dockerfile, "--target", image.target]
    with _serving_indexes():
        _run([*command, "--tag", image.name, "."], quiet=True)
    _say(f"built {image.name} in {time.monotonic() - began:.0f} s")


def _answers() -> bool:
    if shutil.which("docker") is None:
        return False
    command = ["docker", "--host", f"unix://{SOCKET}", "version"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _start() -> None:
    """As a daemon that outlives us: whoever provisions does so for more than one run."""
    _say("starting the Docker engine")
    log = Path(tempfile.gettempdir()) / "dockerd.log"
    with log.open("wb") as output:
        subprocess.Popen(["dockerd"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    deadline = time.monotonic() + _START_SECONDS
    while not _answers():
        if time.monotonic() > deadline:
            sys.exit(f"the Docker engine did not start; see {log}:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)


def _has(name: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", name], check=False, capture_output=True).returncode == 0


def _pulled() -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        command = ["docker", "pull", "--quiet", PYTHON_IMAGE]
        return subprocess.run(command, check=False, capture_output=True, timeout=_PULL_SECONDS).returncode == 0
    return False


def _make_raw() -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "base.tar"
        packages = "--include=python3,python3-venv,ca-certificates"
        _run(["mmdebstrap", "--quiet", "--variant=minbase", packages, "bookworm", str(archive)], quiet=True)
        _run(["docker", "import", str(archive), RAW_IMAGE], quiet=True)


def _add_pip_settings() -> None:
    """Images are built with this host's own pip configuration: its indexes, certificates and folders of packages."""
    settings = _pip_settings()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        lines = [f"FROM {RAW_IMAGE}", "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        for number, (name, value) in enumerate(settings.items()):
            lines += _carried(folder, number, name, value)
        (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
        _run(["docker", "build", "--quiet", "--tag", PYTHON_IMAGE, str(folder)], quiet=True)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # so named by its base
        """Hundreds of lines for each build."""


class _Shared(ThreadingHTTPServer):
    """Builds at the same time share the port: each has its own server."""

    allow_reuse_port = True


@contextlib.contextmanager
def _serving_indexes() -> Iterator[None]:
    """A package index that is a folder of this host is served to builds for as long as they run."""
    with tempfile.TemporaryDirectory() as text:
        for number, folder in enumerate(_served()):
            (Path(text) / str(number)).symlink_to(folder)
        server = _Shared(("127.0.0.1", _INDEX_PORT), partial(_Quiet, directory=text))
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            yield
        finally:
            server.shutdown()
            serving.join()
            server.server_close()


def _served() -> list[Path]:
    """The folders of this host that pip's settings name: an index's pages name files beside the index's own folder."""
    settings = _pip_settings()
    words = settings.get("extra-index-url", "").split()
    indexes = [Path(word.removeprefix("file://")).parent for word in words if word.startswith("file://")]
    links = [Path(word.removeprefix("file://")) for word in settings.get("find-links", "").split()]
    return [*indexes, *(folder for folder in links if folder.is_dir())]


def _reachable(word: str) -> str:
    """Where a build finds what this word names."""
    path = Path(word.removeprefix("file://"))
    for number, folder in enumerate(_served()):
        if path in (folder, folder / path.name):
            return f"http://127.0.0.1:{_INDEX_PORT}/{number}/" + ("" if path == folder else f"{path.name}/")
    return word


def _carried(folder: Path, number: int, name: str, value: str) -> list[str]:
    """A setting as lines of a Dockerfile; the files that it names are copied."""
    lines, words = [], []
    for place, word in enumerate(map(_reachable, value.split())):
        local = Path(word.removeprefix("file://"))
        if not local.is_absolute():
            words.append(word)
        elif local.exists():
            copy = f"{number}-{place}"
            (shutil.copytree if local.is_dir() else shutil.copy)(local, folder / copy)
            lines.append(f"COPY {copy} {local}")
            words.append(word)
    return [*lines, f'ENV PIP_{name.upper().replace("-", "_")}="{" ".join(words)}"'] if words else []


@cache
def _pip_settings() -> dict[str, str]:
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    wanted = ("index-url", "extra-index-url", "find-links", "cert", "trusted-host", "proxy")
    pairs = (line.partition("=") for line in listed.splitlines())
    found = {key.rsplit(".", maxsplit=1)[-1]: value.strip("'\"") for key, _, value in pairs}
    return {name: value for name, value in found.items() if name in wanted}


def _run(command: Sequence[str], *, quiet: bool = False) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "DOCKER_HOST": f"unix://{SOCKET}"}
    try:
        done = subprocess.run(command, check=False, capture_output=quiet, text=True, cwd=ROOT, env=environment)
    except FileNotFoundError as exc:
        sys.exit(f"{exc.filename} is missing: install a Docker engine, and run this again")
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{(done.stdout or '')[-2000:]}\n{(done.stderr or '')[-4000:]}")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
