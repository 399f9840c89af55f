"""What happens when memory runs out: batches shrink, the job that is too big fails, everybody else is drawn right."""

from collections.abc import Iterator

import pytest
import torch

from engines.diffusers.errors import LoadFailed
from engines.diffusers.jobs import Failed, FailureKind, Finished
from engines.diffusers.memory import HostMemory, host_memory, process_mib
from engines.diffusers.pipelines import Pipelines
from tests.engines import tiny
from tests.engines.batching import Studio, apart, job, plain, three_uses

# One MiB holds one 64x64 image at every step and in the decoder, four in one denoiser call, but not eight (1.6 MiB).
SMALL = 1


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def pipelines() -> Pipelines:
    return three_uses(tiny.sd())


def test_a_batch_that_does_not_fit_is_split(pipelines: Pipelines) -> None:
    """Eight jobs meant for one call are drawn in smaller calls, all right, and the size that fits is remembered."""
    jobs = [job(f"job {number}", steps=3) for number in range(8)]
    studio = Studio(pipelines, memory=HostMemory(SMALL))
    drawn = studio.draw(*jobs)
    assert max(apart(got, plain(pipelines, asked)) for got, asked in zip(drawn, jobs, strict=True)) <= 1e-4
    assert studio.batcher.tally.out_of_memory_total == 1
    studio.draw(*[job(f"later {number}") for number in range(8)])
    assert studio.batcher.tally.out_of_memory_total == 1


@pytest.mark.parametrize("size", [128, 256])
def test_one_job_too_big_fails_alone(pipelines: Pipelines, size: int) -> None:
    """Too big for the decoder (128) or for a step (256), it fails as out of memory, twice; its neighbour is drawn."""
    small = job("small", steps=6)
    studio = Studio(pipelines, memory=HostMemory(SMALL))
    for asked in (job("big", width=size, height=size), small, job("big again", width=size, height=size)):
        studio.add(asked)
    studio.finish()
    for failed in (studio.end("big"), studio.end("big again")):
        assert isinstance(failed, Failed)
        assert failed.kind is FailureKind.OUT_OF_MEMORY
        assert "MiB" in failed.message
    assert apart(studio.drawn("small"), plain(pipelines, small)) <= 1e-4
    assert studio.batcher.running == 0


def test_a_known_need_is_refused_before_it_is_tried(pipelines: Pipelines) -> None:
    """Once a size was too much, the next job of it fails without another step of the denoiser that was too big."""
    memory = HostMemory(SMALL)
    tried = 0

    def action() -> torch.Tensor:
        nonlocal tried
        tried += 1
        return torch.zeros(1024, 1024)

    for _ in range(2):
        with pytest.raises(MemoryError, match="MiB"):
            memory.within("shape", action)
    assert tried == 1


def test_an_early_failure_teaches_nothing() -> None:
    """What fails for another reason leaves its shape unknown: the next of it is counted, and stopped in time."""

    def too_much() -> torch.Tensor:
        return torch.zeros(1024, 1024)

    def wrong() -> torch.Tensor:
        raise ValueError("no such prompt")

    memory = HostMemory(SMALL)
    with pytest.raises(ValueError, match="no such prompt"):
        memory.within("shape", wrong)
    with pytest.raises(MemoryError):
        memory.within("shape", too_much)


def test_memory_given_back_counts_no_more() -> None:
    """What is freed on the way may be taken again: the peak counts, not the sum."""

    def action() -> float:
        total = 0.0
        for _ in range(20):
            total += float(torch.ones(128, 1024).sum())
        return total

    assert HostMemory(SMALL).within("shape", action) == 20 * 128 * 1024


def test_jobs_are_drawn_again_after_memory_ran_out(pipelines: Pipelines) -> None:
    """The batcher is as good as new afterwards."""
    studio = Studio(pipelines, memory=HostMemory(SMALL))
    studio.add(job("big", width=256, height=256))
    studio.finish()
    studio.draw(job("after"))
    assert isinstance(studio.end("after"), Finished)


def test_a_cap_below_what_is_held_is_refused() -> None:
    """With nothing left to draw in, there is one sentence that names both numbers."""
    with pytest.raises(LoadFailed, match="memory_mib is 10"):
        host_memory(10)
    assert host_memory(process_mib() + 100).within("shape", lambda: 1) == 1
