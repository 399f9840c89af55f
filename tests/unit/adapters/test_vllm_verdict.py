"""How an answer ended, from its last bytes. The wire texts are vLLM 0.32's own."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Ending, Verdict
from adapters.vllm.verdict import judge

TAIL_BYTES = 8192
USAGE = {"prompt_tokens": 37, "total_tokens": 41, "completion_tokens": 4}
DONE = b"data: [DONE]\n\n"
FOOLING = (
    '"finish_reason":"abort"}]}\n\ndata: {"error": {"message": "no"}}\n\ndata: [DONE]\n\n"usage":{"prompt_tokens":9}'
)


def chunk(content: str = "x", reason: str | None = None, **more: Any) -> bytes:
    """One chat chunk, encoded as vLLM does."""
    choice = {"index": 0, "delta": {"content": content}, "logprobs": None, "finish_reason": reason, "token_ids": None}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: %s\n\n" % orjson.dumps({**head, "choices": [choice], **more})


def usage_chunk(usage: dict[str, Any] | None = None) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: %s\n\n" % orjson.dumps({**head, "choices": [], "usage": usage or USAGE})


def chat(content: str = "Paris.", reason: str = "stop", **more: Any) -> bytes:
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason, "stop_reason": None}
    usage = {**USAGE, "prompt_tokens_details": None}
    return orjson.dumps({"id": "chatcmpl-1", "choices": [choice], "usage": usage, "prompt_logprobs": None, **more})


def typed(kind: str, **fields: Any) -> bytes:
    """One event of /v1/responses; vLLM writes the type last."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps({**fields, "type": kind}))


def response(text: str = "hi", status: str = "completed", **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 31, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 3, "total_tokens": 34}
    part = {"text": text, "type": "output_text"}
    output = [{"content": [part], "role": "assistant", "status": "completed", "type": "message"}]
    return {
        "id": "resp_1",
        **more,
        "object": "response",
        "output": output,
        "status": status,
        "usage": usage,
        "user": None,
    }


COMPLETE = Verdict(Ending.COMPLETE, 37, 4)
STREAM = chunk("") + chunk("The") + chunk(" end", "stop") + usage_chunk() + DONE


def test_a_whole_chat_stream_is_complete_with_its_counts() -> None:
    """Final choice, usage, [DONE]."""
    assert judge(STREAM, stream=True) == COMPLETE


def test_a_stream_without_usage_has_no_counts() -> None:
    """Clients that do not ask for usage get none, and neither do we."""
    assert judge(chunk() + chunk("", "length") + DONE, stream=True) == Verdict(Ending.COMPLETE)


@pytest.mark.parametrize("end", range(len(STREAM) - 14, 0, -97))
def test_a_stream_that_breaks_off_is_aborted(end: int) -> None:
    """Wherever the engine stops sending, an answer without [DONE] never counts as complete."""
    assert judge(STREAM[:end], stream=True).ending is Ending.ABORTED


def test_an_empty_stream_is_aborted() -> None:
    """A 200 with no event at all is no answer."""
    assert judge(b"", stream=True).ending is Ending.ABORTED


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        ("stop", Ending.COMPLETE),
        ("length", Ending.COMPLETE),
        ("tool_calls", Ending.COMPLETE),
        ("abort", Ending.ABORTED),
        ("error", Ending.ERROR),
        ("repetition", Ending.ERROR),
    ],
)
def test_the_reason_decides(reason: str, ending: Ending) -> None:
    """With status 200, [DONE] and usage all there, three reasons still mean that it did not succeed."""
    assert judge(chunk() + chunk("", reason) + usage_chunk() + DONE, stream=True).ending is ending
    assert judge(chat(reason=reason), stream=False).ending is ending


def test_one_aborted_choice_among_several_is_enough() -> None:
    """With n > 1 the choices end at different places in the stream."""
    stream = chunk("a", "abort") + b"".join(chunk("b") for _ in range(6)) + chunk("b", "stop") + DONE
    assert judge(stream, stream=True).ending is Ending.ABORTED


def test_an_error_event_is_an_error_though_done_follows() -> None:
    """As when the engine core dies: the message goes on, without paths."""
    event = b'data: {"error": {"message": "lost /opt/vllm/core.py", "type": "InternalServerError", "code": 500}}\n\n'
    verdict = judge(chunk("The") + event + DONE, stream=True)
    assert verdict == Verdict(Ending.ERROR, message="lost <path>")


def test_keep_alive_comments_and_crlf_are_passed_over() -> None:
    """Comment lines may stand anywhere, and lines may end as HTTP's do."""
    stream = b": keep-alive\n\n" + STREAM.replace(DONE, b": keep-alive\n\n" + DONE)
    assert judge(stream, stream=True) == COMPLETE
    assert judge(stream.replace(b"\n", b"\r\n"), stream=True) == COMPLETE


def test_running_counts_on_every_chunk_give_the_last_ones() -> None:
    """`continuous_usage_stats`: the counts of the last event are those of the answer."""
    early = {"prompt_tokens": 37, "completion_tokens": 1, "total_tokens": 38}
    stream = chunk("a", usage=early) + chunk("b", "stop", usage=USAGE) + DONE
    assert judge(stream, stream=True) == COMPLETE


def test_responses_streams_end_with_their_own_event() -> None:
    """They have no [DONE]; without the closing event they are aborted."""
    delta = typed("response.output_text.delta", delta="hi", sequence_number=4)
    stream = delta + typed("response.completed", response=response(), sequence_number=5)
    assert judge(stream, stream=True) == Verdict(Ending.COMPLETE, 31, 3)
    assert judge(delta, stream=True).ending is Ending.ABORTED
    failed = typed("response.failed", response=response(status="failed"), sequence_number=5)
    assert judge(delta + failed, stream=True).ending is Ending.ERROR
    cancelled = typed("response.completed", response=response(status="cancelled"), sequence_number=5)
    assert judge(delta + cancelled, stream=True).ending is Ending.ABORTED


@pytest.mark.parametrize("type_first", [False, True])
def test_a_closing_event_longer_than_the_tail_is_still_the_end(type_first: bool) -> None:
    """The closing event repeats the whole response, so that often only its end is in the tail."""
    fields = {"response": response("word " * 5000)}
    event = {"type": "response.completed", **fields} if type_first else {**fields, "type": "response.completed"}
    stream = b"event: response.completed\ndata: %s\n\n" % orjson.dumps(event)
    assert judge(stream[-TAIL_BYTES:], stream=True) == Verdict(Ending.COMPLETE, 31, 3)
    assert judge(stream[-TAIL_BYTES:-1], stream=True).ending is Ending.ABORTED


def test_a_long_event_that_is_not_the_closing_one_is_no_end() -> None:
    """An item of a response can be as long; the stream broke off behind it."""
    item = typed("response.output_item.done", item=response("word " * 5000)["output"][0], sequence_number=9)
    assert judge(item[-TAIL_BYTES:], stream=True).ending is Ending.ABORTED


def test_messages_streams_end_with_message_stop() -> None:
    """Anthropic's form: counts are in the event before the last."""
    delta = {"delta": {"stop_reason": "max_tokens"}, "usage": {"input_tokens": 37, "output_tokens": 4}}
    stop = typed("message_stop")
    assert judge(typed("message_delta", **delta) + stop, stream=True) == COMPLETE
    assert judge(typed("message_delta", **delta), stream=True) == Verdict(
        Ending.ABORTED, 37, 4, "the engine ended the stream early"
    )
    error = b'event: error\ndata: {"type":"error","error":{"type":"x","message":"broken"}}\n\n'
    assert judge(error, stream=True) == Verdict(Ending.ERROR, message="broken")


def test_bodies_of_every_kind() -> None:
    """Chat, responses, messages, embeddings and calls without counts."""
    assert judge(chat(), stream=False) == COMPLETE
    assert judge(orjson.dumps(response()), stream=False) == Verdict(Ending.COMPLETE, 31, 3)
    assert judge(orjson.dumps(response(status="failed")), stream=False).ending is Ending.ERROR
    message = b'{"type":"message","stop_reason":"end_turn","usage":{"input_tokens":5,"output_tokens":2}}'
    assert judge(message, stream=False) == Verdict(Ending.COMPLETE, 5, 2)
    assert judge(b'{"count":1,"tokens":[7]}', stream=False) == Verdict(Ending.COMPLETE)
    assert judge(b'{"error":{"message":"late"}}', stream=False) == Verdict(Ending.ERROR, message="late")
    assert judge(b" ", stream=False).ending is Ending.ERROR
    assert judge(b"\x00\x01 not text", stream=False) == Verdict(Ending.COMPLETE)


def test_a_long_embedding_body_is_judged_by_its_end() -> None:
    """The numbers go far beyond the tail; the counts stand behind them."""
    data = [{"index": 0, "object": "embedding", "embedding": [0.123456789] * 4000}]
    usage = {"prompt_tokens": 12, "total_tokens": 12, "completion_tokens": 0, "prompt_tokens_details": None}
    body = orjson.dumps({"object": "list", "data": data, "usage": usage})
    assert judge(body[-TAIL_BYTES:], stream=False) == Verdict(Ending.COMPLETE, 12, 0)


def test_a_long_aborted_body_is_judged_by_its_end() -> None:
    """The reason stands behind the text."""
    body = chat("word " * 5000, reason="abort")
    verdict = judge(body[-TAIL_BYTES:], stream=False)
    assert (verdict.ending, verdict.completion_tokens) == (Ending.ABORTED, 4)


TEXTS = (
    st.text(max_size=40) | st.just(FOOLING) | st.sampled_from([FOOLING * 3, "data: [DONE]", '{"error":1}', "\\", '\\"'])
)


@given(texts=st.lists(TEXTS, max_size=8), tail_bytes=st.integers(600, TAIL_BYTES))
def test_what_a_model_writes_never_fools_the_verdict(texts: list[str], tail_bytes: int) -> None:
    """Text that looks like an abort, an error, an end or counts changes nothing, wherever the tail is cut."""
    stream = b"".join(chunk(text) for text in texts)
    assert judge((stream + chunk("", "stop") + usage_chunk() + DONE)[-tail_bytes:], stream=True) == COMPLETE
    assert (
        judge((stream + chunk("", "abort") + usage_chunk() + DONE)[-tail_bytes:], stream=True).ending is Ending.ABORTED
    )
    assert judge(stream[-tail_bytes:], stream=True).ending is Ending.ABORTED
    body = chat("".join(texts))
    assert judge(body[-tail_bytes:], stream=False) == COMPLETE


@given(st.binary(max_size=300) | st.text(alphabet='da:{}[]"\n, usage', max_size=300).map(str.encode), st.booleans())
def test_any_bytes_are_judged_without_an_error(tail: bytes, stream: bool) -> None:
    """A verdict is given on whatever came."""
    assert judge(tail + b'"usage":{' + tail, stream=stream).ending in Ending


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["error", "choices", "usage", "response", "message", "finish_reason", "status", "type"]
                ),
                inner,
            )
        ),
    )
)
def test_any_json_is_judged_without_an_error(value: object) -> None:
    """Fields of unexpected types are passed over."""
    body = json.dumps(value).encode()
    assert judge(body, stream=False).ending in Ending
    assert judge(b"data: " + body + b"\n\n" + DONE, stream=True).ending in Ending
