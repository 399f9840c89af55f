"""A second, small worker for the server's tests: a thread that paints flat pictures out of seed and prompt.

`python -m tests.engines.painter ARGUMENTS` is the real server around it. A step takes some milliseconds, so that a
request of thousands of steps outlasts any test. Prompts that start with "fail:" end as that failure.
"""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from PIL import Image

from engines.diffusers.__main__ import Loaders, main
from engines.diffusers.errors import LoadFailed
from engines.diffusers.jobs import (
    Cancelled,
    Failed,
    FailureKind,
    Finished,
    ImageJob,
    OnEvent,
    PipelineFacts,
    Preview,
    Stepped,
    WorkerLoad,
)
from engines.diffusers.options import EngineOptions

STEP_SECONDS = 0.002


@dataclass(slots=True)
class _Painting:
    job: ImageJob
    on_event: OnEvent
    done: int = 0
    shown: int = 0
    cancelled: bool = False
    order: int = field(default=0)


class Painter:
    """A `PipelineWorker`. One lock guards everything; the thread waits on it between steps."""

    def __init__(self, options: EngineOptions) -> None:
        self._max_batch = options.max_batch_size
        self._changed = threading.Condition()
        self._paintings: list[_Painting] = []
        self._naps: list[Future[None]] = []
        self._asleep = self._closed = False
        self._submitted = self._steps = self._rows = self._images = self._short = 0
        self._thread = threading.Thread(target=self._run, name="painter")
        self._thread.start()

    @property
    def facts(self) -> PipelineFacts:
        return PipelineFacts(
            pipeline="Painter",
            batching="step",
            batching_reason="",
            default_width=64,
            default_height=64,
            multiple_of=8,
            default_steps=4,
            default_guidance=7.5,
            schedulers=("ddim", "dpmpp_2m", "euler"),
            takes_negative_prompt=True,
            takes_image=True,
            takes_mask=True,
        )

    def submit(self, job: ImageJob, on_event: OnEvent) -> None:
        with self._changed:
            self._submitted += 1
            painting = _Painting(job, on_event, order=self._submitted, cancelled=self._closed)
            self._paintings.append(painting)
            self._changed.notify_all()
            if not self._closed:
                return
        on_event(Cancelled())

    def cancel(self, job_id: str) -> None:
        with self._changed:
            for painting in self._paintings:
                painting.cancelled |= painting.job.job_id == job_id
            self._changed.notify_all()

    def load(self) -> WorkerLoad:
        with self._changed:
            running = min(len(self._paintings), self._max_batch)
            return WorkerLoad(
                running=running,
                waiting=len(self._paintings) - running,
                steps_total=self._steps,
                rows_total=self._rows,
                images_total=self._images,
                displaced_total=0,
                out_of_memory_total=self._short,
                memory_mib=0,
                asleep=self._asleep,
                alive=self._thread.is_alive(),
            )

    def sleep(self) -> "Future[None]":
        with self._changed:
            self._asleep = True
            nap: Future[None] = Future()
            self._naps.append(nap)
            self._changed.notify_all()
        return nap

    def wake_up(self) -> "Future[None]":
        with self._changed:
            self._asleep = False
            self._changed.notify_all()
        woken: Future[None] = Future()
        woken.set_result(None)
        return woken

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._naps or self._due())
                naps, self._naps = self._naps, []
                due = list(self._paintings) if self._closed else self._due()
                closed = self._closed
                self._changed.wait(0 if closed or any(each.cancelled for each in due) else STEP_SECONDS)
            for nap in naps:
                nap.set_result(None)
            for painting in due:
                if painting.cancelled or closed:
                    self._end(painting, Cancelled())
                else:
                    self._step(painting, len(due))
            self._steps += bool(due)
            if closed:
                return

    def _due(self) -> list[_Painting]:
        """The highest priorities first; the cancelled even in sleep."""
        given_up = [each for each in self._paintings if each.cancelled]
        if self._asleep:
            return given_up
        ordered = sorted(self._paintings, key=lambda each: (-each.job.priority, each.order))
        return given_up or ordered[: self._max_batch]

    def _step(self, painting: _Painting, batch: int) -> None:
        job = painting.job
        if job.prompt.startswith("fail:"):
            kind = FailureKind(job.prompt.removeprefix("fail:"))
            self._short += kind is FailureKind.OUT_OF_MEMORY
            self._end(painting, Failed(kind, "as the prompt says", "prompt" if kind is FailureKind.INVALID else None))
            return
        painting.done += 1
        self._rows += 1
        painting.on_event(Stepped(painting.done, job.steps, batch))
        if painting.shown < min(job.preview_count, job.steps - 1):
            painting.on_event(Preview(painting.shown, painted(job)))
            painting.shown += 1
        if painting.done == job.steps:
            self._images += 1
            self._end(painting, Finished(painted(job)))

    def _end(self, painting: _Painting, event: Finished | Failed | Cancelled) -> None:
        with self._changed:
            self._paintings.remove(painting)
        painting.on_event(event)


def painted(job: ImageJob) -> Image.Image:
    """One colour, out of seed and prompt; laid over what is to be edited, where its mask is white."""
    digest = sha256(f"{job.seed} {job.prompt} {job.negative_prompt}".encode()).digest()
    flat = Image.new("RGB", (job.width, job.height), (digest[0], digest[1], digest[2]))
    if job.image is None:
        return flat
    if job.mask is None:
        return Image.blend(job.image, flat, job.strength)
    return Image.composite(flat, job.image, job.mask)


def start_painter(model_path: Path, options: EngineOptions) -> Painter:
    """Raises `LoadFailed` where there is no such folder; one named "forever" takes that long."""
    if model_path.name == "forever":
        print("loading forever", flush=True)
        threading.Event().wait()
    if not model_path.is_dir():
        raise LoadFailed(f"there is no folder {model_path}")
    return Painter(options)


class Sharpener:
    """An upscaler that leaves a red mark; wholly black does not fit into its memory, wholly white takes forever."""

    name = "sharpener-x4"

    def upscale(self, image: Image.Image, size: tuple[int, int], check_wanted: Callable[[], None]) -> Image.Image:
        check_wanted()
        if image.convert("L").getextrema() == (0, 0):
            raise MemoryError("black does not fit")
        while image.convert("L").getextrema() == (255, 255):
            threading.Event().wait(STEP_SECONDS)
            check_wanted()
        grown = image.resize(size)
        grown.putpixel((0, 0), (255, 0, 0))
        return grown

    def sleep(self) -> None: ...

    def wake_up(self) -> None: ...


def start_sharpener(path: Path, options: EngineOptions) -> Sharpener:
    """Raises `LoadFailed` where there is no such file."""
    if not path.exists():
        raise LoadFailed(f"there is no upscaler {path}")
    return Sharpener()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Loaders(start_painter, start_sharpener)))
