"""Z-Image: takes lists of images and texts and mixes lengths and sizes by itself, so one key serves all."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engines.diffusers.families.rows import RowFamily
from engines.diffusers.jobs import ImageJob
from engines.diffusers.session import DenoiserCall

_KNOWN = frozenset({"x", "t", "cap_feats", "return_dict"})


@dataclass(frozen=True)
class ZImageFamily(RowFamily):
    def rows(self, call: DenoiserCall) -> int:
        return len(call.arguments["x"])

    def key(self, call: DenoiserCall, job: ImageJob) -> Hashable:
        given = {name for name, value in call.arguments.items() if value is not None and value != {}}
        if not given <= _KNOWN:
            return job.job_id
        return (str(call.arguments["x"][0].dtype), call.arguments.get("return_dict"))

    def shape(self, call: DenoiserCall) -> Hashable:
        images, texts = call.arguments["x"], call.arguments["cap_feats"]
        return tuple((tuple(image.shape), text.shape[0]) for image, text in zip(images, texts, strict=True))

    def join(self, calls: Sequence[DenoiserCall]) -> DenoiserCall:
        joined = dict(calls[0].arguments)
        joined["x"] = [image for call in calls for image in call.arguments["x"]]
        joined["cap_feats"] = [text for call in calls for text in call.arguments["cap_feats"]]
        joined["t"] = torch.cat([call.arguments["t"] for call in calls])
        return DenoiserCall(joined)

    def row_tensors(self, call: DenoiserCall) -> list[torch.Tensor]:
        """Images and texts come as lists, one per row; only the time is a tensor of rows."""
        return [call.arguments["t"]]

    def split(self, output: Any, rows: Sequence[int]) -> list[Any]:
        images = list(output[0])
        starts = [sum(rows[:index]) for index in range(len(rows))]
        return [(images[start : start + count],) for start, count in zip(starts, rows, strict=True)]


Z_IMAGE = ZImageFamily(
    pipelines=("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline"),
    denoiser="transformer",
    counted="x",
    rowed=frozenset({"x", "cap_feats"}),
)
