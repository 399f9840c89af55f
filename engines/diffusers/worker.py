"""The one thread of a loaded pipeline: hears what callers want between steps, and lets the batcher do the next step.

It decides nothing about order and knows nothing of tensors. Every method may be called from any thread.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import torch

from engines.diffusers.assembly import Loaded, assemble
from engines.diffusers.errors import LoadFailed
from engines.diffusers.jobs import (
    Cancelled,
    Failed,
    FailureKind,
    ImageJob,
    JobEvent,
    OnEvent,
    PipelineFacts,
    PipelineWorker,
    WorkerLoad,
)
from engines.diffusers.options import EngineOptions

_DIED = Failed(FailureKind.INTERNAL, "the pipeline's thread ended")


def start_worker(model_path: Path, options: EngineOptions) -> PipelineWorker:
    """Load the pipeline in its new thread and wait for it. Raises LoadFailed with one sentence naming the cause."""
    worker = _Worker(model_path, options)
    try:
        worker.loaded.result()
    except LoadFailed:
        worker.close()
        raise
    return worker


class _Worker:
    def __init__(self, model_path: Path, options: EngineOptions) -> None:
        self.loaded: Future[Loaded] = Future()
        self._wishes: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._door = threading.Lock()
        self._open = True
        self._closing = False
        self._asleep = False
        self._bedtimes: list[tuple[bool, Future[None]]] = []
        self._unheard = 0
        self._seen = (0, 0)
        self._thread = threading.Thread(target=self._run, args=(model_path, options), name="pipeline", daemon=True)
        self._thread.start()

    @property
    def facts(self) -> PipelineFacts:
        return self.loaded.result().facts

    def submit(self, job: ImageJob, on_event: OnEvent) -> None:
        """Queue a job; once the worker is closed it is cancelled at once."""
        with self._door:
            is_open = self._open
            if is_open:
                self._unheard += 1
                self._wishes.put(lambda: self._add(job, on_event))
        if not is_open:
            on_event(Cancelled())

    def cancel(self, job_id: str) -> None:
        self._wishes.put(lambda: self._batcher.cancel(job_id))

    def sleep(self) -> "Future[None]":
        return self._go(asleep=True)

    def wake_up(self) -> "Future[None]":
        return self._go(asleep=False)

    def load(self) -> WorkerLoad:
        loaded, (running, waiting) = self.loaded.result(), self._seen
        tally = loaded.batcher.tally
        return WorkerLoad(
            running=running,
            waiting=waiting + self._unheard,
            steps_total=tally.steps_total,
            rows_total=tally.rows_total,
            images_total=tally.images_total,
            displaced_total=tally.displaced_total,
            out_of_memory_total=tally.out_of_memory_total,
            memory_mib=loaded.memory.used_mib(),
            asleep=self._asleep,
            alive=self._thread.is_alive(),
        )

    def close(self) -> None:
        self._wishes.put(self._close)
        self._thread.join()

    def _go(self, *, asleep: bool) -> "Future[None]":
        done: Future[None] = Future()
        with self._door:
            is_open = self._open
            if is_open:
                self._wishes.put(lambda: self._bedtimes.append((asleep, done)))
        if not is_open:
            done.cancel()
        return done

    # Below: the worker's own thread.

    def _run(self, model_path: Path, options: EngineOptions) -> None:
        torch.set_grad_enabled(False)
        try:
            loaded = assemble(model_path, options, self._hear)
        except LoadFailed as error:
            self.loaded.set_exception(error)
            return
        self._batcher, self._residence = loaded.batcher, loaded.residence
        self.loaded.set_result(loaded)
        last: JobEvent = _DIED
        try:
            self._serve()
            last = Cancelled()
        finally:
            self._end(last)

    def _serve(self) -> None:
        busy = False
        while not self._closing:
            if not busy or self._asleep:
                self._wishes.get()()
            self._hear()
            self._keep_bedtimes()
            busy = not self._asleep and not self._closing and self._batcher.advance()
            self._look()

    def _hear(self) -> None:
        """Everything that callers have wished so far."""
        while not self._wishes.empty():
            self._wishes.get()()
        self._look()

    def _keep_bedtimes(self) -> None:
        while self._bedtimes:
            asleep, done = self._bedtimes.pop(0)
            if not done.set_running_or_notify_cancel():
                continue
            try:
                self._move(asleep)
            except (OSError, RuntimeError, MemoryError, LoadFailed) as error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _move(self, asleep: bool) -> None:
        if asleep == self._asleep:
            return
        if asleep:
            self._residence.sleep()
        else:
            self._residence.wake()
        self._asleep = asleep

    def _add(self, job: ImageJob, on_event: OnEvent) -> None:
        with self._door:
            self._unheard -= 1
        self._batcher.add(job, on_event)

    def _close(self) -> None:
        self._closing = True
        self._batcher.end_all(Cancelled())

    def _look(self) -> None:
        """Show callers who runs and who waits; the batcher's own books change under their eyes."""
        self._seen = (self._batcher.running, self._batcher.waiting)

    def _end(self, last: JobEvent) -> None:
        with self._door:
            self._open = False
        self._hear()
        self._batcher.end_all(last)
        for _, done in self._bedtimes:
            done.cancel()
        self._look()
