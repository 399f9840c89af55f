"""What a pipeline's folder says about the memory that it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.diffusers.footprint import read_footprint
from adapters.errors import LaunchError
from adapters.tensor_files import TensorSizes
from tests.unit.adapters.model_folders import write_tensors
from tests.unit.adapters.pipeline_folders import FLUX, VAE, make_pipeline, stable_diffusion

# Counted with PyTorch for one row, and for one picture's decoding, in 16 bit: MiB.
COUNTED = [("sd15", 512, 65, 384), ("sd15", 1024, 260, 1536), ("flux", 512, 155, 384), ("flux", 1024, 464, 1536)]


def test_weights_are_told_by_component_and_width(tmp_path: Path) -> None:
    """Converted tensors take the engine's width, others stay as stored; a component without a class counts nothing."""
    folder = make_pipeline(
        tmp_path,
        {
            "transformer": (FLUX, {"w": ("BF16", [1024, 1024]), "scale": ("I32", [512, 512])}),
            "vae": (VAE, {"w": ("F32", [512, 512])}),
        },
        image_encoder=[None, None],
    )
    found = read_footprint(str(folder))
    assert found.components == {"transformer": TensorSizes(1024 * 1024, 1024 * 1024), "vae": TensorSizes(512 * 512, 0)}
    assert (found.weights_mib(2), found.weights_mib(4)) == (3 + 1, 5 + 1)
    assert found.largest_mib(4) == 5


def test_a_variant_beside_the_weights_is_not_counted(tmp_path: Path) -> None:
    """Publishers put fp16 copies into the same folder; only one of both is loaded. Alone, it counts."""
    folder = stable_diffusion(tmp_path)
    write_tensors(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors", {"w": ("F16", [4096, 512])})
    assert read_footprint(str(folder)).component_mib("unet", 4) == 1
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert read_footprint(str(folder)).component_mib("unet", 4) == 8


def test_shards_are_added_up(tmp_path: Path) -> None:
    """A component in several files is the sum of them."""
    folder = stable_diffusion(tmp_path)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    for part in (1, 2):
        name = f"diffusion_pytorch_model-0000{part}-of-00002.safetensors"
        write_tensors(folder / "unet" / name, {f"w{part}": ("F32", [512, 512])})
    assert read_footprint(str(folder)).component_mib("unet", 4) == 2


@pytest.mark.parametrize(("kind", "side", "row_mib", "decoding_mib"), COUNTED)
def test_drawing_takes_what_was_counted(tmp_path: Path, kind: str, side: int, row_mib: int, decoding_mib: int) -> None:
    """The estimates are within a tenth of what PyTorch allocated for the published shapes."""
    flux = {"transformer": (FLUX, {"w": ("BF16", [8, 8])}), "vae": (VAE, {"w": ("BF16", [8, 8])})}
    folder = stable_diffusion(tmp_path) if kind == "sd15" else make_pipeline(tmp_path, dict(flux))
    drawing = read_footprint(str(folder)).drawing
    assert drawing.side == (512 if kind == "sd15" else 1024)
    assert drawing.row_mib(side * side, 2) == pytest.approx(row_mib, rel=0.1)
    assert drawing.decoding_mib(side * side, 2) == pytest.approx(decoding_mib, rel=0.1)


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    """Missing, without an index, cut short, and without weights: each in its own words."""
    with pytest.raises(LaunchError, match="model folder not found"):
        read_footprint(str(tmp_path / "nowhere"))
    with pytest.raises(LaunchError, match=r"incomplete: model_index\.json is missing"):
        read_footprint(str(tmp_path))
    folder = stable_diffusion(tmp_path / "cut")
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(LaunchError, match="cut short"):
        read_footprint(str(folder))
    with pytest.raises(LaunchError, match="holds no weights"):
        read_footprint(str(make_pipeline(tmp_path / "empty", {})))
    (tmp_path / "model_index.json").write_text("[]")
    with pytest.raises(LaunchError, match=r"model_index\.json is not a JSON object"):
        read_footprint(str(tmp_path))
