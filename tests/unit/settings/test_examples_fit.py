"""The image models of the examples fit their budgets by the adapter's own check, with published sizes."""

from pathlib import Path

import pytest

from adapters.base import Target
from adapters.diffusers.adapter import DiffusersAdapter
from adapters.diffusers.footprint import Drawing, Footprint
from adapters.errors import LaunchError
from adapters.tensor_files import TensorSizes
from controlplane.settings import ModelSettings, load
from controlplane.settings.models_file import EngineKind
from controlplane.settings.schema import ROOT

# Parameters of each component, and the shape of the denoiser, from the models' own files.
_PUBLISHED = {
    "stabilityai/stable-diffusion-xl-base-1.0": (
        {"unet": 2_567_463_684, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840, "vae": 83_653_863},
        Drawing(1024, 320, 26, 8, 0, 128),
    ),
    "Tongyi-MAI/Z-Image-Turbo": (
        {"transformer": 6_154_908_736, "text_encoder": 4_022_468_096, "vae": 83_819_683},
        Drawing(1024, 3840, 18, 16, 512, 128),
    ),
}
_CARDS = {8: 8188, 12: 12282, 16: 16376, 24: 24564}


def published(model_path: str) -> Footprint:
    components, drawing = _PUBLISHED[model_path]
    return Footprint({name: TensorSizes(values, 0) for name, values in components.items()}, drawing)


def models(gib: int) -> list[ModelSettings]:
    settings = load(ROOT / f"config/examples/gpu-{gib}gb.json", {})
    return [model for model in settings.models if model.engine is EngineKind.DIFFUSERS]


def launch(model: ModelSettings, gib: int, budget_mib: int) -> None:
    adapter = DiffusersAdapter(published, cores=8)
    adapter.launch(model.launch(model.model_path or "", budget_mib, {}), Target("cuda", 0, _CARDS[gib]))


@pytest.mark.parametrize("gib", _CARDS)
def test_every_image_model_of_an_example_would_be_launched(gib: int) -> None:
    """On a card of that size; and the check means something, for half the budget is refused."""
    found = models(gib)
    assert {kind.value for model in found for kind in model.types} == {"text2image", "image_processing"}
    for model in found:
        launch(model, gib, model.vram_required_mb)
        with pytest.raises(LaunchError, match="too small"):
            launch(model, gib, 100 if model.model_path is None else model.vram_required_mb // 2)


@pytest.mark.parametrize("gib", _CARDS)
def test_the_batch_of_an_example_fits_its_budget(gib: int) -> None:
    """Weights, engine and a whole batch of denoiser rows, two for each image with guidance, stay within it."""
    for model in models(gib):
        if model.model_path is None:
            continue
        footprint = published(model.model_path)
        offloaded = model.options.get("offload") == "model"
        weights_mib = footprint.largest_mib(2) if offloaded else footprint.weights_mib(2)
        rows = (model.max_batch_size or 1) * (2 if model.options["default_guidance"] else 1)
        rows_mib = rows * footprint.drawing.row_mib(footprint.drawing.side**2, 2)
        assert 640 + weights_mib + rows_mib <= model.vram_required_mb, model.model_id


def test_every_example_serves_all_kinds() -> None:
    """Text, pictures, captions and operations on pictures are there on every card."""
    for gib in _CARDS:
        settings = load(ROOT / f"config/examples/gpu-{gib}gb.json", {})
        kinds = {kind.value for model in settings.models for kind in model.types}
        assert kinds == {"text2text", "text2image", "image2text", "image_processing", "embedding"}


def test_the_models_file_stands_beside_each_example() -> None:
    """So that a copy of both is a working configuration."""
    for gib in _CARDS:
        service = ROOT / f"config/examples/gpu-{gib}gb.json"
        assert load(service, {}).models_file == Path(service.with_name(f"gpu-{gib}gb.models.json"))
