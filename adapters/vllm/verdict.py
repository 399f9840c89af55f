"""Judges how a finished answer ended, and its token counts, from its last bytes.

vLLM says 200 before it knows how generation ends, so what counts stands in the last events or fields. Bytes are
searched from the right; only the last events are parsed, whatever the length of the answer.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import orjson

from adapters.base import Ending, Verdict
from adapters.vllm.errors import public_message

# A quote inside of JSON text is escaped, so these bytes can only be a key and not what a model wrote.
_FINISH = b'"finish_reason":"'
_USAGE = b'"usage":{'
_LAST_EVENTS = 3  # final choice, usage, and whatever stands after them
_LAST_LINES = 12  # enough for so many events, with their names and the empty lines between
_CLOSING_TYPES = frozenset(
    {
        "response.completed",
        "response.incomplete",
        "message_stop",
        "image_generation.completed",
        "image_edit.completed",
    }
)

_ENDING_OF_REASON = {"abort": Ending.ABORTED, "error": Ending.ERROR, "repetition": Ending.ERROR}
_ENDING_OF_STATUS = {"cancelled": Ending.ABORTED, "failed": Ending.ERROR}

Fields = Mapping[str, object]


class _Closing(NamedTuple):
    """What the last events or a body say: the first bad ending found, the last token counts."""

    ending: Ending = Ending.COMPLETE
    message: str = ""
    usage: Fields | None = None


def judge(tail: bytes, *, stream: bool) -> Verdict:
    """Judge by `tail`, the last bytes of an answer with status 200 (all of it when it is short). Never raises."""
    return _judge_stream(tail) if stream else _judge_body(tail)


def _judge_stream(tail: bytes) -> Verdict:
    events = _last_events(tail)
    done = bool(events) and events[0] == b"[DONE]"
    parsed = list(_closing_events(events[1:] if done else events))
    closing = _combine(parsed)
    if closing.ending is Ending.COMPLETE and not (done or _is_closed(tail, events)):
        return _verdict(_Closing(Ending.ABORTED, "the engine ended the stream early", closing.usage))
    return _verdict(closing if closing.usage or events else _Closing(usage=_cut_usage(tail)))


def _last_events(tail: bytes) -> list[bytes]:
    """The data of the events that can matter, last first: a few, or all where one further back tells of an end."""
    head, *lines = tail.rsplit(b"\n", _LAST_LINES)
    events = [line[5:].strip() for line in reversed(lines) if line.startswith(b"data:")]
    if len(events) > _LAST_EVENTS and _FINISH not in head:
        return events
    return [line[5:].strip() for line in reversed(tail.splitlines()) if line.startswith(b"data:")]


def _closing_events(events: Sequence[bytes]) -> Iterator[Fields]:
    """The events that can say how it ended, last first."""
    wanted = _LAST_EVENTS
    for place, event in enumerate(events):
        if place < wanted or _FINISH in event:
            fields = _object(event)
            if fields is not None:
                yield fields
                wanted = 0 if fields.get("choices") else wanted  # nothing follows the choices but what we have seen


def _is_closed(tail: bytes, events: Sequence[bytes]) -> bool:
    """Whether the last event is one that ends a stream without [DONE] (responses, messages, pictures)."""
    if events:
        last = _object(events[0])
        return last is not None and str(last.get("type")) in _CLOSING_TYPES
    # The last event holds the whole response and can be longer than the tail, so that only its end is here. Token
    # counts stand in no other event as long as that.
    return tail.endswith((b"\n\n", b"\r\n\r\n")) and _cut_usage(tail) is not None


def _judge_body(tail: bytes) -> Verdict:
    body = tail.strip()
    if not body:
        return Verdict(Ending.ERROR, message="the engine answered with nothing")
    whole = _object(body) if body.startswith(b"{") else None
    if whole is not None:
        return _verdict(_combine([whole]))
    return _verdict(_read_cut(body))


def _combine(parsed: Sequence[Fields]) -> _Closing:
    usage: Fields | None = None
    closing: _Closing | None = None
    for fields in parsed:
        usage = usage or _usage(fields)
        closing = closing or _ending(fields)
    return _Closing(usage=usage) if closing is None else closing._replace(usage=usage)


def _ending(fields: Fields) -> _Closing | None:
    """A bad ending that this object tells of, or None."""
    error = fields.get("error")
    if error is not None or fields.get("type") == "response.failed":
        return _Closing(Ending.ERROR, _error_message(error))
    choices = fields.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        reason = choice.get("finish_reason") if isinstance(choice, dict) else None
        if isinstance(reason, str) and reason in _ENDING_OF_REASON:
            return _of_reason(reason)
    inner = fields.get("response", fields)
    status = inner.get("status") if isinstance(inner, dict) else None
    if isinstance(status, str) and status in _ENDING_OF_STATUS:
        return _Closing(_ENDING_OF_STATUS[status], f"the engine ended the response as {status}")
    return None


def _of_reason(reason: str) -> _Closing:
    return _Closing(_ENDING_OF_REASON[reason], f"the engine ended the generation with {reason}")


def _error_message(error: object) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return public_message(message) or "the engine reported an error"


def _usage(fields: Fields) -> Fields | None:
    for place in (fields, fields.get("response"), fields.get("message")):
        usage = place.get("usage") if isinstance(place, dict) else None
        if isinstance(usage, dict):
            return usage
    return None


def _read_cut(body: bytes) -> _Closing:
    """A body of which only the end is here."""
    usage = _cut_usage(body)
    start = body.rfind(_FINISH)
    reason = body[start + len(_FINISH) :].split(b'"', 1)[0].decode("ascii", "replace") if start >= 0 else ""
    if reason in _ENDING_OF_REASON:
        closing = _of_reason(reason)
        return _Closing(closing.ending, closing.message, usage)
    return _Closing(usage=usage)


def _cut_usage(tail: bytes) -> Fields | None:
    """The last usage object; it holds numbers and objects of numbers, so that its braces can be counted."""
    start = tail.rfind(_USAGE)
    if start < 0:
        return None
    begin = start + len(_USAGE) - 1
    end = begin
    for _ in range(8):
        end = tail.find(b"}", end) + 1
        if end == 0:
            return None
        candidate = tail[begin:end]
        if candidate.count(b"{") == candidate.count(b"}"):
            return _object(candidate)
    return None


def _verdict(closing: _Closing) -> Verdict:
    usage = closing.usage or {}
    return Verdict(
        ending=closing.ending,
        prompt_tokens=_count(usage, "prompt_tokens", "input_tokens"),
        completion_tokens=_count(usage, "completion_tokens", "output_tokens"),
        message=closing.message,
    )


def _count(usage: Fields, *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def _object(text: bytes) -> Fields | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
