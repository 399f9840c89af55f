"""From a model's entry and its budget to the diffusers engine's command line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.base import Batching, Launch, ModelLaunch, Target
from adapters.diffusers import DiffusersAdapter
from adapters.diffusers.footprint import Drawing, Footprint
from adapters.diffusers.launch import CUDA_OVERHEAD_MIB, HOST_OVERHEAD_MIB, LAUNCHER, PROCESSING_MIB
from adapters.errors import LaunchError
from adapters.tensor_files import MIB, TensorSizes
from engines.diffusers.options import EngineOptions, Lora

SD15 = Footprint(
    {"unet": TensorSizes(860 * MIB, 0), "text_encoder": TensorSizes(123 * MIB, 0), "vae": TensorSizes(84 * MIB, 0)},
    Drawing(512, 320, 26, 8, 0, 128),
)
SD15_MIB = 860 + 123 + 84  # for each byte of width
HOST = Target("host", 0, 24_000)
CUDA = Target("cuda", 1, 16_376)


def entry(**changes: Any) -> ModelLaunch:
    fields: dict[str, Any] = {
        "model_id": "sd",
        "aliases": ("draw",),
        "types": ("text2image",),
        "model_path": "/models/sd",
        "budget_mib": 8192,
        "max_concurrency": 8,
    }
    return ModelLaunch(**(fields | changes))


def launch(target: Target = HOST, cores: int = 8, **changes: Any) -> Launch:
    return DiffusersAdapter(lambda _: SD15, cores).launch(entry(**changes), target)


def options(planned: Launch) -> EngineOptions:
    """What the engine will read."""
    return EngineOptions.model_validate_json(planned.argv[planned.argv.index("--options") + 1])


def refusal(target: Target = HOST, **changes: Any) -> str:
    """Why it is not launched; "" when it is."""
    try:
        launch(target, **changes)
    except LaunchError as exc:
        return str(exc)
    return ""


def test_the_whole_command_line_on_the_host() -> None:
    """What a plain entry becomes: the launcher, names, and the options that follow from device, budget and slots."""
    planned = launch(args=("--more",))
    told = '{"device":"cpu","memory_mib":7936,"max_batch_size":8,"threads":7,"keep_results_mib":256}'
    assert " ".join(planned.argv) == (
        f"{{python}} -P {LAUNCHER} diffusers --uds {{uds}} --grace-seconds 8 --model-path /models/sd"
        f" --model sd draw --options {told} --more"
    )
    assert LAUNCHER.is_file()
    assert (planned.environment, planned.listen, planned.stop_grace_seconds) == ("diffusers-cpu", "unix", 20)
    assert planned.env["HF_HUB_OFFLINE"] == "1"
    assert planned.env["OMP_NUM_THREADS"] == "7"


def test_on_a_gpu_the_device_is_the_one_of_the_plan() -> None:
    """Only that device is seen, by the number that the driver gives it; threads are PyTorch's own choice."""
    planned = launch(CUDA)
    assert planned.environment == "diffusers-cuda"
    assert planned.env["CUDA_VISIBLE_DEVICES"] == "1"
    assert planned.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert (options(planned).device, options(planned).threads) == ("cuda", None)


def test_options_go_to_the_engine_and_the_entrys_own_stay_here() -> None:
    """Plain ones as they are, structures from their JSON; what concerns the launch is not the engine's."""
    given = {
        "dtype": "bfloat16",
        "threads": 3,
        "loras": json.dumps([{"path": "/l.safetensors", "scale": 0.5}]),
        "quantization": json.dumps({"backend": "torchao", "kwargs": {"quant_type": "int8wo"}}),
        "environment": "mine",
        "overhead_mib": 300,
        "ready_timeout_seconds": 9,
        "stop_grace_seconds": 5,
    }
    planned = launch(options=given, max_batch_size=3, env={"HF_HUB_OFFLINE": "0", "A": "b"})
    found = options(planned)
    assert (found.dtype, found.threads, found.max_batch_size) == ("bfloat16", 3, 3)
    assert found.loras == (Lora(path="/l.safetensors", scale=0.5),)
    assert found.quantization is not None
    assert found.quantization.kwargs == {"quant_type": "int8wo"}
    assert (planned.environment, planned.ready_timeout_seconds, planned.stop_grace_seconds) == ("mine", 9, 5)
    assert "2" in planned.argv  # of five seconds for the end, two to finish pictures
    assert (planned.env["HF_HUB_OFFLINE"], planned.env["A"], planned.env["OMP_NUM_THREADS"]) == ("0", "b", "3")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"options": {"max_step": 3}}, "there is no option max_step; did you mean max_steps"),
        ({"options": {"xyzzy": 3}}, "there is no option xyzzy; there are attention_backend"),
        ({"options": {"device": "cuda"}}, "the option device cannot be set: it follows"),
        ({"options": {"memory_mib": 5}}, "the option memory_mib cannot be set: set vram_required_mb"),
        ({"options": {"max_batch_size": 5}}, "set max_batch_size beside parameters"),
        ({"options": {"keep_results_mib": "x"}}, "the option keep_results_mib is wrong: input should be a valid int"),
        ({"options": {"max_steps": 0}}, "the option max_steps is wrong: input should be greater than 0"),
        ({"options": {"dtype": "fp16"}}, "the option dtype is wrong: input should be 'float32'"),
        ({"options": {"loras": "[{"}}, "the option loras is not JSON"),
        ({"options": {"loras": "[{}]"}}, r"the option loras\.0\.path is wrong: field required"),
        ({"options": {"stop_grace_seconds": 0}}, "stop_grace_seconds must be a number of seconds above 0"),
        ({"types": ("text2text",)}, "diffusers does not serve text2text; it serves image_processing, text2image"),
        ({"model_path": ""}, "it has no model_path, so it cannot draw"),
        ({"model_path": "", "types": ("image_processing",), "budget_mib": 64}, f"{PROCESSING_MIB} MiB would do"),
    ],
)
def test_what_cannot_work_is_refused_before_a_start(changes: dict[str, Any], said: str) -> None:
    """The refusal names the model, the key and what to do."""
    with pytest.raises(LaunchError, match=f"^cannot start sd: .*{said}"):
        launch(**changes)


def test_processing_needs_no_model() -> None:
    """Without a model folder nothing is read, and the engine is not given one."""
    planned = launch(model_path="", types=("image_processing",), budget_mib=PROCESSING_MIB)
    assert "--model-path" not in planned.argv
    assert (options(planned).memory_mib, options(planned).keep_results_mib) == (PROCESSING_MIB - 16, 16)


def test_a_budget_that_is_too_small_names_the_one_that_would_do() -> None:
    """The refusal's figure is exact: one MiB less is refused, that much is enough."""
    least_mib = HOST_OVERHEAD_MIB + 4 * SD15_MIB + 1280  # decoding 512x512 in 32 bit, with the CPU's copies
    with pytest.raises(LaunchError, match=rf"is too small, {least_mib} MiB would do: {4 * SD15_MIB} MiB of weights"):
        launch(budget_mib=least_mib - 1)
    assert launch(budget_mib=least_mib)


@pytest.mark.parametrize(
    ("given", "least_mib"),
    [
        ({}, CUDA_OVERHEAD_MIB + 2 * SD15_MIB + 384),
        ({"dtype": "float32"}, CUDA_OVERHEAD_MIB + 4 * SD15_MIB + 768),
        ({"default_width": 256, "default_height": 256}, CUDA_OVERHEAD_MIB + 2 * SD15_MIB + 96),
        ({"vae_tiling": True}, CUDA_OVERHEAD_MIB + 2 * SD15_MIB + 130),
        ({"offload": "model"}, CUDA_OVERHEAD_MIB + 2 * 860 + 384),
        ({"offload": "group"}, CUDA_OVERHEAD_MIB + 384),
        ({"quantization": '{"backend":"torchao"}'}, CUDA_OVERHEAD_MIB + 384),
        ({"overhead_mib": 100}, 100 + 2 * SD15_MIB + 384),
        ({"upscaler": "/up.safetensors"}, CUDA_OVERHEAD_MIB + 64 + 2 * SD15_MIB + 384),
    ],
)
def test_what_is_needed_follows_from_the_options(given: dict[str, Any], least_mib: int) -> None:
    """Width, size, tiling, offload and quantisation change the least budget as they change the memory."""
    assert launch(CUDA, options=given, budget_mib=least_mib)
    with pytest.raises(LaunchError, match=f"{least_mib} MiB would do"):
        launch(CUDA, options=given, budget_mib=least_mib - 1)


def test_a_budget_beyond_the_device_is_refused() -> None:
    """It could never be kept."""
    with pytest.raises(LaunchError, match="a budget of 17000 MiB is more than the device's 16376 MiB"):
        launch(CUDA, budget_mib=17_000)


@settings(deadline=None)
@given(st.integers(1, 100_000), st.sampled_from([HOST, CUDA]))
def test_what_is_launched_may_use_its_budget_and_no_more(budget_mib: int, target: Target) -> None:
    """Whatever the budget, it is refused with one that is larger, or told to the engine as its cap."""
    refused = refusal(target, budget_mib=budget_mib)
    if refused:
        assert "MiB would do" in refused or budget_mib > target.total_mib
    else:
        told = options(launch(target, budget_mib=budget_mib))
        kept_mib = told.keep_results_mib if target is HOST else 0  # on a host they take of the same memory
        assert told.memory_mib == budget_mib - kept_mib


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Batching("steps", 8)),
        ({"batching": "call"}, Batching("calls", 8, 0.05)),
        ({"batching": "call", "linger_seconds": 0.2}, Batching("calls", 8, 0.2)),
        ({"batching": "none"}, Batching("calls", 1)),
    ],
)
def test_how_pictures_are_drawn_together(given: dict[str, Any], expected: Batching) -> None:
    """Step by step they join in at any time; whole calls wait a little for company; alone, nobody waits."""
    assert DiffusersAdapter().batching(entry(options=given, model_path="")) == expected
    assert DiffusersAdapter().batching(entry(options=given, max_batch_size=1)).batch_rows == 1


def test_rows_and_keys_come_from_the_request() -> None:
    """A picture is a row; an operation is one whatever else it says."""
    adapter = DiffusersAdapter()
    assert adapter.rows("/v1/images/generations", {"n": 3}) == 3
    assert adapter.rows("/v1/images/process", {"n": 3}) == 1
    sizes = [adapter.batch_key("/v1/images/generations", {"size": size}) for size in ("64x64", "64x64", "32x32")]
    assert sizes[0] == sizes[1] != sizes[2]


def test_the_engines_options_are_all_reachable() -> None:
    """Every option that the engine has can be set, follows from the entry, or is refused by name."""
    refusals = {name: refusal(options={name: "no such value"}) for name in EngineOptions.model_fields}
    assert [name for name, refused in refusals.items() if "there is no option" in refused] == []
