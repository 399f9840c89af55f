"""Schedulers by name: which ones a pipeline can use, and a fresh one with its own state for each job."""

import copy
from typing import Any

import diffusers

# Name -> class and what it is told beyond the pipeline's own scheduler configuration.
_NOISE: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "kdpm2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
_FLOW: dict[str, tuple[str, dict[str, Any]]] = {
    "flow_match_euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "flow_match_heun": ("FlowMatchHeunDiscreteScheduler", {}),
}


def names(pipeline: Any) -> tuple[str, ...]:
    """What `fresh` takes for this pipeline, sorted; none where the pipeline's scheduler is of a kind of its own."""
    own = type(pipeline.scheduler).__name__
    if own.startswith("FlowMatch"):
        # The others hand their own sigmas to the scheduler, and Heun's takes none.
        return tuple(_FLOW) if "StableDiffusion3" in type(pipeline).__name__ else ("flow_match_euler",)
    # LCM's takes every configuration of this kind, but diffusers does not list it.
    compatible = {scheduler.__name__ for scheduler in pipeline.scheduler.compatibles} | {own, "LCMScheduler"}
    return tuple(name for name, (scheduler, _) in _NOISE.items() if scheduler in compatible)


def fresh(pipeline: Any, name: str | None) -> Any:
    """A scheduler that no other job uses. `name` is one of `names(pipeline)`; None: the pipeline's own."""
    if name is None:
        return copy.deepcopy(pipeline.scheduler)
    scheduler, told = (_NOISE | _FLOW)[name]
    return getattr(diffusers, scheduler).from_config(pipeline.scheduler.config, **told)
