"""Reading vLLM's start-up log. The lines are vLLM 0.32's own, from real starts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.vllm.log import cold_phase, failure

API = "(APIServer pid=5123) INFO 11-23 09:19:42 "
CORE = "(EngineCore pid=5411) INFO 11-23 09:20:11 "
START = [
    API + "[api_utils.py:286] non-default args: {'uds': '/run/s.sock', 'dtype': 'float32'}",
    API + "[model.py:733] Resolved architecture: LlamaForCausalLM",
    CORE + "[core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='/models/smollm2-135m'",
    CORE + "[cpu_model_runner.py:68] Starting to load model /models/smollm2-135m...",
    "Loading safetensors checkpoint shards:   0% Completed | 0/2 [00:00<?, ?it/s]",
    "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.36s/it]",
    CORE + "[default_loader.py:501] Loading weights took 1.36 seconds",
    CORE + "[kv_cache_utils.py:2327] CPU KV cache size: 23,296 tokens, Maximum concurrency for 2,048 tokens: 11.38x",
    CORE + "[core.py:402] init engine (profile, create kv cache, warmup model) took 3.07 s",
    API + "[entry.py:140] Starting vLLM server on unix:/run/s.sock",
    "INFO:     Application startup complete.",
]
PHASES = [
    "reading the model's configuration",
    "starting the engine process",
    "preparing the device",
    "loading weights",
    "loading weights, 0%",
    "loading weights, 50%",
    "weights loaded, preparing the KV cache",
    "warming up",
    "starting the HTTP server",
    "starting the HTTP server",
    "ready",
]
WRAPPER = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
WARNING = (
    "(APIServer pid=1) WARNING 11-23 09:19:42 [system_utils.py:255] This can cause errors like `OSError: [Errno 24]`."
)


@pytest.mark.parametrize(("seen", "phase"), [(number + 1, phase) for number, phase in enumerate(PHASES)])
def test_each_line_of_a_start_moves_the_phase_on(seen: int, phase: str) -> None:
    """Through a whole real start, the phase is the one of the last line that says something."""
    assert cold_phase(START[:seen]) == phase
    assert cold_phase([*START[:seen], WARNING, ""]) == phase


def test_progress_bars_that_overwrite_a_line_count_as_their_last_state() -> None:
    """A bar written with carriage returns is one line with many states."""
    bar = "\r".join(f"Loading safetensors checkpoint shards: {part:3}% Completed" for part in (0, 30, 60))
    assert cold_phase([bar]) == "loading weights, 60%"


def test_pictures_are_part_of_the_phases() -> None:
    """On a GPU vLLM tries the largest pictures that it may be given before it sizes the cache."""
    line = CORE + "[gpu_model_runner.py:6166] Encoder cache will be initialized with a budget of 16384 tokens"
    assert cold_phase([*START[:7], line]) == "profiling memory with the largest pictures"


def test_a_model_whose_code_lacks_a_package_names_the_package() -> None:
    """A vision-language model without torchvision, as vLLM 0.32 tells it: not the sentence that points to the logs."""
    inspected = "Model architectures ['LlavaForConditionalGeneration'] failed to be inspected. Please check the logs"
    lines = [
        API + "[registry.py:1108] Error in loading model architecture 'LlavaForConditionalGeneration'",
        API + "[registry.py:1108] ModuleNotFoundError: No module named 'torchvision'",
        f"ValueError: {inspected} for more details.",
        WRAPPER,
    ]
    assert failure(lines) == "ModuleNotFoundError: No module named 'torchvision'"


def test_before_anything_is_said() -> None:
    """An empty log, or one of imports and warnings, is a start without news."""
    assert cold_phase([]) == cold_phase([WARNING]) == "starting the engine"


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (
            ["usage: api_server.py", "api_server.py: error: unrecognized arguments: --nope"],
            "unrecognized arguments: --nope",
        ),
        (
            [
                CORE.replace("INFO", "ERROR") + "[core.py:1510] Traceback (most recent call last):",
                CORE.replace("INFO", "ERROR") + "[core.py:1510] ValueError: To serve at least one request with the "
                "model's max seq len (8192), 0.35 GiB KV cache is needed",
                WRAPPER,
            ],
            "To serve at least one request with the model's max seq len (8192), 0.35 GiB KV cache is needed",
        ),
        (
            [
                "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata",
                '  File "/opt/vllm/v1/engine/utils.py", line 1431, in wait_for_engine_startup',
                "    raise RuntimeError(",
                WRAPPER,
            ],
            "SafetensorError: Error while deserializing header: incomplete metadata",
        ),
        (
            [
                "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
                "  Value error, The checkpoint has model type `nope` [type=value_error]",
                "    For further information visit https://errors.pydantic.dev/2.14/v/value_error",
            ],
            "The checkpoint has model type `nope` [type=value_error]",
        ),
        (
            ["ERROR 11-23 09:20:11 [__main__.py:9] ValueError: Free memory on device cuda:0 (1.2/16 GiB) is less"],
            "Free memory on device cuda:0 (1.2/16 GiB) is less",
        ),
        (
            ["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"],
            "CUDA out of memory. Tried to allocate 2 GiB",
        ),
        ([WARNING, WRAPPER], WRAPPER),
        ([START[3]], "its log ends with: Starting to load model /models/smollm2-135m..."),
        (["  warnings.warn('resource_tracker: There appear to be %d '"], "it ended without a word in its log"),
        ([], "it ended without a word in its log"),
    ],
    ids=[
        *("flag", "cache", "root cause", "validation", "device memory", "out of memory"),
        *("wrapper only", "killed", "noise", "silent"),
    ],
)
def test_the_cause_of_a_failed_start(lines: list[str], cause: str) -> None:
    """The sentence that helps, not the last one: without prefixes, modules, wrappers and noise."""
    assert failure(lines) == cause


@given(st.lists(st.text(max_size=60), max_size=6))
def test_any_log_gives_a_phase_and_a_cause(lines: list[str]) -> None:
    """Neither raises or is empty, whatever the log holds."""
    assert cold_phase(lines)
    assert 0 < len(failure(lines)) <= 500 + len("its log ends with: ")
