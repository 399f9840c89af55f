"""What a valid configuration becomes: defaults, paths, secrets, overrides and hashes."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controlplane.core.model import InferenceType, ModelSpec, Rules
from controlplane.errors import ConfigError

KEY = "a-long-enough-key"
ADMIN = {"name": "me", "key": {"env": "MY_KEY"}, "scopes": ["user", "admin"]}


def test_an_empty_service_file_is_whole(config: Any) -> None:
    """Every key of inference_manager.json has a default, the documented one."""
    settings = config.load()
    assert (settings.server.host, settings.server.port, settings.server.max_body_mib) == ("127.0.0.1", 8000, 32)
    assert settings.state_dir == Path("~/.local/share/inference-manager").expanduser()
    assert settings.engines_dir == Path("~/.cache/inference-manager/engines").expanduser()
    assert settings.models_dir == Path("~/.cache/inference-manager/models").expanduser()
    assert settings.scheduling.queue_limit == 1000
    assert settings.rules() == Rules(ageing_seconds_per_point=6.0, min_residency_seconds=20.0)
    assert settings.api_keys == ()


def test_a_model_entry_becomes_its_spec(config: Any) -> None:
    """The names of the file lead to the values that decisions work with."""
    config.models(
        {
            "model_id": "org/chat-1.5",
            "model_type": ["text2text", "image2text"],
            "engine": "vllm",
            "model_path": "Org/Chat",
            "vram_required_mb": 5000,
            "loading_time_sec": 33,
            "priority": 70,
            "max_batch_size": 4,
            "pinned": True,
            "min_replicas": 1,
            "idle_timeout_seconds": 60,
        }
    )
    (model,) = config.load().models
    assert model.spec() == ModelSpec(
        model_id="org/chat-1.5",
        types=(InferenceType.TEXT2TEXT, InferenceType.IMAGE2TEXT),
        vram_mib=5000,
        max_concurrency=4,
        priority=70,
        pinned=True,
        min_replicas=1,
        idle_timeout_seconds=60,
        loading_seconds=33,
    )


def test_slots_default_to_the_batch_size_else_to_eight(config: Any) -> None:
    """An entry written with the specified max_batch_size alone gets that many slots."""
    config.models(
        {"model_id": "a", "model_type": "text2text", "engine": "simulated", "vram_required_mb": 1},
        {"model_id": "b", "model_type": "text2text", "engine": "simulated", "vram_required_mb": 1, "max_batch_size": 3},
        {
            "model_id": "c",
            "model_type": "text2text",
            "engine": "simulated",
            "vram_required_mb": 1,
            "max_batch_size": 3,
            "max_concurrency": 5,
        },
    )
    assert [model.max_concurrency for model in config.load().models] == [8, 3, 5]


def test_what_diffusers_is_told_may_have_structure(config: Any) -> None:
    """LoRAs and quantisation go on as JSON text, files are found from the file's folder, the batch size is its own."""
    config.models(
        {
            "model_id": "draw",
            "model_type": "text2image",
            "engine": "diffusers",
            "model_path": "shapes-draw",
            "vram_required_mb": 900,
            "max_batch_size": 4,
            "parameters": {
                "loras": [{"path": "./red.safetensors", "scale": 0.5}, {"path": "red"}],
                "quantization": {"backend": "torchao"},
                "upscaler": "../up.safetensors",
                "scheduler": "./euler",
            },
        },
        {"model_id": "edit", "model_type": "image_processing", "engine": "diffusers", "vram_required_mb": 128},
    )
    draw, edit = config.load().models
    launch = draw.launch("/folder", 900, {"threads": 2})
    folder = config.folder.resolve()
    assert launch.options == {
        "threads": 2,
        "loras": f'[{{"path":"{folder}/red.safetensors","scale":0.5}},{{"path":"red"}}]',
        "quantization": '{"backend":"torchao"}',
        "upscaler": str(folder.parent / "up.safetensors"),
        "scheduler": "./euler",
    }
    assert (launch.max_batch_size, edit.launch("", 128, {}).max_batch_size) == (4, None)
    assert (draw.max_concurrency, edit.model_path) == (4, None)


def test_a_model_without_idle_time_takes_the_common_one(config: Any) -> None:
    """Leaving the key out means the common idle time; null means never, whatever the common one is."""
    config.manager(scheduling={"idle_timeout_seconds": 900})
    config.model()
    assert config.load().models[0].idle_timeout_seconds == 900
    config.model(idle_timeout_seconds=None)
    assert config.load().models[0].idle_timeout_seconds is None


def test_relative_paths_start_at_the_file_that_names_them(config: Any, tmp_path: Path) -> None:
    """The working folder of the process does not matter."""
    (tmp_path / "sub").mkdir()
    config.models_path.rename(tmp_path / "sub/m.json")
    config.models_path = tmp_path / "sub/m.json"
    config.manager(models_file="sub/m.json", state_dir="state", engines={"vllm": {"python": "venv/bin/python"}})
    config.model(model_path="./weights")
    settings = config.load()
    assert settings.state_dir == tmp_path / "state"
    assert settings.engines.vllm.python == tmp_path / "venv/bin/python"
    assert settings.models[0].model_path == str(tmp_path / "sub/weights")


@pytest.mark.parametrize("name", ["smollm2-135m", "Qwen/Qwen3-8B-AWQ"])
def test_a_model_path_that_is_no_path_stays_a_name(config: Any, name: str) -> None:
    """Names of fetchable models and Hugging Face ids are not taken for folders beside the file."""
    config.model(model_path=name)
    assert config.load().models[0].model_path == name


def test_home_is_expanded(config: Any) -> None:
    """`~` means the home folder in every path, model_path included."""
    config.manager(cache_dir="~/cache")
    config.model(model_path="~/weights")
    settings = config.load()
    assert settings.cache_dir == Path.home() / "cache"
    assert settings.models[0].model_path == str(Path.home() / "weights")


def test_of_a_key_only_the_hash_is_kept(config: Any, tmp_path: Path) -> None:
    """Keys from a variable, from a file and given as hash all become the same hash, and none shows anywhere."""
    config.environ["MY_KEY"] = KEY
    (tmp_path / "key.txt").write_text(f"{KEY}2\n")
    third = hashlib.sha256(b"third-key").hexdigest()
    config.manager(
        server={"host": "0.0.0.0"},
        api_keys=[ADMIN, {"name": "b", "key": {"file": "key.txt"}}, {"name": "c", "key": {"sha256": third.upper()}}],
    )
    settings = config.load()
    hashes = [hashlib.sha256(text).hexdigest() for text in (KEY.encode(), f"{KEY}2".encode(), b"third-key")]
    assert [key.sha256 for key in settings.api_keys] == hashes
    assert [key.scopes for key in settings.api_keys] == [("user", "admin"), ("user",), ("user",)]
    assert KEY not in repr(settings)
    assert not any(each in repr(settings) for each in hashes)


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        (KEY, 'write {"env": "NAME"}'),
        ({"env": "ABSENT"}, "the environment variable ABSENT is not set or empty"),
        ({"file": "absent.txt"}, "absent.txt: No such file or directory; put the secret there"),
        ({"file": "short.txt"}, "fewer than 8 characters"),
        ({"sha256": "abc"}, "64 hex digits"),
        ({"env": "A", "file": "b"}, 'write {"env": "NAME"}'),
        ({}, 'write {"env": "NAME"}'),
    ],
)
def test_a_key_that_cannot_be_had_is_told_without_showing_it(
    config: Any, tmp_path: Path, key: Any, remedy: str
) -> None:
    """The message says how to give a key, and never repeats what may be one."""
    (tmp_path / "short.txt").write_text("s3cret")
    config.manager(api_keys=[{"name": "me", "key": key}])
    (mistake,) = config.mistakes()
    assert "api_keys[0].key: " in mistake
    assert remedy in mistake
    assert KEY not in mistake
    assert "s3cret" not in mistake


def test_keys_and_their_names_are_given_once(config: Any) -> None:
    """Two users with one key, or two keys with one name, could not be told apart."""
    config.environ["MY_KEY"] = KEY
    config.manager(api_keys=[ADMIN, ADMIN])
    assert [mistake.partition(": ")[2].partition(": ")[0] for mistake in config.mistakes()] == [
        "api_keys[1].name",
        "api_keys[1].key",
    ]


def test_engine_variables_may_be_secrets(config: Any) -> None:
    """An engine's environment takes text and named secrets; its repr shows neither."""
    config.environ["TOKEN"] = "hf_secret"
    config.model(env={"HF_TOKEN": {"env": "TOKEN"}, "OMP_NUM_THREADS": "2"})
    (model,) = config.load().models
    assert model.launch_env == {"HF_TOKEN": "hf_secret", "OMP_NUM_THREADS": "2"}
    assert "hf_secret" not in repr(model)
    assert "hf_secret" not in model.model_dump_json()


def test_nothing_is_substituted(config: Any) -> None:
    """`${NAME}` stays text: the files say what they say on every machine."""
    config.environ["NAME"] = "value"
    config.model(env={"A": "${NAME}"})
    assert config.load().models[0].launch_env == {"A": "${NAME}"}


def test_parameters_become_scalar_options(config: Any) -> None:
    """Engines get text, numbers and booleans of the kind that was written; a script as its JSON text."""
    config.model(parameters={"max_model_len": 2048, "enforce_eager": True, "ratio": 0.5, "script": {"load_seconds": 1}})
    assert config.load().models[0].options == {
        "max_model_len": 2048,
        "enforce_eager": True,
        "ratio": 0.5,
        "script": '{"load_seconds":1}',
    }


def test_a_byte_order_mark_is_no_mistake(config: Any) -> None:
    """Editors on Windows write one."""
    config.path.write_text('﻿{"server": {"port": 9000}}', encoding="utf-8")
    assert config.load().server.port == 9000


@pytest.mark.parametrize(
    "change",
    [
        {"vram_required_mb": 101},
        {"aliases": ["other"]},
        {"args": ["--x"]},
        {"env": {"A": "b"}},
        {"parameters": {"dtype": "half"}},
        {"max_concurrency": 9},
        {"model_path": "other"},
    ],
)
def test_the_hash_follows_what_shapes_a_launch(config: Any, change: Any) -> None:
    """A replica started from another command line, environment or budget is known as outdated."""
    before = config.load()
    config.model(**change)
    after = config.load()
    assert before.config_hash(before.models[0]) != after.config_hash(after.models[0])


def test_the_hash_ignores_what_only_decisions_use(config: Any) -> None:
    """Changing priority, pin, idle time or the order of keys never restarts an engine; two loads give one hash."""
    config.model(parameters={"a": 1, "b": 2}, env={"A": "1", "B": "2"})
    before = config.load()
    config.model(
        env={"B": "2", "A": "1"}, parameters={"b": 2, "a": 1}, priority=90, pinned=True, idle_timeout_seconds=5
    )
    after = config.load()
    assert before.config_hash(before.models[0]) == after.config_hash(after.models[0])


def test_the_hash_follows_the_engines_section(config: Any) -> None:
    """Another interpreter for vLLM makes every vLLM launch another one."""
    config.model(engine="vllm", model_path="x")
    before = config.load()
    config.manager(engines={"vllm": {"threads": 2}})
    after = config.load()
    assert before.config_hash(before.models[0]) != after.config_hash(after.models[0])


def test_the_command_line_overrules_the_file(config: Any) -> None:
    """Host, port and level given at the start win; what was not given stays."""
    config.manager(server={"host": "127.0.0.2", "port": 9000, "max_body_mib": 5})
    changed = config.load().with_overrides(port=0, log_level="debug")
    assert (changed.server.host, changed.server.port, changed.server.max_body_mib) == ("127.0.0.2", 0, 5)
    assert changed.logging.level == "debug"
    assert config.load().with_overrides().server.port == 9000


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        ({"host": "0.0.0.0"}, "api_keys"),
        ({"port": 70000}, "must be at most 65535"),
        ({"log_level": "loud"}, "must be one of"),
    ],
)
def test_the_command_line_is_judged_like_the_file(config: Any, overrides: Any, remedy: str) -> None:
    """An override cannot open the service to the network without a key, nor bring a value that no file may have."""
    with pytest.raises(ConfigError, match=remedy):
        config.load().with_overrides(**overrides)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_key(config: Any, host: str) -> None:
    """Nobody but this host can reach these."""
    config.manager(server={"host": host})
    assert config.load().server.host == host


def test_budgets_are_explicit_or_all_but_a_margin(config: Any) -> None:
    """A budget is what the file says, else the whole device less the margin; never more than the device has."""
    config.manager(devices={"budgets_mib": {"gpu0": 6000}, "margin_mib": 1000})
    devices = config.load().devices
    assert devices.budget_mib("gpu0", 8192) == 6000
    assert devices.budget_mib("gpu0", 4096) == 4096
    assert devices.budget_mib("gpu1", 8192) == 7192
    assert devices.budget_mib("host", 500) == 0


def test_settings_cannot_be_changed(config: Any) -> None:
    """What was parsed once stays as it is."""
    settings = config.load()
    with pytest.raises(ValidationError):
        settings.server.port = 1
    with pytest.raises(ValidationError):
        settings.models = ()
