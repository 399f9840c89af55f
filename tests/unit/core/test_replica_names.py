"""Names of replicas: fit for files, sockets and containers, stable, and different for different models."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from controlplane.core.planner import replica_name

_FIT = re.compile(r"[a-z0-9][a-z0-9.-]*[a-z0-9]")
_ids = st.text(min_size=1, max_size=80) | st.from_regex(r"[A-Za-z0-9._/-]{1,60}", fullmatch=True)


def test_a_plain_id_is_its_own_name() -> None:
    """What is fit already stays readable."""
    assert replica_name("smollm2-135m", 0) == "smollm2-135m-0"
    assert replica_name("qwen2.5", 1) == "qwen2.5-1"


def test_an_odd_id_keeps_what_can_be_read_of_it() -> None:
    """The rest is told apart by a hash."""
    assert re.fullmatch(r"qwen-qwen2.5-0.5b-instruct-[0-9a-f]{6}-0", replica_name("Qwen/Qwen2.5-0.5B-Instruct", 0))


def test_a_name_never_changes() -> None:
    """It must find the replica again after a restart, also of another version: these are carved in rows and labels."""
    assert replica_name("A", 0) == "a-559aea-0"
    assert replica_name("模型", 2) == "model-c98e11-2"


def test_ids_that_look_alike_get_different_names() -> None:
    """Case, separators, length, and an id that copies another's hashed name."""
    alike = ["a", "A", "a/", "-a", "a.", "a b", "a/b", "a-b", "a_b", "x" * 40, "x" * 41, "x" * 42, "模型", "模", "-"]
    alike += [replica_name(model_id, 0).removesuffix("-0") for model_id in alike]
    distinct = set(alike)
    assert len({replica_name(model_id, 0) for model_id in distinct}) == len(distinct)


@settings(max_examples=300, deadline=None)
@given(_ids, st.integers(0, 99))
@example("", 0)
@example("..", 0)
@example("a" * 39 + "-b", 0)
def test_every_name_is_fit(model_id: str, ordinal: int) -> None:
    """Short enough for a socket path, no separator, no leading dash or dot, ends with its ordinal."""
    name = replica_name(model_id, ordinal)
    assert _FIT.fullmatch(name)
    assert len(name) <= 50
    assert name.endswith(f"-{ordinal}")
    assert name == replica_name(model_id, ordinal)


@settings(max_examples=300, deadline=None)
@given(_ids, _ids)
def test_two_models_never_share_a_name(one: str, other: str) -> None:
    """Sharing a name would be sharing a row."""
    assert (replica_name(one, 0) == replica_name(other, 0)) == (one == other)
