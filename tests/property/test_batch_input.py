"""The input of batches: whatever lies in a file, every line is read exactly once and judged as the survey judged it."""

from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.loop.batches.input_file import read_line, read_part, survey

URL = "/v1/embeddings"
_lines = st.lists(
    st.one_of(
        st.sampled_from([b"", b" \t", b"{", b"[1]", b'"\xff"', b"\x0c"]),
        st.binary(max_size=40).map(lambda text: text.replace(b"\n", b"")),
        st.builds(
            lambda name, url: orjson.dumps({"custom_id": name, "method": "POST", "url": url, "body": {"n": name}}),
            st.sampled_from("abcdefgh"),
            st.sampled_from([URL, URL, URL, "/v1/other"]),
        ),
    ),
    max_size=30,
)


def _written(folder: str, lines: list[bytes], *, ends: bool) -> Path:
    path = Path(folder) / "input"
    path.write_bytes(b"\n".join(lines) + (b"\n" if ends else b""))
    return path


@given(lines=_lines, ends=st.booleans(), max_lines=st.integers(1, 5), max_bytes=st.integers(1, 200))
def test_parts_give_every_line_once(lines: list[bytes], ends: bool, max_lines: int, max_bytes: int) -> None:
    """Part after part, each beginning where the last one ended, whatever their limits; blank lines are none."""
    with TemporaryDirectory() as folder:
        path, begin, seen = _written(folder, lines, ends=ends), 0, list[bytes]()
        while begin < path.stat().st_size:
            part = read_part(path, begin, max_lines, max_bytes)
            assert begin < part.end
            assert len(part.lines) <= max_lines
            seen += [line.rstrip(b"\n") for line in part.lines]
            begin = part.end
    assert seen == [line for line in lines if line.strip()]


@given(lines=_lines, ends=st.booleans(), limit=st.integers(1, 120))
def test_a_file_that_passes_holds_good_lines_only(lines: list[bytes], ends: bool, limit: int) -> None:
    """The survey counts every line and names the bad ones; each of the others can be read, under a name of its own."""
    with TemporaryDirectory() as folder:
        found = survey(_written(folder, lines, ends=ends), URL, limit)
    # What ends a line counts towards its length.
    ended = [line + b"\n" for line in lines[:-1]] + [line + b"\n" * ends for line in lines[-1:]]
    numbered = {number: line for number, line in enumerate(ended, 1) if line.strip() or len(line) > limit}
    bad = {problem.line for problem in found.problems if problem.line is not None}
    good = [read_line(line, URL).custom_id for number, line in numbered.items() if number not in bad]
    assert found.total == len(numbered)
    assert bad <= numbered.keys()
    assert len(good) == len(set(good))
    assert all(number in bad for number, line in numbered.items() if len(line) > limit)
    assert bool(found.problems) == (bool(bad) or not numbered)


def test_too_many_lines_are_refused(tmp_path: Path) -> None:
    """50,000 are taken, one more is not."""
    path = tmp_path / "input"
    lines = [
        orjson.dumps({"custom_id": f"{n}", "method": "POST", "url": URL, "body": {}}) + b"\n" for n in range(50_000)
    ]
    path.write_bytes(b"".join(lines))
    assert survey(path, URL, 1000) == (50_000, ())
    path.write_bytes(b"".join([*lines, lines[0].replace(b'"0"', b'"x"')]))
    assert [problem.code for problem in survey(path, URL, 1000).problems] == ["too_many_lines"]


@pytest.mark.parametrize("limit", [200, 201])
def test_a_line_that_is_too_long_is_named(tmp_path: Path, limit: int) -> None:
    """Only that line, however much longer; those behind it are read."""
    line = orjson.dumps({"custom_id": "a", "method": "POST", "url": URL, "body": {"x": "y" * 128}}) + b"\n"
    path = tmp_path / "input"
    path.write_bytes(line + b"z" * 1000 + b"\n" + line.replace(b'"a"', b'"b"'))
    problems = survey(path, URL, limit).problems
    assert len(line) == 201
    assert [(problem.code, problem.line) for problem in problems] == [
        ("line_too_long", number) for number in ((1, 2, 3) if limit == 200 else (2,))
    ]
