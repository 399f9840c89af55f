"""Every mistake is found, located and answered with what to write instead."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from controlplane.errors import ConfigError

REMOTE = {"engine": "simulated", "api_endpoint": "http://gpu:8000/v1"}

DRAWING = {"engine": "diffusers", "model_type": "text2image", "model_path": "x"}


@pytest.mark.parametrize(
    ("keys", "where", "remedy"),
    [
        ({"prority": 3}, "models[0].prority", 'unknown key; did you mean "priority"?'),
        ({"xyzzy": 3}, "models[0].xyzzy", 'unknown key; known here: "aliases", "api_endpoint"'),
        ({"priority": 101}, "models[0].priority", "must be at most 100, found 101"),
        ({"priority": -1}, "models[0].priority", "must be at least 0, found -1"),
        ({"priority": "50"}, "models[0].priority", 'must be a whole number, found "50"'),
        ({"priority": True}, "models[0].priority", "must be a whole number, found true"),
        ({"model_type": "text2txt"}, "models[0].model_type[0]", 'did you mean "text2text"?'),
        ({"model_type": []}, "models[0].model_type", "must have at least 1 item(s)"),
        ({"model_type": ["embedding", "embedding"]}, "models[0].model_type", "name each kind once"),
        ({"engine": "vlm"}, "models[0].engine", 'did you mean "vllm"?'),
        ({"engine": "ollama"}, "models[0].engine", 'must be one of "diffusers", "simulated", "vllm", found'),
        ({"engine": "vllm"}, "models[0].model_path", 'engine vllm needs it; add "model_path"'),
        ({"engine": "diffusers"}, "models[0].model_path", 'engine diffusers needs it; add "model_path"'),
        ({**DRAWING, "parameters": {"loras": "x"}}, "models[0].parameters", '"loras" must be a list or an object'),
        ({**DRAWING, "parameters": {"dtype": ["x"]}}, "models[0].parameters", '"dtype" must be text, a number'),
        (REMOTE, "models[0].api_endpoint", 'remove "api_endpoint"'),
        ({"vram_required_mb": 1.5}, "models[0].vram_required_mb", "must be a whole number, found 1.5"),
        ({"vram_required_mb": 0}, "models[0].vram_required_mb", "must be more than 0"),
        ({"min_replicas": 2}, "models[0].min_replicas", "must be at most 1"),
        ({"pinned": "yes"}, "models[0].pinned", 'must be true or false, found "yes"'),
        ({"model_id": "a b"}, "models[0].model_id", "use letters, digits and . _ - /"),
        ({"model_id": "../etc"}, "models[0].model_id", "use letters, digits and . _ - /"),
        ({"model_id": "x" * 97}, "models[0].model_id", "at most 96 characters"),
        ({"aliases": ["ok", "not ok"]}, "models[0].aliases[1]", "use letters, digits and . _ - /"),
        ({"aliases": ["m"]}, "models[0].aliases[0]", '"m" already names models[0]'),
        ({"aliases": ["embedding"]}, "models[0].aliases[0]", "is a kind of inference"),
        ({"model_id": "text2image"}, "models[0].model_id", "is a kind of inference"),
        ({"env": {"A=B": "x"}}, "models[0].env", "cannot name an environment variable"),
        ({"parameters": {"dtype": ["x"]}}, "models[0].parameters", '"dtype" must be text, a number, true or false'),
        ({"parameters": {"dtype": None}}, "models[0].parameters", "leave it out for the default"),
        ({"parameters": {"script": 3}}, "models[0].parameters", '"script" must be an object'),
        ({"parameters": {"script": {"lod_seconds": 1}}}, "models[0].parameters", "did you mean load_seconds?"),
        (
            {"engine": "vllm", "model_path": "x", "parameters": {"script": {}}},
            "models[0].parameters",
            "simulated engine",
        ),
        ({"loading_time_sec": 0}, "models[0].loading_time_sec", "must be more than 0"),
        ({"idle_timeout_seconds": -1}, "models[0].idle_timeout_seconds", "must be at least 0"),
        ({"max_concurrency": 0}, "models[0].max_concurrency", "must be at least 1"),
        ({"args": "--x"}, "models[0].args", "must be a list"),
    ],
)
def test_a_wrong_model_entry_is_answered_with_its_remedy(config: Any, keys: Any, where: str, remedy: str) -> None:
    """Each mistake in an entry gives one line with file, line number, place and remedy."""
    config.model(**keys)
    mistakes = config.mistakes()
    assert len(mistakes) == 1, mistakes
    assert mistakes[0].startswith("models.json, line ")
    assert f": {where}: " in mistakes[0]
    assert remedy in mistakes[0]


@pytest.mark.parametrize(
    ("keys", "where", "remedy"),
    [
        ({"sever": {}}, "sever", 'did you mean "server"?'),
        ({"server": {"prot": 1}}, "server.prot", 'did you mean "port"?'),
        ({"server": {"port": 65536}}, "server.port", "must be at most 65535"),
        ({"server": []}, "server", "must be an object, in { }, found a list"),
        ({"server": {"host": "0.0.0.0"}}, "server.host", "api_keys"),
        ({"server": {"host": "gpu-box"}}, "server.host", "127.0.0.1"),
        ({"server": {"cors_origins": ["app.example"]}}, "server.cors_origins", "write scheme and host only"),
        ({"logging": {"level": "warn"}}, "logging.level", 'did you mean "warning"?'),
        ({"devices": {"budgets_mib": {"gpu0": "8 GB"}}}, "devices.budgets_mib.gpu0", "must be a whole number"),
        ({"devices": {"budgets_mib": {"cuda:0": 1}}}, "devices.budgets_mib.cuda:0", 'write "gpu0" for the first GPU'),
        ({"devices": {"source": "gpu"}}, "devices.source", 'must be one of "auto", "cuda", "host"'),
        ({"scheduling": {"backoff_max_seconds": 1}}, "scheduling.backoff_max_seconds", "write at least that"),
        ({"scheduling": {"resync_seconds": 0}}, "scheduling.resync_seconds", "must be more than 0"),
        ({"retention": {"requests_max": 0}}, "retention.requests_max", "must be at least 1"),
        ({"engines": {"vllm": {"environment": "cuda"}}}, "engines.vllm.environment", 'did you mean "vllm-cuda"?'),
        ({"state_dir": ""}, "state_dir", "an empty path"),
        ({"state_dir": 3}, "state_dir", "must be a path"),
    ],
)
def test_a_wrong_service_file_is_answered_with_its_remedy(config: Any, keys: Any, where: str, remedy: str) -> None:
    """Each mistake in inference_manager.json gives one line with file, place and remedy."""
    config.manager(**keys)
    mistakes = config.mistakes()
    assert len(mistakes) == 1, mistakes
    assert mistakes[0].startswith("inference_manager.json, line ")
    assert f": {where}: " in mistakes[0]
    assert remedy in mistakes[0]


def test_a_missing_memory_figure_says_how_to_estimate_it(config: Any) -> None:
    """vram_required_mb cannot be guessed for the author, but the sum to make is told."""
    config.models({"model_id": "m", "model_type": "text2text", "engine": "simulated"})
    (mistake,) = config.mistakes()
    assert "models[0].vram_required_mb: is missing" in mistake
    assert "size of the weights" in mistake


def test_all_mistakes_of_both_files_come_together(config: Any) -> None:
    """One run names every mistake, so that nobody mends them one start at a time."""
    config.manager(server={"prot": 1}, logging={"level": "warn"})
    config.models({"model_id": "a b", "engine": "vlm"}, {"model_id": "text2text", "model_type": 3})
    text = "\n".join(config.mistakes())
    for place in (
        "server.prot",
        "logging.level",
        "models[0].model_id",
        "models[0].engine",
        "models[0].model_type",
        "models[0].vram_required_mb",
        "models[1].model_id",
        "models[1].engine",
    ):
        assert place in text


def test_a_mistake_names_the_line_it_stands_on(config: Any) -> None:
    """The line number is that of the wrong key, also far into the file."""
    lines = ["{", '"models": [', json.dumps({"model_id": "a"})[:-1] + ",", '"prority": 5,', '"engine": "vllm"}', "]}"]
    config.models_path.write_text("\n".join(lines))
    (mistake,) = [m for m in config.mistakes() if "prority" in m]
    assert mistake.startswith("models.json, line 4: ")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"models": [}', "line 1, column 13"),
        ('{\n "models": [],\n}', "line 3, column 1"),
        ('{\n "models": [1,]\n}', "remove the comma"),
        ('{ // models\n "models": []}', "JSON has no comments"),
        ("{'models': []}", "use double quotes"),
        ("", "the file is empty"),
        ('{"models": [], "models": []}', 'line 1: the key "models" stands twice'),
        ('{"models": NaN}', "NaN is not a number in JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "must be an object, in { }, found a list"),
        ("null", "must be an object, in { }, found null"),
    ],
)
def test_a_text_that_is_no_such_document_is_located(config: Any, text: str, found: str) -> None:
    """Bad JSON names line and column, with a hint at the usual slips; repeated keys count as bad."""
    config.models_path.write_text(text)
    (mistake,) = config.mistakes()
    assert mistake.startswith("models.json")
    assert found in mistake


def test_unreadable_files_are_named(config: Any) -> None:
    """A missing file, a folder and text in another encoding each give a sentence, no traceback."""
    config.models_path.unlink()
    assert "models.json: cannot be read: No such file or directory" in config.mistakes()[0]
    config.models_path.mkdir()
    assert "cannot be read: Is a directory" in config.mistakes()[0]
    config.path.write_bytes(b'{"server": {"host": "\xff"}}')
    assert "inference_manager.json: is not UTF-8 text" in config.mistakes()[0]


def test_names_may_not_clash_between_models(config: Any) -> None:
    """Two models under one name would make a request ambiguous, also by way of an alias."""
    first = {"model_id": "a", "model_type": "text2text", "engine": "simulated", "vram_required_mb": 1, "aliases": ["x"]}
    config.models(first, {**first, "model_id": "x", "aliases": []}, {**first, "aliases": []})
    mistakes = config.mistakes()
    assert ['"x" already names models[0]' in mistakes[0], '"a" already names models[0]' in mistakes[1]] == [True, True]
    assert len(mistakes) == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
known_keys = st.sampled_from(
    ["models", "model_id", "model_type", "engine", "aliases", "env", "parameters", "args", "vram_required_mb", "key"]
)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    entry=st.dictionaries(known_keys | st.text(max_size=8), json_values, max_size=6),
    manager=st.dictionaries(st.sampled_from(["server", "api_keys", "models_file", "devices"]), json_values, max_size=3),
)
def test_whatever_json_says_loads_or_is_a_configuration_error(config: Any, entry: Any, manager: Any) -> None:
    """No JSON value anywhere in the files escapes as another exception than ConfigError."""
    config.models(entry)
    config.manager(**manager)
    with suppress(ConfigError):
        config.load()
