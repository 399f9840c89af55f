"""How one diffusers engine is configured: parsed from the `--options` JSON, checked by the adapter before a start."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]


class Lora(BaseModel):
    """A LoRA to load: a safetensors file or a folder, its name for messages, its weight."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    name: str | None = None
    scale: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] = 1.0


class Quantization(BaseModel):
    """diffusers' PipelineQuantizationConfig by its own names, for instance backend "bitsandbytes_4bit"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str
    kwargs: dict[str, str | int | float | bool] = Field(default_factory=dict)
    components: tuple[str, ...] | None = None


class EngineOptions(BaseModel):
    """Everything beside the model's folder and its names. Memory in MiB, time in seconds.

    `memory_mib`: all the device memory the process may use; None: no cap. `max_batch_size`: most rows in one denoiser
    call. `max_pixels`: the largest width times height that is drawn or made by an operation;
    `max_image_megapixels`: the largest that is taken in.
    `max_upload_mib`: the largest body. `max_waiting_images`: more are refused until some are drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["cpu", "cuda"] = "cpu"
    memory_mib: Positive | None = None
    max_batch_size: Positive = 8
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    threads: Positive | None = None
    scheduler: str | None = None
    default_width: Positive | None = None
    default_height: Positive | None = None
    default_steps: Positive | None = None
    default_guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    max_steps: Positive = 200
    max_pixels: Positive = 4_194_304
    max_upload_mib: Positive = 64
    max_image_megapixels: Positive = 64
    max_waiting_images: Positive = 256
    max_images: Annotated[int, Field(ge=1, le=10)] = 10
    loras: tuple[Lora, ...] = ()
    quantization: Quantization | None = None
    offload: Literal["none", "model", "sequential", "group"] = "none"
    vae_tiling: bool = False
    compile: bool = False
    attention_backend: str | None = None
    batching: Literal["step", "call", "none"] = "step"
    encodings_cached: Annotated[int, Field(ge=0)] = 256
    upscaler: str | None = None
    keep_results_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 600.0
    keep_results_mib: Positive = 256
