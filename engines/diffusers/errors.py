"""What can go wrong in the diffusers engine, as one tree by what the caller can do.

EngineError
├── LoadFailed   a pipeline or an upscaler cannot be loaded: the process ends and its log names the cause
└── Refused      a request cannot be answered as asked: it becomes one answer in OpenAI's shape (refusals.py)
"""


class EngineError(Exception):
    """One sentence for the person who reads it."""


class LoadFailed(EngineError):
    """The message names what could not be loaded, why, and what to do."""
