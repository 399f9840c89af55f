"""Schedulers by name: which ones a pipeline can use, and a fresh one with its own state for each job."""

import copy
from typing import Any

import diffusers

from engines.diffusers.faults import InvalidJob

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
    """What `Schedulers` makes for this pipeline; none where the pipeline's scheduler is of a kind of its own."""
    if getattr(pipeline, "scheduler", None) is None:
        return ()
    own = type(pipeline.scheduler).__name__
    if own.startswith("FlowMatch"):
        # The others hand their own sigmas to the scheduler, and Heun's takes none.
        return tuple(_FLOW) if "StableDiffusion3" in type(pipeline).__name__ else ("flow_match_euler",)
    # LCM's takes every configuration of this kind, but diffusers does not list it.
    compatible = {scheduler.__name__ for scheduler in pipeline.scheduler.compatibles} | {own, "LCMScheduler"}
    return tuple(name for name, (scheduler, _) in _NOISE.items() if scheduler in compatible)


class Schedulers:
    """For one pipeline; `default` is meant where no name is given, None: the pipeline's own scheduler."""

    def __init__(self, pipeline: Any, default: str | None = None) -> None:
        self._pipeline = pipeline
        self._default = default
        # Copies are quick; making KDPM2's anew takes a quarter of a second, in which no job would move.
        self._made: dict[str | None, Any] = {None: getattr(pipeline, "scheduler", None)}

    def fresh(self, name: str | None) -> Any:
        """A scheduler that no other job uses. Raises InvalidJob for a name that is not among `names(pipeline)`."""
        name = name or self._default
        if name not in self._made:
            self._made[name] = self._make(name)
        return copy.deepcopy(self._made[name])

    def _make(self, name: str | None) -> Any:
        if name not in names(self._pipeline):
            raise InvalidJob(f"this model cannot use the scheduler {name!r}", "scheduler")
        scheduler, told = (_NOISE | _FLOW)[name]
        return getattr(diffusers, scheduler).from_config(self._pipeline.scheduler.config, **told)
