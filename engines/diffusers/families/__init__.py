"""Which pipelines are taken apart, one module per class of denoiser: how its calls are joined and their answers split.

Everything else about a pipeline stays its own; see session.py.
"""

from engines.diffusers.families.flux import FLUX
from engines.diffusers.families.qwen_image import QWEN_IMAGE
from engines.diffusers.families.rows import RowFamily
from engines.diffusers.families.sd import SD
from engines.diffusers.families.sd3 import SD3
from engines.diffusers.families.sdxl import SDXL
from engines.diffusers.families.z_image import Z_IMAGE

_BY_PIPELINE = {name: family for family in (SD, SDXL, SD3, FLUX, QWEN_IMAGE, Z_IMAGE) for name in family.pipelines}


def family_of(pipeline: str) -> RowFamily | None:
    """The family that takes pipelines of this class apart; None: they are called whole."""
    return _BY_PIPELINE.get(pipeline)
