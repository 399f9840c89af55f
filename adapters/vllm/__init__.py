"""The engine kind "vllm": vLLM's OpenAI-compatible server, on GPUs and on CPUs.

One module for each thing an adapter is asked: launch (with the model folder's needs), probe, headers, errors, verdict,
log. The simulated engine speaks the same wire and uses them too.
"""

from adapters.vllm.adapter import VllmAdapter

__all__ = ["VllmAdapter"]
