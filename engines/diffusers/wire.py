"""The bodies, answers and events of the diffusers engine's HTTP: OpenAI's images API, with diffusion's own fields.

Imports nothing of the ML world: adapters use it, too. Says what a body may look like, not whether the loaded pipeline
can draw it (drawings.py). Unknown fields are let through, but for those that look like a slip of the pen.
"""

from difflib import get_close_matches
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

REQUEST_ID = "X-Request-Id"
PRIORITY = "X-Priority"
ON_DISCONNECT = "X-On-Disconnect"
IF_KNOWN = "X-If-Known"

MAX_PROMPT_CHARACTERS = 32_000
MAX_SEED = 2**63 - 1

OutputFormat = Literal["png", "jpeg", "webp"]
RequestStatus = Literal["waiting", "running", "cancelling", "finished", "failed", "cancelled"]

# What OpenAI's clients and other image engines send, and a field of ours resembles.
_ELSEWHERE = frozenset({"moderation", "style", "priority", "true_cfg_scale", "extra_params", "user"})
_SLIP_LIKENESS = 0.75

Text = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)]
Count = Annotated[int, Field(ge=1)]
Guidance = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class RequestBody(BaseModel):
    """Any body of ours."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @property
    def slip(self) -> tuple[str, str] | None:
        """A field that is not known, and the one that was probably meant."""
        for name in self.model_extra or ():
            meant = (
                get_close_matches(name, type(self).model_fields, 1, _SLIP_LIKENESS) if name not in _ELSEWHERE else []
            )
            if meant:
                return name, meant[0]
        return None


class DrawingBody(RequestBody):
    """What generations and edits have in common. A field that is null counts as absent.

    `steps` and `num_inference_steps`, `guidance` and `guidance_scale` are two names of one thing. `quality` and what
    is not named here (background, moderation, style, user, …) mean nothing to a diffusion pipeline and are ignored.
    """

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
    model: str | None = None
    negative_prompt: Text | None = None
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    size: str | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    steps: Count | None = None
    num_inference_steps: Count | None = None
    guidance: Guidance | None = None
    guidance_scale: Guidance | None = None
    scheduler: str | None = None
    output_format: OutputFormat | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    response_format: Literal["b64_json"] | None = None
    quality: JsonValue = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None


class GenerationBody(DrawingBody):
    """`POST /v1/images/generations`."""


class ImageAddress(RequestBody):
    """An image inside a JSON body: a data URL, as OpenAI wraps it."""

    image_url: str


ImageInJson = str | ImageAddress


class EditBody(DrawingBody):
    """`POST /v1/images/edits` as JSON; of a multipart body the text fields. `strength`: the share given up, 0 to 1."""

    strength: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    image: ImageInJson | list[ImageInJson] | None = None
    images: list[ImageInJson] | None = None
    mask: ImageInJson | None = None


class ProcessBody(RequestBody):
    """`POST /v1/images/process` as JSON; of a multipart body the text fields, with `parameters` parsed."""

    operation: str
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    model: str | None = None
    image: ImageInJson | None = None
    output_format: OutputFormat | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    response_format: Literal["b64_json"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        return {key: each for key, each in value.items() if each is not None} if isinstance(value, dict) else value


class Picture(BaseModel):
    """One image of an answer. `seed` draws it again; an operation has none."""

    b64_json: str
    seed: int | None = None


class InputTokens(BaseModel):
    text_tokens: int
    image_tokens: int


class Usage(BaseModel):
    """For accounting, in OpenAI's fields: words and signs of the prompts, and patches of 16 by 16 pixels."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, text_tokens: int, image_tokens: int, output_tokens: int) -> Self:
        """Sums included."""
        given = text_tokens + image_tokens
        return cls(
            input_tokens=given,
            input_tokens_details=InputTokens(text_tokens=text_tokens, image_tokens=image_tokens),
            output_tokens=output_tokens,
            total_tokens=given + output_tokens,
        )


class Timings(BaseModel):
    """Where the time of a request went: until its first step was over, from there to the last picture, in all.

    `mean_batch`: rows that went through the denoiser together, on average over its steps.
    """

    first_step_seconds: float
    drawing_seconds: float
    total_seconds: float
    steps: int
    mean_batch: float


class ImagesAnswer(BaseModel):
    """The answer to generations and edits. `size` as "WxH"."""

    created: int
    data: list[Picture]
    background: str = "opaque"
    output_format: OutputFormat
    size: str
    quality: str
    usage: Usage
    timings: Timings


class ProcessAnswer(BaseModel):
    """The answer to an operation. `method`: how it was done, for instance "lanczos" or the upscaler's name."""

    created: int
    data: list[Picture]
    output_format: OutputFormat
    size: str
    operation: str
    method: str


class PartialImage(BaseModel):
    """An event of a stream: `image_generation.partial_image` or `image_edit.partial_image`. `image_index` below n."""

    type: str
    b64_json: str
    partial_image_index: int
    image_index: int
    created_at: int
    size: str
    quality: str
    background: str = "opaque"
    output_format: OutputFormat


class CompletedImage(BaseModel):
    """An event of a stream: `image_generation.completed` or `image_edit.completed`, one for each image."""

    type: str
    b64_json: str
    image_index: int
    seed: int
    created_at: int
    size: str
    quality: str
    background: str = "opaque"
    output_format: OutputFormat
    usage: Usage


class RequestState(BaseModel):
    """`GET /v1/requests/{id}`: how far a request is. Steps count over all its images."""

    id: str
    object: Literal["image.request"] = "image.request"
    created: int
    status: RequestStatus
    images_done: int
    images_total: int
    steps_done: int
    steps_total: int
    batch: int


class ErrorDetail(BaseModel):
    """`param` names the field at fault, `code` what is wrong with it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    error: ErrorDetail
