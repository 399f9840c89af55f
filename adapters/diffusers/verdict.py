"""Judges how an answer with pictures ended, from its last bytes.

A picture is many times longer than what is kept of an answer, so what counts is how it closes: a whole answer with its
last brace, a stream with the event of a finished picture, whose token counts stand behind the picture.
"""

import orjson

from adapters.base import Ending, Verdict
from adapters.vllm import verdict as openai_verdict


def judge(tail: bytes, *, stream: bool) -> Verdict:
    """Judge by `tail`, the last bytes of an answer with status 200 (all of it when it is short). Never raises."""
    verdict = openai_verdict.judge(tail, stream=stream)
    if stream or verdict.ending is not Ending.COMPLETE:
        return verdict
    if not tail.rstrip().endswith(b"}"):
        return verdict._replace(ending=Ending.ABORTED, message="the engine ended the answer early")
    if _is_without_pictures(tail):
        return verdict._replace(ending=Ending.ERROR, message="the engine's answer holds no picture")
    return verdict


def _is_without_pictures(body: bytes) -> bool:
    """Whether a whole answer is here, and nothing was drawn."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False  # only the end of it is here
    return not (isinstance(answer, dict) and answer.get("data"))
