"""The engine kind "diffusers": our server around diffusion pipelines, for pictures, on GPUs and on CPUs.

Errors and verdicts also understand what vllm-omni and SGLang-diffusion answer on the same paths.
"""

from adapters.diffusers.adapter import DiffusersAdapter

__all__ = ["DiffusersAdapter"]
