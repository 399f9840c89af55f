"""A streamed chat, gathered: the same answer however its bytes are cut."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from adapters.gathering import ChatGathering
from adapters.tasks import TextToText, openai_result

_USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def _frame(fields: object) -> bytes:
    return b"data: " + orjson.dumps(fields) + b"\n\n"


def _stream(texts: list[str]) -> bytes:
    deltas = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return b"".join(map(_frame, [*deltas, last, {"choices": [], "usage": _USAGE}])) + b"data: [DONE]\n\n"


@given(texts=st.lists(st.text()), data=st.data())
def test_any_cut_gives_the_same_answer(texts: list[str], data: st.DataObject) -> None:
    """Whole text, usage and reason to end; and the text so far never shrinks."""
    stream = _stream(texts)
    gathering, sizes = ChatGathering(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        gathering.feed(stream[:size])
        sizes.append(len(gathering.text))
        stream = stream[size:]

    result = openai_result(TextToText("x"), gathering.whole())
    assert result.text == "".join(texts)
    assert result.usage == {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    assert orjson.loads(gathering.whole())["choices"][0]["finish_reason"] == "stop"
    assert sizes == sorted(sizes)


@given(junk=st.binary() | st.recursive(st.none() | st.integers(0, 9) | st.text(), st.lists).map(_frame))
def test_what_cannot_be_read_is_left_out(junk: bytes) -> None:
    """Bytes of any kind between the frames break nothing and add nothing."""
    gathering = ChatGathering()
    gathering.feed(b": " + junk.replace(b"\n", b" ") + b"\n" + _stream(["a", "b"]))

    assert gathering.text == "ab"


@given(
    st.dictionaries(st.sampled_from(["choices", "usage", "delta"]), st.none() | st.integers(0, 9) | st.lists(st.none()))
)
def test_odd_fields_break_nothing(fields: dict[str, object]) -> None:
    """JSON of another shape than a chat's."""
    gathering = ChatGathering()
    gathering.feed(_frame(fields) + _stream(["a"]))

    assert gathering.text == "a"
