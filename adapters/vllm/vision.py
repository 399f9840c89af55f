"""What a launch adds for a model that takes pictures: how many, how large, and from where.

Pictures come inside the request and from nowhere else: an engine that fetches what callers name would fetch from our
own network. Says nothing of budgets.
"""

import json
from pathlib import Path

import engines
from adapters.base import ModelLaunch
from adapters.errors import LaunchError
from adapters.vllm.footprint import Footprint
from adapters.vllm.options import Option, positive

TYPE = "image2text"
IMAGES_PER_PROMPT = 4
MAX_IMAGE_MEGAPIXELS = 25
# vLLM's own is 4 GiB. Outside a GPU host's budgets nobody counts it; inside the host's it is part of the overhead.
_CACHE_GIB, _HOST_CACHE_GIB = 1.0, 0.0625
_NO_DOMAIN = "pictures-come-inside-the-request.invalid"
# Declares what torchvision misses beside a CPU build of torch; its own folder, for text models must not see it.
_DECLARATIONS = Path(engines.__file__).parent / "vllm" / "vision"
_EXTRAS = "{extras:vision}"


def takes_pictures(model: ModelLaunch, footprint: Footprint) -> bool:
    """Whether pictures are let in; raises `LaunchError` when the model cannot see any."""
    if TYPE in model.types and not footprint.sees:
        raise LaunchError(f"the model in {model.model_path} takes no pictures; its type is text2text, not {TYPE}")
    return TYPE in model.types


def vision_flags(model: ModelLaunch, footprint: Footprint, *, on_host: bool) -> dict[str, Option]:
    """Flags of a model that sees: pictures within limits, or none at all where the entry's type is text."""
    if not footprint.sees:
        return {}
    if not takes_pictures(model, footprint):
        return {"language_model_only": True}
    images = positive(model.options, "images_per_prompt") or IMAGES_PER_PROMPT
    return {
        "limit_mm_per_prompt": json.dumps({"image": images, "video": 0, "audio": 0}),
        "allowed_media_domains": _NO_DOMAIN,
        "mm_processor_cache_gb": _HOST_CACHE_GIB if on_host else _CACHE_GIB,
    }


def vision_env(model: ModelLaunch, footprint: Footprint, *, on_host: bool) -> dict[str, str]:
    """Variables of a model that sees, whether it may look or not: vLLM imports its picture code for both."""
    if not footprint.sees:
        return {}
    megapixels = positive(model.options, "max_image_megapixels") or MAX_IMAGE_MEGAPIXELS
    env = {"VLLM_MAX_IMAGE_PIXELS": str(megapixels * 1_000_000), "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}
    if on_host:
        env["PYTHONPATH"] = f"{_DECLARATIONS}:{_EXTRAS}"
        env["VLLM_MEDIA_LOADING_THREAD_COUNT"] = "2"  # each holds a whole decoded picture
    return env
