"""What a model folder tells about memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.errors import LaunchError
from adapters.tensor_files import MIB
from adapters.vllm.footprint import read_footprint
from tests.unit.adapters.model_folders import LLAMA, make_folder, write_tensors


def test_weights_are_counted_at_the_width_that_is_asked_for(tmp_path: Path) -> None:
    """bfloat16 values take two or four bytes each; quantised tensors stay as they are stored."""
    folder = make_folder(tmp_path, a=("BF16", [1024, 1024]), b=("F8_E4M3", [1024, 1024]), c=("I32", [1024, 256]))
    footprint = read_footprint(str(folder))
    assert footprint.values == 1024 * 1024
    assert footprint.weights_mib(2) == 2 + 1 + 1
    assert footprint.weights_mib(4) == 4 + 1 + 1


def test_all_shards_of_the_index_are_counted_and_nothing_else(tmp_path: Path) -> None:
    """With an index, its files are the checkpoint: another copy in the folder is not added to it."""
    folder = make_folder(tmp_path)
    for name in ("model-1.safetensors", "model-2.safetensors", "other.safetensors"):
        write_tensors(folder / name, {"a": ("BF16", [1024, 1024])})
    weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert read_footprint(str(folder)).weights_mib(2) == 4


def test_a_consolidated_copy_is_not_counted_twice(tmp_path: Path) -> None:
    """Folders with the same weights in two layouts count once."""
    folder = make_folder(tmp_path, a=("BF16", [1024, 1024]))
    write_tensors(folder / "consolidated.safetensors", {"a": ("BF16", [1024, 1024])})
    assert read_footprint(str(folder)).weights_mib(2) == 2


def test_old_checkpoints_are_counted_by_their_size(tmp_path: Path) -> None:
    """A .bin file is as large as its values at the config's width; a .gguf keeps its size at any width."""
    folder = make_folder(tmp_path, config={"torch_dtype": "float32"})
    (folder / "pytorch_model.bin").write_bytes(bytes(4 * 1024 * 1024))
    (folder / "model.gguf").write_bytes(bytes(1024 * 1024))
    footprint = read_footprint(str(folder))
    assert (footprint.weights_mib(2), footprint.weights_mib(4)) == (2 + 1, 4 + 1)


def test_the_cache_of_a_plain_model_is_what_vllm_reports(tmp_path: Path) -> None:
    """SmolLM2 in float32: vLLM put 23,296 tokens into 1 GiB (46,080 bytes each), and asked 0.35 GiB for 8192."""
    footprint = read_footprint(str(make_folder(tmp_path, a=("BF16", [1]))))
    assert footprint.cache_values_per_token == 46_080 // 4
    assert footprint.cache_mib(4, 8192) == 366
    assert footprint.context_tokens == 8192


@pytest.mark.parametrize(
    "config",
    [
        LLAMA | {"sliding_window": 4096},
        LLAMA | {"kv_lora_rank": 512},
        LLAMA | {"layer_types": ["full_attention", "linear_attention"]},
        LLAMA | {"cross_attention_layers": [3, 8]},
        {"text_config": LLAMA | {"sliding_window": 4096}},
        {"text_config": {"model_type": "llama", "max_position_embeddings": 4096}},
        {"model_type": "bert", "num_hidden_layers": 6},
    ],
    ids=["sliding", "latent", "mixed", "crossed", "nested sliding", "nested defaults", "encoder"],
)
def test_other_layouts_have_no_known_cache(tmp_path: Path, config: dict[str, object]) -> None:
    """Where layers need less than the plain formula says, the cache is unknown rather than wrong."""
    assert read_footprint(str(make_folder(tmp_path, config, a=("BF16", [1])))).cache_mib(4, 100) is None


@pytest.mark.parametrize(
    "config",
    [LLAMA | {"layer_types": ["full_attention"] * 30}, LLAMA | {"sliding_window": 4096, "use_sliding_window": False}],
    ids=["full layers", "window off"],
)
def test_layouts_that_are_plain_after_all(tmp_path: Path, config: dict[str, object]) -> None:
    """Fields that only say "nothing special here" do not hide the cache's size."""
    assert read_footprint(str(make_folder(tmp_path, config, a=("BF16", [1])))).cache_mib(4, 100) is not None


@pytest.mark.parametrize("name", ["text_config", "llm_config", "language_config"])
def test_the_language_model_of_a_model_of_parts_has_the_cache(tmp_path: Path, name: str) -> None:
    """A vision-language model's cache is its language model's; its weights are those of all parts."""
    config = {"vision_config": {"num_hidden_layers": 24}, "torch_dtype": "float32", name: LLAMA}
    footprint = read_footprint(str(make_folder(tmp_path, config, tower=("F16", [MIB]), text=("F16", [3 * MIB]))))
    assert footprint.cache_values_per_token == 46_080 // 4
    assert (footprint.context_tokens, footprint.weights_mib(4), footprint.stored_width_bytes) == (8192, 16, 4)
    assert footprint.sees


def test_the_width_may_stand_with_the_language_model(tmp_path: Path) -> None:
    """Some publishers name it there only."""
    config = {"vision_config": {}, "text_config": LLAMA | {"dtype": "float32"}}
    assert read_footprint(str(make_folder(tmp_path, config, a=("F32", [1])))).stored_width_bytes == 4


@pytest.mark.parametrize(
    ("name", "content", "sees"),
    [
        ("preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"}, True),
        ("processor_config.json", {"image_processor": {"size": 224}}, True),
        ("preprocessor_config.json", {"feature_extractor_type": "WhisperFeatureExtractor"}, False),
        ("tokenizer_config.json", {"image_processor": "in a file that says nothing of it"}, False),
    ],
)
def test_a_model_sees_when_the_folder_says_how_pictures_are_prepared(
    tmp_path: Path, name: str, content: dict[str, object], sees: bool
) -> None:
    """Where the config names no vision tower, the preparation of pictures tells; that of sound does not."""
    folder = make_folder(tmp_path, a=("BF16", [1]))
    assert not read_footprint(str(folder)).sees
    (folder / name).write_text(json.dumps(content))
    assert read_footprint(str(folder)).sees is sees


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut_weights(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000)


def _foreign_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)


def _empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def _missing_shard(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-7.safetensors"}}')


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("[1, 2")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_no_config, "config.json is missing"),
        (_no_weights, "holds no weights"),
        (_cut_weights, "model.safetensors is cut short"),
        (_foreign_weights, "model.safetensors is not a safetensors file"),
        (_empty_weights, "model.safetensors is not a safetensors file"),
        (_missing_shard, "model-7.safetensors is missing"),
        (_broken_config, "cannot read the model folder"),
    ],
)
def test_a_damaged_folder_is_named_before_anything_starts(tmp_path: Path, damage: object, says: str) -> None:
    """Each kind of damage is a LaunchError that says which file it is about."""
    folder = make_folder(tmp_path, a=("BF16", [1024, 1024]))
    assert callable(damage)
    damage(folder)
    with pytest.raises(LaunchError, match=says):
        read_footprint(str(folder))


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    """The message names the path and the two remedies."""
    with pytest.raises(LaunchError, match=r"not found: .*nowhere; fetch the model, or correct model_path"):
        read_footprint(str(tmp_path / "nowhere"))
