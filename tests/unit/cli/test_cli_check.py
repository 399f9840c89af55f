"""`inferctl check` judges a configuration against the host, starts nothing and ends with a useful code."""

import json
from pathlib import Path

import pytest
from inferctl_process import inferctl, write_config

from tests.unit.adapters.pipeline_folders import stable_diffusion


def test_a_good_configuration_ends_with_zero(service_file: Path) -> None:
    """Devices with budgets, models with their place and the verdict are shown."""
    ended = inferctl("check", "--config", service_file)
    assert ended.code == 0, ended.err
    assert "the configuration is good" in ended.out
    host = next(line for line in ended.out.splitlines() if line.startswith("host"))
    assert host.split()[-1] == "1000"


def test_json_holds_the_whole_judgement(tmp_path: Path) -> None:
    """With --json, stdout is one JSON document with what fits where and what fits together."""
    sizes = {"a": 600, "b": 500, "c": 300}
    path = write_config(tmp_path, *({"model_id": name, "vram_required_mb": mib} for name, mib in sizes.items()))
    found = inferctl("check", "-c", path, "--json").json
    assert found["ok"] is True
    assert {model["model_id"]: model["fits_on"] for model in found["models"]} == {name: ["host"] for name in "abc"}
    assert sorted(map(sorted, found["together"])) == [["a", "c"], ["b", "c"]]


def test_a_model_that_can_never_fit_is_an_error(tmp_path: Path) -> None:
    """It would wait for ever, so check refuses with both numbers and a remedy."""
    path = write_config(tmp_path, {"model_id": "huge", "vram_required_mb": 5000}, {"model_id": "ok"})
    ended = inferctl("check", "-c", path)
    assert ended.code == 2
    assert "error: model huge can never be loaded: it needs 5000 MiB and the largest budget is 1000" in ended.out
    assert "the configuration does not work here" in ended.out


def test_models_that_must_stay_have_to_fit_together(tmp_path: Path) -> None:
    """min_replicas promises that each is loaded all the time, which these two cannot be."""
    always = {"vram_required_mb": 600, "min_replicas": 1}
    path = write_config(tmp_path, {"model_id": "a", **always}, {"model_id": "b", **always})
    ended = inferctl("check", "-c", path, "--json")
    assert ended.code == 2
    assert ended.json["errors"] == [
        "the models with min_replicas 1 do not fit together (a, b); set it to 0 for some of them"
    ]


def test_a_missing_or_incomplete_model_folder_is_an_error(tmp_path: Path) -> None:
    """A folder that was named has to be there, with everything an engine needs."""
    (tmp_path / "half").mkdir()
    (tmp_path / "half/config.json").write_text("{}")
    models = [{"model_id": name, "engine": "vllm", "model_path": f"./{name}"} for name in ("absent", "half")]
    ended = inferctl("check", "-c", write_config(tmp_path, *models), "--json")
    assert ended.code == 2
    absent, half = ended.json["errors"]
    assert absent.startswith("model absent: ")
    assert "no such folder" in absent
    assert "half is not complete: it lacks weights" in half


def test_what_the_engine_would_refuse_is_an_error(tmp_path: Path) -> None:
    """An option that cannot work is found before the first request needs the model."""
    model = {"model_id": "m", "parameters": {"script": {"memory_mib": 10}, "nonsense": 3}}
    ended = inferctl("check", "-c", write_config(tmp_path, model), "--json")
    assert ended.code == 2
    (error,) = ended.json["errors"]
    assert error.startswith("cannot start m: ")
    assert "nonsense" in error


def test_pipelines_and_processing_are_judged_too(tmp_path: Path) -> None:
    """A pipeline's folder, options and budget are checked as its engine would; processing needs no folder."""
    common = {"engine": "diffusers", "model_type": "text2image", "parameters": {"scheduler": "euler"}}
    folder = stable_diffusion(tmp_path / "sd")
    (folder / "unet" / "config.json").rename(tmp_path / "config.json")
    models = (
        {**common, "model_id": "broken", "model_path": "./sd", "vram_required_mb": 900},
        {"engine": "diffusers", "model_type": "image_processing", "model_id": "edit", "vram_required_mb": 128},
        {"engine": "diffusers", "model_type": "image_processing", "model_id": "tight", "vram_required_mb": 100},
    )
    found = inferctl("check", "-c", write_config(tmp_path, *models), "--json").json
    assert {model["model_id"]: model["files"] for model in found["models"]} == {
        "broken": "missing",
        "edit": "none needed",
        "tight": "none needed",
    }
    assert [error.split(":")[0] for error in found["errors"]] == ["model broken", "cannot start tight"]
    assert "it lacks unet/config.json" in found["errors"][0]

    (tmp_path / "config.json").rename(folder / "unet" / "config.json")
    models = (
        {**common, "model_id": "small", "model_path": "./sd", "vram_required_mb": 900},
        {**common, "model_id": "odd", "model_path": "./sd", "parameters": {"sheduler": "x"}},
    )
    errors = inferctl("check", "-c", write_config(tmp_path, *models), "--json").json["errors"]
    assert any("a budget of 900 MiB is too small, 1795 MiB would do" in error for error in errors)
    assert any("there is no option sheduler; did you mean scheduler" in error for error in errors)


def test_a_budget_beyond_the_device_is_an_error(tmp_path: Path) -> None:
    """More than the device has cannot be handed out."""
    devices = {"source": "host", "budgets_mib": {"host": 10**9}}
    ended = inferctl("check", "-c", write_config(tmp_path, {"model_id": "m"}, devices=devices), "--json")
    assert ended.code == 2
    assert "devices.budgets_mib.host is 1000000000, but the device has" in ended.json["errors"][0]


def test_a_device_of_another_host_is_only_a_warning(tmp_path: Path) -> None:
    """A file for a GPU machine can be checked on one without a GPU."""
    devices = {"source": "host", "budgets_mib": {"host": 50, "gpu7": 8000}}
    path = write_config(tmp_path, {"model_id": "m", "vram_required_mb": 7000}, devices=devices)
    ended = inferctl("check", "-c", path, "--json")
    assert ended.code == 0
    assert ended.json["models"][0]["fits_on"] == ["gpu7"]
    assert "gpu7" in ended.json["warnings"][0]


@pytest.mark.parametrize("command", ["check", "serve"])
def test_every_mistake_is_named_and_nothing_starts(tmp_path: Path, command: str) -> None:
    """Mistakes in both files come together on stderr, with code 2, and no state is left behind."""
    path = write_config(tmp_path, {"model_id": "m", "prority": 1}, sever={})
    ended = inferctl(command, "--config", path)
    assert ended.code == 2
    assert "the configuration has 2 mistakes" in ended.err
    assert 'sever: unknown key; did you mean "server"?' in ended.err
    assert 'models[0].prority: unknown key; did you mean "priority"?' in ended.err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["models.json", "service.json"]


def test_mistakes_as_json(tmp_path: Path) -> None:
    """With --json an error is JSON too, and stderr stays empty."""
    ended = inferctl("check", "-c", tmp_path / "absent.json", "--json")
    assert (ended.code, ended.err) == (2, "")
    assert ended.json["error"]["kind"] == "usage"
    assert "cannot be read" in ended.json["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--host", "0.0.0.0"], "api_keys"),
        (["--port", "70000"], "65535"),
        (["--log-level", "loud"], "debug"),
    ],
)
def test_serve_refuses_an_override_that_does_not_fit(service_file: Path, arguments: list[str], remedy: str) -> None:
    """The command line is judged like the file, before anything starts."""
    ended = inferctl("serve", "--config", service_file, *arguments)
    assert ended.code == 2
    assert remedy in ended.err


def test_a_secret_of_the_environment_is_found(tmp_path: Path) -> None:
    """The process's own variables are the ones that a file may name."""
    path = write_config(tmp_path, {"model_id": "m"}, api_keys=[{"name": "me", "key": {"env": "TRIAL_KEY"}}])
    assert "TRIAL_KEY is not set" in inferctl("check", "-c", path).err
    assert inferctl("check", "-c", path, env={"TRIAL_KEY": "long-enough"}).code == 0


def test_the_default_file_is_that_of_the_working_folder(tmp_path: Path) -> None:
    """Without --config it is config/inference_manager.json."""
    (tmp_path / "config").mkdir()
    write_config(tmp_path / "config", {"model_id": "m"}).rename(tmp_path / "config/inference_manager.json")
    found = inferctl("check", "--json", cwd=tmp_path)
    assert json.loads(found.out)["ok"] is True
