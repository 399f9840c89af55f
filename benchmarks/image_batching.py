"""Drawing one at a time, in whole-call batches and step by step, side by side: throughput, latency, admission wait.

Three workers of our diffusers engine over one pipeline with random weights take the same arrivals in turn, round by
round; each figure is the median of its rounds, each ratio the median of the rounds' ratios. Judges nothing.
"""

import argparse
import contextlib
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.image_load import MakeJob, Run, Studio, gaps
from benchmarks.image_pipelines import SHAPES, save
from engines.diffusers.jobs import ImageJob, PipelineWorker
from engines.diffusers.options import EngineOptions
from engines.diffusers.worker import start_worker

MODES = {"none": "one at a time", "call": "whole calls", "step": "step by step"}
_ALONE = "none"
_HEADS = (
    *("load", "batching", "images/s", "x", "mean s", "x", "p95 s", "x"),
    *("wait steps, mean", "p95", "rows a call"),
)


@dataclass(frozen=True, slots=True)
class Extent:
    """What is measured: loads as multiples of what one at a time can do, then numbers of clients that wait."""

    loads: tuple[float, ...]
    clients: tuple[int, ...]
    drawings: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Subject:
    """What is drawn: square, so many pixels wide; `mixed`: everybody with steps and guidance of their own."""

    size: int
    steps: int
    mixed: bool

    def job(self, number: int) -> ImageJob:
        chance = random.Random(number)
        return ImageJob(
            job_id=f"drawing/{number}",
            priority=50,
            prompt=f"drawing {number}",
            negative_prompt="",
            width=self.size,
            height=self.size,
            steps=self.steps + (chance.randint(-self.steps // 4, self.steps // 4) if self.mixed else 0),
            guidance=chance.choice((3.5, 5.0, 7.5)) if self.mixed else 5.0,
            scheduler=None,
            seed=number,
        )


@contextlib.contextmanager
def workers(chosen: argparse.Namespace) -> Iterator[Mapping[str, PipelineWorker]]:
    """One worker for each way to batch, on the same weights, warmed up."""
    with tempfile.TemporaryDirectory(prefix="pipeline-") as name, contextlib.ExitStack() as stack:
        save(chosen.shape, Path(name), chosen.device, chosen.dtype)
        found: dict[str, PipelineWorker] = {}
        for mode in MODES:
            settings = {"device": chosen.device, "dtype": chosen.dtype, "threads": chosen.threads, "batching": mode}
            worker = start_worker(Path(name), EngineOptions(max_batch_size=chosen.batch, **settings))
            stack.callback(worker.close)
            found[mode] = worker
        yield found


def measure(found: Mapping[str, PipelineWorker], job: MakeJob, extent: Extent) -> dict[str, dict[str, list[Run]]]:
    """Runs by load and by mode, one for each round."""
    studios = {mode: Studio(worker, job) for mode, worker in found.items()}
    for studio in studios.values():
        studio.clients(2 * max(extent.clients, default=4), 2 * max(extent.clients, default=4))
    alone = studios[_ALONE].clients(1, max(4, extent.drawings // 4)).per_second
    print(f"one at a time: {alone:.3f} images/s", file=sys.stderr)
    runs: dict[str, dict[str, list[Run]]] = {}
    for number in range(extent.rounds):
        for load, drive in _loads(extent, alone, seed=number):
            print(f"round {number + 1} of {extent.rounds}: {load}", file=sys.stderr)
            for mode, studio in studios.items():
                runs.setdefault(load, {}).setdefault(mode, []).append(drive(studio))
    return runs


def _loads(extent: Extent, alone: float, seed: int) -> Iterable[tuple[str, Callable[[Studio], Run]]]:
    for load in extent.loads:
        pauses = gaps(load * alone, extent.drawings, seed)
        yield f"arriving, {load:g} x", lambda studio, pauses=pauses: studio.arriving(pauses)
    for count in extent.clients:
        yield f"{count} clients", lambda studio, count=count: studio.clients(count, extent.drawings)


def table(runs: dict[str, dict[str, list[Run]]]) -> str:
    """Markdown. Ratios are against one at a time: more is better for images, less for seconds."""
    rows = [_HEADS, ("---",) * len(_HEADS)]
    rows += [_row(load, mode, by_mode) for load, by_mode in runs.items() for mode in by_mode]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(load: str, mode: str, by_mode: dict[str, list[Run]]) -> tuple[str, ...]:
    mine, alone = by_mode[mode], by_mode[_ALONE]

    def ratio(figure: Callable[[Run], float]) -> str:
        return f"{statistics.median(figure(m) / figure(a) for m, a in zip(mine, alone, strict=True)):.2f}"

    def median(figure: Callable[[Run], float], form: str) -> str:
        return format(statistics.median(map(figure, mine)), form)

    return (
        *(load, MODES[mode]),
        *(median(lambda r: r.per_second, ".2f"), ratio(lambda r: r.per_second)),
        *(median(lambda r: r.mean_seconds, ".2f"), ratio(lambda r: r.mean_seconds)),
        *(median(lambda r: r.p95_seconds, ".2f"), ratio(lambda r: r.p95_seconds)),
        *(median(lambda r: r.mean_wait_steps, ".1f"), median(lambda r: r.p95_wait_steps, ".1f")),
        median(lambda r: r.mean_rows, ".1f"),
    )


def main(arguments: list[str]) -> None:
    chosen = options(arguments)
    extent = Extent(chosen.loads, chosen.clients, chosen.drawings, chosen.rounds)
    with workers(chosen) as found:
        print(table(measure(found, Subject(chosen.size, chosen.steps, chosen.mixed).job, extent)))


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line, with its defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--size", type=int, default=64, help="pixels on each side")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8, help="most images together")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on a CPU")
    parser.add_argument("--loads", type=_numbers, default=(0.5, 0.9, 1.5, 3.0), help="x what one at a time can do")
    parser.add_argument("--clients", type=_whole, default=(1, 4, 8))
    parser.add_argument("--drawings", type=int, default=24, help="for each load, batching and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mixed", action="store_true", help="everybody with steps and guidance of their own")
    return parser.parse_args(arguments)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",") if part)


def _whole(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


if __name__ == "__main__":
    main(sys.argv[1:])
