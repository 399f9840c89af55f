"""Forms read by place: what other programs write is read, and what is renamed leaves every other byte alone."""

import contextlib
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.multipart import is_form, read_form
from controlplane.errors import RequestRejected

NAMES = st.sampled_from(["model", "prompt", "n", "response_format", "other"])
TEXTS = st.lists(st.tuples(NAMES, st.text(max_size=30)), max_size=6, unique_by=lambda field: field[0])
FILES = st.lists(st.tuples(st.sampled_from(["image", "mask"]), st.binary(max_size=200)), max_size=3)


def written(texts: list[tuple[str, str]], files: list[tuple[str, bytes]]) -> tuple[bytes, bytes]:
    """Content type and body as httpx sends them."""
    parts: Any = [(name, (None, text)) for name, text in texts]
    parts += [(name, (f"{name}.png", content)) for name, content in files]
    request = httpx.Request("POST", "http://x/", files=parts or {"none": (None, "")})
    return request.headers["content-type"].encode(), request.read()


@given(TEXTS, FILES)
def test_what_httpx_writes_is_read(texts: list[tuple[str, str]], files: list[tuple[str, bytes]]) -> None:
    """Every text by its name and every file's bytes, whatever they hold."""
    content_type, body = written(texts, files)
    assert is_form(content_type)

    form = read_form(content_type, body)

    assert form.raw is body
    for name, text in texts:
        assert form.text(name) == text
    first = dict(reversed(files))
    assert {name: form.file(name) for name in first} == first


@given(TEXTS, FILES, st.dictionaries(NAMES, st.text(min_size=1, max_size=20), min_size=1, max_size=3))
def test_renaming_changes_these_fields_alone(
    texts: list[tuple[str, str]], files: list[tuple[str, bytes]], changes: dict[str, str]
) -> None:
    """The changed form reads as the old one with these fields; files are the same bytes in the same order."""
    content_type, body = written(texts, files)
    old = read_form(content_type, body)

    new = read_form(content_type, old.with_texts(changes))

    for name in {*changes, *(name for name, _ in texts)}:
        assert new.text(name) == changes.get(name, old.text(name))
    assert [new.raw[p.start : p.end] for p in new.parts if p.is_file] == [content for _, content in files]


@pytest.mark.parametrize("size", [0, 1, 60, 120, 200])
def test_a_form_that_is_cut_is_refused(size: int) -> None:
    """Anywhere before its last boundary."""
    content_type, body = written([("prompt", "x" * 100)], [("image", b"y" * 100)])
    with pytest.raises(RequestRejected, match="multipart form"):
        read_form(content_type, body[:size])


@given(st.binary(max_size=300))
def test_any_bytes_are_a_form_or_refused(body: bytes) -> None:
    """Nothing but the refusal comes out of the parser."""
    for content in (body, b"--b\r\n" + body, b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n' + body):
        with contextlib.suppress(RequestRejected):
            assert read_form(b"multipart/form-data; boundary=b", content).raw is content


def test_too_many_parts_are_refused() -> None:
    """A form of a thousand parts is nobody's edit."""
    content_type, body = written([("a", "x")] * 200, [])
    with pytest.raises(RequestRejected, match="128 parts"):
        read_form(content_type, body)
