"""Cold starts in their phases, as processes and as containers side by side in the same run; and the images' sizes.

The two runtimes take turns, round by round, after one start of each that does not count; each figure is the median of
its rounds, each ratio against the process runtime. Judges nothing.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker

from adapters.registry import make_adapters
from benchmarks.cold_hosts import Host, containers, processes
from benchmarks.cold_phases import Phases, middle, phases
from controlplane.settings.manager_file import DEFAULT_CACHE_DIR

_MIB = 1024 * 1024
_SHIPPED = Path(__file__).resolve().parents[1] / "config" / "models.json"
_SIMULATED = {
    "model_id": "simulated",
    "model_type": "text2text",
    "engine": "simulated",
    "vram_required_mb": 64,
    "parameters": {"script": {"memory_mib": 16}},
}
_HEADS = (
    *("engine", "runtime", "create", "process up", "weights", "compile", "ready"),
    *("in all, s", "x process", "first answer, s"),
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that is started, and the smallest call that it answers."""

    engine: str
    model: dict[str, Any]
    path: str
    body: Mapping[str, Any]
    image: str

    @property
    def model_id(self) -> str:
        return str(self.model["model_id"])


def subjects(chosen: Sequence[str]) -> list[Subject]:
    """The shipped models, one for each engine; the simulated one shows what the runtime itself takes."""
    shipped = {entry["model_id"]: entry for entry in json.loads(_SHIPPED.read_text())["models"]}
    chat = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    draw = {"prompt": "a circle", "size": "64x64", "steps": 1}
    chats, images = "/v1/chat/completions", "/v1/images/generations"
    every = (
        Subject("simulated", _SIMULATED, chats, chat, "inference-manager:0.1.0"),
        Subject("diffusers", shipped["shapes-draw"], images, draw, "inference-manager-diffusers-cpu:0.1.0"),
        Subject("vllm", shipped["smollm2-135m"], chats, chat, "inference-manager-vllm-cpu:0.1.0"),
    )
    return [subject for subject in every if subject.engine in chosen]


async def measure(found: Sequence[Subject], chosen: argparse.Namespace) -> dict[tuple[str, str], list[Phases]]:
    """Starts by engine and runtime, one for each round."""
    starts: dict[tuple[str, str], list[Phases]] = {}
    async with contextlib.AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(_host(name, found, chosen, stack)) for name in chosen.runtimes]
        for number in range(chosen.rounds + 1):
            for subject in found:
                for host in hosts:
                    print(f"round {number} of {chosen.rounds}: {subject.engine}, {host.name}", file=sys.stderr)
                    start = await _start(host, subject)
                    if number > 0:
                        starts.setdefault((subject.engine, host.name), []).append(start)
    return starts


def _host(
    name: str, found: Sequence[Subject], chosen: argparse.Namespace, stack: contextlib.AsyncExitStack
) -> contextlib.AbstractAsyncContextManager[Host]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"cold-{name}-")))
    models = [subject.model for subject in found]
    if name == "docker":
        return containers(folder, models, chosen.cache, chosen.socket)
    return processes(folder, models, chosen.cache)


async def _start(host: Host, subject: Subject) -> Phases:
    recorded = await host.start(subject.model_id, subject.path, subject.body)
    return phases(recorded, make_adapters()[subject.engine].cold_phase)


def table(starts: Mapping[tuple[str, str], list[Phases]]) -> str:
    """Markdown, in seconds."""
    medians = {key: middle(found, statistics.median) for key, found in starts.items()}
    rows = [_HEADS, ("---",) * len(_HEADS), *(_row(key, medians) for key in medians)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(key: tuple[str, str], medians: Mapping[tuple[str, str], Phases]) -> tuple[str, ...]:
    engine, runtime = key
    mine, process = medians[key], medians.get((engine, "process"))
    ratio = f"{mine.whole / process.whole:.2f}" if process else ""
    parts = (mine.create, mine.up, mine.weights, mine.compile, mine.ready)
    return (engine, runtime, *(f"{part:.2f}" for part in parts), f"{mine.whole:.2f}", ratio, f"{mine.answer:.2f}")


def sizes(found: Sequence[Subject], socket: str) -> str:
    """Markdown: what each image takes on disk, layers that it shares with others included."""
    rows = [("image", "MiB", "layers"), ("---",) * 3]
    with contextlib.closing(docker.DockerClient(base_url=f"unix://{socket}", version="auto")) as client:
        for subject in found:
            shown = client.images.get(subject.image).attrs
            rows.append((subject.image, f"{shown['Size'] / _MIB:.0f}", str(len(shown["RootFS"]["Layers"]))))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(arguments: list[str]) -> None:
    chosen = options(arguments)
    found = subjects(chosen.engines)
    print(table(asyncio.run(measure(found, chosen))))
    if "docker" in chosen.runtimes:
        print(f"\n{sizes(found, chosen.socket)}")


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line, with its defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=_words, default=("simulated", "diffusers", "vllm"))
    parser.add_argument("--runtimes", type=_words, default=("process", "docker"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--socket", default="/var/run/docker.sock", help="the Docker engine's")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE_DIR.expanduser(), help="environments and models")
    return parser.parse_args(arguments)


def _words(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


if __name__ == "__main__":
    main(sys.argv[1:])
