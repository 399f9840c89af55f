"""What is shipped agrees with what is checked: schemas, reference page, examples."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from controlplane.cli.fit import Need, fit_at_once, places
from controlplane.errors import ConfigError
from controlplane.settings import load
from controlplane.settings.schema import FILES, ROOT, generated, lagging, main

CONFIG = ROOT / "config"
SERVICE_FILES = [CONFIG / "inference_manager.json", *sorted((CONFIG / "examples").glob("*.json"))]
SERVICE_FILES = [path for path in SERVICE_FILES if not path.name.endswith(".models.json")]


def validator(name: str) -> Draft202012Validator:
    schema = json.loads((CONFIG / f"schemas/{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_schemas_and_reference_say_what_the_classes_say() -> None:
    """A change of a key that forgets `python -m controlplane.settings.schema --write` is caught."""
    assert lagging() == []


def test_a_lagging_file_is_noticed(tmp_path: Path) -> None:
    """The check above can fail: an absent and an altered file are both named."""
    first, *others = generated()
    for path in others:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(generated()[path] + "x")
    assert lagging(tmp_path) == [first, *others]
    assert main([]) == 0


def test_the_reference_names_every_key() -> None:
    """Each key of both files stands in docs/configuration.md with a description."""
    lines = (ROOT / "docs/configuration.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    described = {cells[0].strip("`"): cells[3] for cells in rows}
    schemas = [json.loads((CONFIG / f"schemas/{name}.schema.json").read_text()) for name in FILES]
    parts = [part for schema in schemas for part in (schema, *schema["$defs"].values())]
    assert {key for part in parts for key in part.get("properties", ())} == set(described)
    assert all(described.values())


@pytest.mark.parametrize(
    "path", [*SERVICE_FILES, CONFIG / "demo/inference_manager.json"], ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    """The shipped files load, agree with the shipped schemas, and point at them by the right path."""
    settings = load(path, {})
    documents = {"inference_manager": path, "models": settings.models_file}
    for name, file in documents.items():
        document = json.loads(file.read_text())
        assert list(validator(name).iter_errors(document)) == []
        assert (file.parent / document["$schema"]).resolve() == CONFIG / f"schemas/{name}.schema.json"


@pytest.mark.parametrize("path", SERVICE_FILES, ids=lambda path: path.stem)
def test_every_example_keeps_its_promise_of_room(path: Path) -> None:
    """Each model of an example fits its budget, and the chat model fits beside the embedding model."""
    settings = load(path, {})
    budgets = settings.devices.budgets_mib or {"host": 8192}
    for model in settings.models:
        assert places(Need(model.model_id, model.vram_required_mb, 0), budgets)
    pair = [m.vram_required_mb for m in settings.models if {"chat", "embed"} & set(m.aliases)]
    assert len(pair) == 2
    assert fit_at_once(pair, list(budgets.values()))


def test_there_is_an_example_for_each_card() -> None:
    """The sizes that README and docs name are there."""
    names = {path.stem for path in SERVICE_FILES}
    assert {"gpu-8gb", "gpu-12gb", "gpu-16gb", "gpu-24gb", "simulated"} <= names


@pytest.mark.parametrize(
    "entry",
    [
        {"prority": 1},
        {"priority": 101},
        {"model_type": "text2txt"},
        {"engine": "vlm"},
        {"vram_required_mb": "1"},
        {"env": {"A": {"env": "B", "file": "c"}}},
        {"parameters": {"a": []}},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(tmp_path: Path, entry: Any) -> None:
    """An editor that follows the schema marks the mistakes that the loader would find."""
    good = {"model_id": "m", "model_type": "text2text", "engine": "simulated", "vram_required_mb": 1}
    assert list(validator("models").iter_errors({"models": [good]})) == []
    document = {"models": [{**good, **entry}]}
    assert list(validator("models").iter_errors(document)) != []
    (tmp_path / "models.json").write_text(json.dumps(document))
    (tmp_path / "service.json").write_text("{}")
    with pytest.raises(ConfigError):
        load(tmp_path / "service.json", {})
