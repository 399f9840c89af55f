"""Puts the parts of one worker together: pipelines, memory, residence, and the batcher that suits the pipeline."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from engines.diffusers.encodings import Encodings
from engines.diffusers.families import family_of
from engines.diffusers.families.rows import RowFamily
from engines.diffusers.jobs import PipelineFacts
from engines.diffusers.loading import load, modules
from engines.diffusers.memory import DeviceMemory, Memory, host_memory
from engines.diffusers.options import EngineOptions
from engines.diffusers.pipelines import Pipelines, facts, parameters
from engines.diffusers.residence import HostMemoryHeld, ReadAgain, Residence
from engines.diffusers.runs import Preparation
from engines.diffusers.step_batcher import StepBatcher
from engines.diffusers.tally import Batcher
from engines.diffusers.whole_call import CallBatcher


@dataclass(frozen=True, slots=True)
class Loaded:
    facts: PipelineFacts
    batcher: Batcher
    memory: Memory
    residence: Residence


def assemble(model_path: Path, options: EngineOptions, boundary: Callable[[], None]) -> Loaded:
    """Called in the worker's thread. Raises LoadFailed."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.device == "cuda":
        return _on_device(model_path, options, boundary)
    pipelines = load(model_path, options)
    memory = host_memory(options.memory_mib)
    residence = ReadAgain(tuple(modules(pipelines)), lambda: modules(load(model_path, options)), memory)
    return _assembled(pipelines, options, memory, residence, boundary)


def _on_device(model_path: Path, options: EngineOptions, boundary: Callable[[], None]) -> Loaded:
    memory = DeviceMemory(options.memory_mib)
    pipelines = load(model_path, options)
    residence = HostMemoryHeld(tuple(modules(pipelines)), options.offload != "none", memory)
    return _assembled(pipelines, options, memory, residence, boundary)


def _assembled(
    pipelines: Pipelines,
    options: EngineOptions,
    memory: Memory,
    residence: Residence,
    boundary: Callable[[], None],
) -> Loaded:
    family = family_of(type(pipelines.draw).__name__)
    negative = "negative_prompt" in parameters(pipelines.draw)
    negative = negative and (family is None or family.takes_negative_prompt(pipelines.draw))
    batching = why(type(pipelines.draw).__name__, family, options)
    if family is not None and batching[0] == "step":
        encodings = Encodings(options.encodings_cached)
        preparation = Preparation(pipelines, family, encodings, options.scheduler)
        batcher: Batcher = StepBatcher(preparation, memory, options.max_batch_size)
    else:
        most = 1 if options.batching == "none" else options.max_batch_size
        batcher = CallBatcher(pipelines, memory, most, options.scheduler, boundary)
    return Loaded(facts(pipelines, options, batching, negative), batcher, memory, residence)


def why(pipeline: str, family: RowFamily | None, options: EngineOptions) -> tuple[str, str]:
    """How jobs are batched and the reason. Pure."""
    if options.batching == "none":
        return "call", "batching is off in the options: one image at a time"
    if options.batching == "call":
        return "call", "the options ask for whole calls"
    if family is None:
        return "call", f"{pipeline} is not one of the pipelines that are taken apart at the denoiser"
    return "step", f"{pipeline} is taken apart at its {family.denoiser}"
