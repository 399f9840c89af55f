"""From a model folder and the options to pipelines ready to draw. Reads no network; every failure is a LoadFailed."""

import logging
import math
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from engines.diffusers import memory, schedulers, weights
from engines.diffusers.errors import LoadFailed
from engines.diffusers.options import EngineOptions, Lora
from engines.diffusers.pipelines import Pipelines

_log = logging.getLogger(__name__)


def load(model_path: Path, options: EngineOptions) -> Pipelines:
    """Raises LoadFailed with one sentence that names the cause."""
    if not (model_path / "model_index.json").is_file():
        raise LoadFailed(f"cannot load {model_path}: it has no model_index.json, so it is no diffusers model folder")
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    try:
        _check_room(model_path, options)
        pipelines = _loaded(model_path, options)
    except LoadFailed:
        raise
    except Exception as error:
        raise LoadFailed(f"cannot load {model_path}: {_one_line(error)}") from error
    _check_scheduler(pipelines, options)
    return pipelines


def denoiser_of(pipeline: Any) -> Any | None:
    """The UNet or transformer; None where the pipeline is made of other pipelines."""
    return getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)


def modules(pipelines: Pipelines) -> list[torch.nn.Module]:
    """Everything with weights, once."""
    found = {id(part): part for pipeline in pipelines.each() for part in pipeline.components.values()}
    return [part for part in found.values() if isinstance(part, torch.nn.Module)]


def _loaded(model_path: Path, options: EngineOptions) -> Pipelines:
    pipeline = diffusers.AutoPipelineForText2Image.from_pretrained(
        str(model_path),
        dtype=_dtype(options),
        variant=weights.only_variant(model_path),
        local_files_only=True,
        **_quantization(options),
    )
    pipeline.set_progress_bar_config(disable=True)
    _add_loras(pipeline, options.loras)
    _place(pipeline, options)
    _tune(pipeline, options)
    return Pipelines(
        pipeline,
        _sibling(diffusers.AutoPipelineForImage2Image, pipeline),
        _sibling(diffusers.AutoPipelineForInpainting, pipeline),
    )


def _check_room(model_path: Path, options: EngineOptions) -> None:
    """Refuse what cannot fit before it fills the machine. Quantised or offloaded weights take less than their files."""
    if options.memory_mib is None or options.quantization is not None or options.offload != "none":
        return
    numbers = weights.parameters_in(weights.files_of(model_path, weights.only_variant(model_path)))
    needed_mib = math.ceil(numbers * _dtype(options).itemsize / memory.MIB)
    if needed_mib > options.memory_mib:
        raise LoadFailed(f"{model_path} has {needed_mib} MiB of weights and memory_mib is {options.memory_mib}")


def _dtype(options: EngineOptions) -> torch.dtype:
    name = options.dtype or ("float32" if options.device == "cpu" else "bfloat16")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _quantization(options: EngineOptions) -> dict[str, Any]:
    asked = options.quantization
    if asked is None:
        return {}
    config = diffusers.PipelineQuantizationConfig(
        quant_backend=asked.backend,
        quant_kwargs=dict(asked.kwargs),
        components_to_quantize=list(asked.components) if asked.components else None,
    )
    return {"quantization_config": config}


def _place(pipeline: Any, options: EngineOptions) -> None:
    if options.offload != "none" and options.device == "cpu":
        raise LoadFailed(f"offload {options.offload!r} moves weights between host and device: device is cpu, drop it")
    if options.offload == "none":
        pipeline.to(options.device)
    elif options.offload == "model":
        pipeline.enable_model_cpu_offload(device=options.device)
    elif options.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=options.device)
    else:
        pipeline.enable_group_offload(
            onload_device=torch.device(options.device), offload_type="leaf_level", use_stream=True
        )


def _tune(pipeline: Any, options: EngineOptions) -> None:
    denoiser = denoiser_of(pipeline)
    if options.vae_tiling:
        pipeline.vae.enable_tiling()
    if options.attention_backend is not None and denoiser is not None:
        denoiser.set_attention_backend(options.attention_backend)
    if options.compile and denoiser is not None:
        # For each image size; runs.py says that rows vary. With everything dynamic, compiling takes many minutes.
        denoiser.compile(dynamic=False)


def _sibling(auto: Any, pipeline: Any) -> Any | None:
    """The same weights in another use; None where diffusers knows no such pipeline."""
    try:
        sibling = auto.from_pipe(pipeline)
    except ValueError:
        _log.info("%s has no %s", type(pipeline).__name__, auto.__name__)
        return None
    sibling.set_progress_bar_config(disable=True)
    return sibling


def _add_loras(pipeline: Any, loras: tuple[Lora, ...]) -> None:
    if not loras:
        return
    if not hasattr(pipeline, "load_lora_weights"):
        raise LoadFailed(f"{type(pipeline).__name__} takes no LoRA: remove it from the model's options")
    for number, lora in enumerate(loras):
        _add_lora(pipeline, f"lora{number}", lora)
    pipeline.set_adapters([f"lora{number}" for number in range(len(loras))], [lora.scale for lora in loras])


def _add_lora(pipeline: Any, adapter: str, lora: Lora) -> None:
    shown = lora.name or lora.path
    path = Path(lora.path)
    if not path.exists():
        raise LoadFailed(f"LoRA {shown} is not there: {path}")
    folder, file = (path, None) if path.is_dir() else (path.parent, path.name)
    try:
        pipeline.load_lora_weights(str(folder), weight_name=file, adapter_name=adapter, local_files_only=True)
    except (RuntimeError, ValueError, KeyError, OSError, TypeError, AttributeError, IndexError) as error:
        raise LoadFailed(f"LoRA {shown} does not fit this model: {_one_line(error)}") from error
    # diffusers only logs it when no weight of the file belongs to this model.
    if not any(adapter in names for names in pipeline.get_list_adapters().values()):
        raise LoadFailed(f"LoRA {shown} does not fit this model: none of its weights belongs to a layer of it")


def _check_scheduler(pipelines: Pipelines, options: EngineOptions) -> None:
    known = schedulers.names(pipelines.draw)
    if options.scheduler is not None and options.scheduler not in known:
        raise LoadFailed(f"this model cannot use the scheduler {options.scheduler!r}: it takes {', '.join(known)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
