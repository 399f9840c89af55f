"""One request's pictures from the worker's thread to the answer: events in, encoded pictures and SSE frames out."""

import asyncio
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic, time

from PIL.Image import Image

from engines.diffusers import refusals
from engines.diffusers.drawings import Drawing
from engines.diffusers.engine import Engine
from engines.diffusers.jobs import Cancelled, Failed, Finished, JobEvent, Preview, Stepped
from engines.diffusers.live import Progress
from engines.diffusers.streaming import frame
from engines.diffusers.wire import CompletedImage, ImagesAnswer, PartialImage, Picture, Timings
from engines.pictures.encoding import encode


@dataclass(frozen=True, slots=True)
class Ticket:
    """Under which id and priority a request runs."""

    request_id: str
    priority: int


class DrawingWork:
    """Draws all images of one request at once. With a stream, `frames` gets what is shown, and None at the end."""

    def __init__(self, ticket: Ticket, drawing: Drawing, engine: Engine, kind: str) -> None:
        self.kind = kind
        self.frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._drawing = drawing
        self._wanted = True
        self._worker = engine.pipeline()
        self._metrics = engine.metrics
        self._threads = engine.threads
        self._jobs = drawing.jobs(ticket.request_id, ticket.priority)
        self._events: list[asyncio.Queue[JobEvent]] = [asyncio.Queue() for _ in self._jobs]
        self._clock = _Clock([drawing.steps] * drawing.n)

    async def run(self) -> bytes:
        """An `ImagesAnswer`. Raises `Refused`."""
        loop = asyncio.get_running_loop()
        pictures = [asyncio.create_task(self._picture(index)) for index in range(len(self._jobs))]
        try:
            if not self._wanted:
                raise refusals.cancelled()
            for job, events in zip(self._jobs, self._events, strict=True):
                self._worker.submit(job, partial(_hand_over, loop, events))
            answer = self._answer(await asyncio.gather(*pictures))
            return await self._threads.run(lambda: answer.model_dump_json().encode())
        finally:
            self.cancel()
            for picture in pictures:
                picture.cancel()
            self.frames.put_nowait(None)

    def cancel(self) -> None:
        self._wanted = False
        for job in self._jobs:
            self._worker.cancel(job.job_id)

    def progress(self) -> Progress:
        return self._clock.progress()

    async def _picture(self, index: int) -> Picture:
        """Follow one job to its end."""
        while True:
            event = await self._events[index].get()
            match event:
                case Stepped():
                    if self._clock.stepped(index, event):
                        self._metrics.first_step(self.kind, self._clock.first_step_seconds)
                case Preview():
                    await self._show(index, event)
                case Finished():
                    return await self._finish(index, event)
                case Failed():
                    raise refusals.failed(event)
                case Cancelled():
                    raise refusals.cancelled()

    async def _show(self, index: int, preview: Preview) -> None:
        text = await self._encoded(preview.image)
        shown = PartialImage(
            type=f"{self.kind}.partial_image",
            b64_json=text,
            partial_image_index=preview.index,
            image_index=index,
            created_at=int(time()),
            size=self._drawing.size_text,
            quality=self._drawing.quality,
            output_format=self._drawing.encoding.output_format,
        )
        self.frames.put_nowait(await self._threads.run(frame, shown))

    async def _finish(self, index: int, finished: Finished) -> Picture:
        text = await self._encoded(finished.image)
        self._clock.finished()
        picture = Picture(b64_json=text, seed=self._jobs[index].seed)
        if self._drawing.stream:
            self.frames.put_nowait(await self._threads.run(frame, self._completed(index, picture)))
        return picture

    async def _encoded(self, image: Image) -> str:
        started_at = monotonic()
        text = await self._threads.run(_text, image, self._drawing)
        self._metrics.encoded(self.kind, monotonic() - started_at)
        return text

    def _completed(self, index: int, picture: Picture) -> CompletedImage:
        return CompletedImage(
            type=f"{self.kind}.completed",
            b64_json=picture.b64_json,
            image_index=index,
            seed=self._jobs[index].seed,
            created_at=int(time()),
            size=self._drawing.size_text,
            quality=self._drawing.quality,
            output_format=self._drawing.encoding.output_format,
            usage=self._drawing.usage(),
        )

    def _answer(self, pictures: list[Picture]) -> ImagesAnswer:
        return ImagesAnswer(
            created=int(time()),
            data=pictures,
            output_format=self._drawing.encoding.output_format,
            size=self._drawing.size_text,
            quality=self._drawing.quality,
            usage=self._drawing.usage(),
            timings=self._clock.timings(),
        )


def _hand_over(loop: asyncio.AbstractEventLoop, events: "asyncio.Queue[JobEvent]", event: JobEvent) -> None:
    """From the worker's thread to the loop's."""
    with suppress(RuntimeError):  # the loop is closed: the process ends, and nobody waits for this any more
        loop.call_soon_threadsafe(events.put_nowait, event)


def _text(image: Image, drawing: Drawing) -> str:
    return b64encode(encode(image, drawing.encoding)).decode()


class _Clock:
    """Counts the steps of all images, and the time."""

    def __init__(self, steps: list[int]) -> None:
        self._totals = steps
        self._done = [0] * len(steps)
        self._images_done = 0
        self._batch = 0
        self._batches = 0
        self._reports = 0
        self._started_at = monotonic()
        self._first_step_at: float | None = None

    def stepped(self, index: int, event: Stepped) -> bool:
        """Note a step; says whether it is the first of the request."""
        self._done[index], self._totals[index] = event.done, event.total
        self._batch = event.batch
        self._batches += event.batch
        self._reports += 1
        first = self._first_step_at is None
        if first:
            self._first_step_at = monotonic()
        return first

    def finished(self) -> None:
        self._images_done += 1

    @property
    def first_step_seconds(self) -> float:
        """Until now where no step was reported."""
        return (self._first_step_at or monotonic()) - self._started_at

    def progress(self) -> Progress:
        images, steps = (self._images_done, len(self._totals)), (sum(self._done), sum(self._totals))
        return Progress(self._first_step_at is not None, images, steps, self._batch)

    def timings(self) -> Timings:
        total, first = monotonic() - self._started_at, self.first_step_seconds
        return Timings(
            first_step_seconds=first,
            drawing_seconds=max(0.0, total - first),
            total_seconds=total,
            steps=sum(self._done),
            mean_batch=self._batches / self._reports if self._reports else 0.0,
        )
