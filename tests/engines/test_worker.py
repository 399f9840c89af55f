"""The worker's thread, on a model folder on disk: loading, drawing, sleeping, closing, and what is refused."""

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import ImageChops
from safetensors.torch import save_file

from engines.diffusers.errors import LoadFailed
from engines.diffusers.jobs import (
    Cancelled,
    Failed,
    FailureKind,
    Finished,
    ImageJob,
    JobEvent,
    PipelineWorker,
    Preview,
    Stepped,
)
from engines.diffusers.memory import process_mib
from engines.diffusers.options import EngineOptions, Lora
from engines.diffusers.worker import start_worker
from tests.engines import tiny
from tests.engines.batching import job

LONG = 120.0


@dataclass
class Heard:
    """A job's events, and a wait for them."""

    events: list[JobEvent] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    stepped: threading.Event = field(default_factory=threading.Event)

    def __call__(self, event: JobEvent) -> None:
        self.events.append(event)
        if isinstance(event, Stepped):
            self.stepped.set()
        elif not isinstance(event, Preview):
            self.over.set()

    def end(self) -> JobEvent:
        assert self.over.wait(LONG)
        return self.events[-1]


def submit(worker: PipelineWorker, asked: ImageJob) -> Heard:
    heard = Heard()
    worker.submit(asked, heard)
    return heard


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd")
    tiny.sd().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def worker(model: Path) -> Iterator[PipelineWorker]:
    started = start_worker(model, EngineOptions(threads=1))
    yield started
    started.close()


def test_facts(worker: PipelineWorker) -> None:
    """What the server tells of the pipeline comes from the pipeline."""
    facts = worker.facts
    assert (facts.pipeline, facts.batching) == ("StableDiffusionPipeline", "step")
    assert (facts.default_width, facts.default_height, facts.multiple_of) == (64, 64, 8)
    assert (facts.default_steps, facts.default_guidance) == (50, 7.5)
    assert facts.takes_image
    assert facts.takes_mask
    assert facts.takes_negative_prompt
    assert "euler_a" in facts.schedulers


def test_jobs_from_many_threads(worker: PipelineWorker) -> None:
    """Twelve jobs submitted from as many threads all end with an image, and the counters add up."""
    before, heard = worker.load(), [Heard() for _ in range(12)]
    threads = [
        threading.Thread(target=worker.submit, args=(job(f"thread {number}", steps=3), each))
        for number, each in enumerate(heard)
    ]
    for thread in threads:
        thread.start()
    for each in heard:
        assert isinstance(each.end(), Finished)
    for thread in threads:
        thread.join()
    after = worker.load()
    assert after.images_total - before.images_total == 12
    assert after.rows_total - before.rows_total == 36
    assert after.alive
    assert after.memory_mib > 0


def test_cancelling_by_id_while_it_runs(worker: PipelineWorker) -> None:
    """A running job of very many steps ends as Cancelled."""
    heard = submit(worker, job("long", steps=900))
    assert heard.stepped.wait(LONG)
    worker.cancel("long")
    assert isinstance(heard.end(), Cancelled)
    assert len(heard.events) < 900


def test_sleep_frees_and_waking_continues(worker: PipelineWorker) -> None:
    """A running job stands still while asleep and ends with the very image that it would have had."""
    expected = submit(worker, job("awake", steps=30, seed=5, prompt="same")).end()
    assert isinstance(expected, Finished)
    heard = submit(worker, job("sleeps", steps=30, seed=5, prompt="same"))
    assert heard.stepped.wait(LONG)
    worker.sleep().result(LONG)
    late = submit(worker, job("late"))
    assert worker.load().asleep
    done = len(heard.events)
    worker.sleep().result(LONG)
    assert len(heard.events) == done
    assert not late.events
    worker.wake_up().result(LONG)
    assert not worker.load().asleep
    got = heard.end()
    assert isinstance(got, Finished)
    # Alone or in a batch with `late` may round one pixel's value the other way.
    assert not ImageChops.difference(got.image, expected.image).convert("L").point(lambda value: value > 1).getbbox()
    assert isinstance(late.end(), Finished)


def test_sleep_gives_memory_back(tmp_path: Path) -> None:
    """Weights of 150 MiB are gone from the process while asleep, and the same image is drawn after waking."""
    tiny.sd(more_mib=150).to(torch.float16).save_pretrained(tmp_path)
    worker = start_worker(tmp_path, EngineOptions(threads=1))
    try:
        before = submit(worker, job("before", steps=2, seed=1, prompt="same")).end()
        awake_mib = worker.load().memory_mib
        worker.sleep().result(LONG)
        assert worker.load().memory_mib < awake_mib - 100
        worker.wake_up().result(LONG)
        after = submit(worker, job("after", steps=2, seed=1, prompt="same")).end()
        assert isinstance(before, Finished)
        assert isinstance(after, Finished)
        assert after.image.tobytes() == before.image.tobytes()
    finally:
        worker.close()


def test_closing_cancels_everything(model: Path) -> None:
    """Running and waiting jobs end as Cancelled, the thread is over, and a later job is cancelled at once."""
    worker = start_worker(model, EngineOptions(threads=1, max_batch_size=1))
    heard = [submit(worker, job(f"job {number}", steps=900)) for number in range(4)]
    assert heard[0].stepped.wait(LONG)
    worker.close()
    assert [type(each.end()) for each in heard] == [Cancelled] * 4
    assert not worker.load().alive
    assert isinstance(submit(worker, job("late")).end(), Cancelled)
    assert worker.sleep().cancelled()


def test_closing_while_asleep(model: Path) -> None:
    """A sleeping worker closes too, and its waiting job is cancelled."""
    worker = start_worker(model, EngineOptions(threads=1))
    worker.sleep().result(LONG)
    heard = submit(worker, job("waits"))
    worker.close()
    assert isinstance(heard.end(), Cancelled)


def test_a_cap_makes_big_jobs_fail_and_small_ones_live(model: Path) -> None:
    """Under memory_mib a large image fails as out of memory; the worker lives and draws small ones."""
    worker = start_worker(model, EngineOptions(threads=1, memory_mib=process_mib() + 50))
    try:
        failed = submit(worker, job("big", width=640, height=640, steps=1, guidance=1.0)).end()
        assert isinstance(failed, Failed)
        assert failed.kind is FailureKind.OUT_OF_MEMORY
        assert isinstance(submit(worker, job("small", steps=1)).end(), Finished)
        assert worker.load().alive
    finally:
        worker.close()


def test_waking_without_the_model_folder_fails_and_can_be_tried_again(model: Path, tmp_path: Path) -> None:
    """The wake-up fails with the cause, the worker stays asleep and alive, and wakes once the folder is back."""
    folder, away = tmp_path / "model", tmp_path / "away"
    shutil.copytree(model, folder)
    worker = start_worker(folder, EngineOptions(threads=1))
    try:
        worker.sleep().result(LONG)
        folder.rename(away)
        assert isinstance(worker.wake_up().exception(LONG), LoadFailed)
        assert worker.load().asleep
        away.rename(folder)
        worker.wake_up().result(LONG)
        assert isinstance(submit(worker, job("after", steps=1)).end(), Finished)
    finally:
        worker.close()


def test_no_model_folder(tmp_path: Path) -> None:
    """The cause is named."""
    with pytest.raises(LoadFailed, match="it has no model_index"):
        start_worker(tmp_path, EngineOptions())


def test_broken_weights(model: Path, tmp_path: Path) -> None:
    """A truncated weights file is a LoadFailed that names the folder."""
    shutil.copytree(model, tmp_path / "broken")
    (weights,) = (tmp_path / "broken" / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(LoadFailed, match="broken"):
        start_worker(tmp_path / "broken", EngineOptions())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (EngineOptions(offload="model"), "offload"),
        (EngineOptions(scheduler="flow_match_euler"), "flow_match_euler"),
        (EngineOptions(memory_mib=1), "weights"),
        (EngineOptions(memory_mib=50), "holds"),
        (EngineOptions(attention_backend="no_such"), "no_such"),
        (EngineOptions(loras=(Lora(path="/nowhere/style.safetensors"),)), "LoRA /nowhere/style.safetensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_that_cannot_be(model: Path, options: EngineOptions, words: str) -> None:
    """Each is a LoadFailed in one line that names the option's value."""
    with pytest.raises(LoadFailed, match=words) as caught:
        start_worker(model, options)
    assert "\n" not in str(caught.value)


def _lora(pipeline: object, file: Path) -> Path:
    unet = pipeline.unet  # type: ignore[attr-defined]
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    weights = get_peft_model_state_dict(unet)
    save_file({f"unet.{name}": torch.randn(weight.shape) * 0.5 for name, weight in weights.items()}, str(file))
    return file


def test_a_lora_changes_the_image(model: Path, worker: PipelineWorker, tmp_path: Path) -> None:
    """The same job with a LoRA is another image; at scale 0 it is the same."""
    torch.manual_seed(0)
    file = _lora(tiny.sd(), tmp_path / "style.safetensors")
    asked = job("styled", steps=4, seed=3)
    images = [submit(worker, asked).end()]
    for scale in (0.0, 1.0):
        styled = start_worker(model, EngineOptions(threads=1, loras=(Lora(path=str(file), scale=scale),)))
        images.append(submit(styled, asked).end())
        styled.close()
    plain, off, on = (end.image.tobytes() for end in images if isinstance(end, Finished))
    assert plain == off
    assert plain != on


@pytest.mark.parametrize("wrong", ["another model's", "no LoRA", "not safetensors"])
def test_a_lora_that_does_not_fit(model: Path, tmp_path: Path, wrong: str) -> None:
    """It is a LoadFailed that names the LoRA, never a model without it."""
    file = tmp_path / "wrong.safetensors"
    if wrong == "another model's":
        _lora(tiny.sdxl(), file)
    elif wrong == "no LoRA":
        save_file({"some.weight": torch.zeros(2, 2)}, str(file))
    else:
        file.write_bytes(json.dumps({"no": "weights"}).encode())
    with pytest.raises(LoadFailed, match="LoRA sketch does not fit"):
        start_worker(model, EngineOptions(loras=(Lora(path=str(file), name="sketch"),)))
