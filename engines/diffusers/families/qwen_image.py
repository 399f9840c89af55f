"""Qwen-Image: text of any length, padded under a mask so that prompts of different lengths still go together."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad

from engines.diffusers.families.rows import RowFamily
from engines.diffusers.jobs import ImageJob
from engines.diffusers.session import DenoiserCall

_TEXT = "encoder_hidden_states"
_MASK = "encoder_hidden_states_mask"


@dataclass(frozen=True)
class QwenFamily(RowFamily):
    """Guidance takes two calls per step, with and without the prompt; each is a call of its own here."""

    def arguments(self, pipeline: Any, job: ImageJob) -> dict[str, Any]:
        if pipeline.transformer.config.guidance_embeds:
            return {"guidance_scale": job.guidance, "true_cfg_scale": 1.0}
        # Without a negative prompt the pipeline would drop guidance silently.
        return {"true_cfg_scale": job.guidance, "negative_prompt": job.negative_prompt or " "}

    def takes_negative_prompt(self, pipeline: Any) -> bool:
        return not pipeline.transformer.config.guidance_embeds

    def key(self, call: DenoiserCall, job: ImageJob) -> Hashable:
        """Text lengths are made alike, so they do not count; sizes do: one position table serves all rows."""
        text = call.arguments[_TEXT]
        one_long = DenoiserCall({**call.arguments, _TEXT: text[:, :1], _MASK: None})
        return super().key(one_long, job)

    def join(self, calls: Sequence[DenoiserCall]) -> DenoiserCall:
        if len(calls) == 1:
            return calls[0]
        longest = max(call.arguments[_TEXT].shape[1] for call in calls)
        return super().join([_padded(call, longest) for call in calls])

    def latents(self, pipeline: Any, latents: torch.Tensor, job: ImageJob) -> torch.Tensor:
        config = pipeline.vae.config
        unpacked = pipeline._unpack_latents(latents, job.height, job.width, pipeline.vae_scale_factor)
        mean = torch.tensor(config.latents_mean, device=latents.device).view(1, config.z_dim, 1, 1, 1)
        std = torch.tensor(config.latents_std, device=latents.device).view(1, config.z_dim, 1, 1, 1)
        return unpacked * std + mean


def _padded(call: DenoiserCall, length: int) -> DenoiserCall:
    text, mask = call.arguments[_TEXT], call.arguments.get(_MASK)
    missing = length - text.shape[1]
    if mask is None:
        mask = torch.ones(text.shape[:2], dtype=torch.long, device=text.device)
    return DenoiserCall({**call.arguments, _TEXT: pad(text, (0, 0, 0, missing)), _MASK: pad(mask, (0, missing))})


QWEN_IMAGE = QwenFamily(
    pipelines=("QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline"),
    denoiser="transformer",
    counted="hidden_states",
    rowed=frozenset({"hidden_states", _TEXT, _MASK, "guidance"}),
    shared=frozenset({"img_shapes"}),
)
