"""Turns a model's entry and its memory budget into the command line of our diffusers engine.

Pure, but for the model folder's footprint, which is read through the function given. Raises `LaunchError`
for what could only fail later, and slower.
"""

import math
from collections.abc import Callable
from pathlib import Path

import engines
from adapters.base import Batching, Launch, ModelLaunch, Target
from adapters.diffusers.footprint import Footprint
from adapters.diffusers.options import batch_rows, engine_options
from adapters.errors import LaunchError
from adapters.vllm.options import positive, seconds
from engines.diffusers.options import EngineOptions

LAUNCHER = Path(engines.__path__[0]) / "run.py"
PROCESSING = "image_processing"

# What the process takes beside weights and activations, with some air. Measured on a host: PyTorch, diffusers and the
# server with a pipeline of 5 MiB hold 450 MiB (PSS) once it has drawn; without a pipeline, 80 MiB after a picture of
# 4 megapixels. On a GPU the context and the libraries' workspaces.
HOST_OVERHEAD_MIB = 512
CUDA_OVERHEAD_MIB = 640
# On a CPU convolutions work on copies in layouts of their own: with SD's decoder 320 MiB where 192 were counted.
HOST_COPIES = 5 / 3
PROCESSING_MIB = 128
UPSCALING_MIB = 512

_TYPES = frozenset({"text2image", PROCESSING})
_WIDTH_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_READY_TIMEOUT_SECONDS = 600.0  # tens of gigabytes from a slow disk
_STOP_GRACE_SECONDS = 20.0
_DRAWING_SHARE = 0.4  # of the grace: for what still draws; then it is cancelled, which takes a step
_LINGER_SECONDS = 0.05

_ENV = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


def plan_batching(model: ModelLaunch) -> Batching:
    """How this model's pictures are drawn together."""
    asked = model.options.get("batching", "step")
    rows = 1 if asked == "none" else batch_rows(model)
    if asked == "step":
        return Batching("steps", rows)
    linger = model.options.get("linger_seconds", _LINGER_SECONDS if asked == "call" else 0.0)
    return Batching("calls", rows, linger if isinstance(linger, int | float) and linger > 0 else 0.0)


def plan_launch(model: ModelLaunch, target: Target, footprint: Callable[[str], Footprint], cores: int) -> Launch:
    """The launch of one replica. `cores`: how many the host has for it, when no `threads` option says so."""
    try:
        return _plan(model, target, footprint, cores)
    except LaunchError as exc:
        raise LaunchError(f"cannot start {model.model_id}: {exc}") from exc


def _plan(model: ModelLaunch, target: Target, footprint: Callable[[str], Footprint], cores: int) -> Launch:
    _refuse(model)
    # One core is left to the process that answers.
    options = engine_options(model, target, max(1, cores - 1))
    if model.model_path:
        _check_budget(model, target, options, footprint(model.model_path))
    else:
        _check_processing_budget(model, options)
    grace_seconds = seconds(model.options, "stop_grace_seconds", _STOP_GRACE_SECONDS)
    environment = "diffusers-cuda" if target.kind == "cuda" else "diffusers-cpu"
    return Launch(
        environment=str(model.options.get("environment", environment)),
        argv=(
            *("{python}", "-P", str(LAUNCHER), "diffusers", "--uds", "{uds}"),
            *("--grace-seconds", f"{grace_seconds * _DRAWING_SHARE:g}"),
            *(("--model-path", model.model_path) if model.model_path else ()),
            *("--model", model.model_id, *model.aliases),
            *("--options", options.model_dump_json(exclude_unset=True)),
            *model.args,
        ),
        env={**_ENV, **_device_env(target, options), **model.env},
        listen="unix",
        ready_timeout_seconds=seconds(model.options, "ready_timeout_seconds", _READY_TIMEOUT_SECONDS),
        stop_grace_seconds=grace_seconds,
    )


def _refuse(model: ModelLaunch) -> None:
    unknown = sorted(set(model.types) - _TYPES)
    if unknown:
        raise LaunchError(f"diffusers does not serve {', '.join(unknown)}; it serves {', '.join(sorted(_TYPES))}")
    if not model.model_path and set(model.types) != {PROCESSING}:
        raise LaunchError("it has no model_path, so it cannot draw; set model_path, or serve image_processing alone")


def _device_env(target: Target, options: EngineOptions) -> dict[str, str]:
    if target.kind == "cuda":
        # CUDA numbers devices by speed unless told to use the order that NVML reports.
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(target.index)}
    return {"OMP_NUM_THREADS": str(options.threads), "CUDA_VISIBLE_DEVICES": ""}


def _check_budget(model: ModelLaunch, target: Target, options: EngineOptions, footprint: Footprint) -> None:
    """Refuse what cannot draw even one picture of the usual size; a larger batch is the engine's to split."""
    if target.kind == "cuda" and model.budget_mib > target.total_mib:
        raise LaunchError(f"a budget of {model.budget_mib} MiB is more than the device's {target.total_mib} MiB")
    overhead_mib = _overhead_mib(model, target, options)
    width_bytes = _WIDTH_BYTES[options.dtype or ("float32" if target.kind == "host" else "bfloat16")]
    weights_mib = _weights_mib(options, footprint, width_bytes)
    drawing_mib = _drawing_mib(options, footprint, width_bytes)
    drawing_mib = math.ceil(drawing_mib * HOST_COPIES) if target.kind == "host" else drawing_mib
    least_mib = overhead_mib + weights_mib + drawing_mib
    if model.budget_mib < least_mib:
        raise LaunchError(
            f"a budget of {model.budget_mib} MiB is too small, {least_mib} MiB would do: {weights_mib} MiB of weights,"
            f" {overhead_mib} MiB for the engine and {drawing_mib} MiB to draw one picture"
            " (default_width and default_height make that smaller)"
        )


def _check_processing_budget(model: ModelLaunch, options: EngineOptions) -> None:
    least_mib = positive(model.options, "overhead_mib") or (UPSCALING_MIB if options.upscaler else PROCESSING_MIB)
    if model.budget_mib < least_mib:
        raise LaunchError(f"a budget of {model.budget_mib} MiB is too small, {least_mib} MiB would do")


def _overhead_mib(model: ModelLaunch, target: Target, options: EngineOptions) -> int:
    usual_mib = HOST_OVERHEAD_MIB if target.kind == "host" else CUDA_OVERHEAD_MIB
    return positive(model.options, "overhead_mib") or usual_mib + (64 if options.upscaler else 0)


def _weights_mib(options: EngineOptions, footprint: Footprint, width_bytes: int) -> int:
    """What of the weights has to be on the device at once. Quantised ones are smaller by what only loading tells."""
    if options.quantization is not None or options.offload in ("sequential", "group"):
        return 0
    return footprint.largest_mib(width_bytes) if options.offload == "model" else footprint.weights_mib(width_bytes)


def _drawing_mib(options: EngineOptions, footprint: Footprint, width_bytes: int) -> int:
    """One picture with guidance: two rows through the denoiser, then decoding, whichever takes more."""
    drawing = footprint.drawing
    pixels = (options.default_width or drawing.side) * (options.default_height or drawing.side)
    decoding_mib = 0 if options.vae_tiling else drawing.decoding_mib(pixels, width_bytes)
    return max(2 * drawing.row_mib(pixels, width_bytes), decoding_mib)
