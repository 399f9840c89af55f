"""Reads a pipeline's folder: the weights of each component, and what drawing one picture takes beside them.

Only headers and configs are read, never tensors. Factors were counted over PyTorch's own allocations, with the shapes
of SD1.5, SDXL and Flux, in 16 and 32 bit alike: the memory alive at once is proportional to the widest layers.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import LaunchError
from adapters.tensor_files import MIB, TensorSizes, tensor_sizes

INDEX = "model_index.json"

# Copies of one full layer that are alive at the worst moment.
_UNET_LAYERS = 26
_TRANSFORMER_LAYERS = 18
_DECODER_LAYERS = 6
_TEXT_TOKENS = 512  # beside the picture's own, where text and picture go through the same layers
_LATENT_PIXELS = 8
_PATCH = 2
_USUAL_SIDE = 1024
_USUAL_DECODER_CHANNELS = 128
_LEGACY_PATTERNS = ("*.bin", "*.pt", "*.pth")

Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Drawing:
    """What activations follow from: the side of a picture that is drawn unless asked otherwise, in pixels.

    `denoiser_channels` wide, `layers` deep at its widest, on one place per `place_pixels` squared.
    """

    side: int
    denoiser_channels: int
    layers: int
    place_pixels: int
    extra_places: int
    decoder_channels: int

    def row_mib(self, pixels: int, width_bytes: int) -> int:
        """One row of the denoiser's batch; a picture with guidance has two."""
        places = pixels // self.place_pixels**2 + self.extra_places
        return _whole_mib(self.layers * places * self.denoiser_channels * width_bytes)

    def decoding_mib(self, pixels: int, width_bytes: int) -> int:
        """Turning one drawn latent into a picture."""
        return _whole_mib(_DECODER_LAYERS * pixels * self.decoder_channels * width_bytes)


@dataclass(frozen=True, slots=True)
class Footprint:
    """A pipeline's components by name, and what drawing with it takes."""

    components: Mapping[str, TensorSizes]
    drawing: Drawing

    def weights_mib(self, width_bytes: int) -> int:
        """All weights in memory at `width_bytes` per value, rounded up."""
        return sum(self.component_mib(name, width_bytes) for name in self.components)

    def component_mib(self, name: str, width_bytes: int) -> int:
        sizes = self.components[name]
        return _whole_mib(sizes.values * width_bytes + sizes.fixed_bytes)

    def largest_mib(self, width_bytes: int) -> int:
        """The largest component, for pipelines that keep one of them on the device at a time."""
        return max(self.component_mib(name, width_bytes) for name in self.components)


def read_footprint(model_path: str) -> Footprint:
    """Read the folder `model_path`. Raises `LaunchError` when it is missing, incomplete or not readable."""
    folder = Path(model_path)
    if not folder.is_dir():
        raise LaunchError(f"model folder not found: {model_path}; fetch the model, or correct model_path")
    try:
        components = dict(_components(folder, _read_object(folder / INDEX)))
        drawing = _drawing(folder)
    except FileNotFoundError as exc:
        raise LaunchError(f"model folder {model_path} is incomplete: {Path(exc.filename).name} is missing") from exc
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise LaunchError(f"cannot read the model folder {model_path}: {exc}") from exc
    if not any(sizes.values + sizes.fixed_bytes for sizes in components.values()):
        raise LaunchError(f"model folder {model_path} holds no weights (*.safetensors)")
    return Footprint(components, drawing)


def _components(folder: Path, index: Fields) -> Iterator[tuple[str, TensorSizes]]:
    for name, kind in index.items():
        if isinstance(kind, list) and len(kind) == 2 and kind[1] and (folder / name).is_dir():
            yield name, _component_sizes(folder / name)


def _component_sizes(folder: Path) -> TensorSizes:
    found = [tensor_sizes(path) for path in _weight_files(folder)]
    if found:
        return TensorSizes(sum(each.values for each in found), sum(each.fixed_bytes for each in found))
    legacy_bytes = sum(path.stat().st_size for pattern in _LEGACY_PATTERNS for path in folder.glob(pattern))
    return TensorSizes(legacy_bytes // 4, 0)


def _weight_files(folder: Path) -> list[Path]:
    """The files that are loaded: publishers put 16-bit copies beside them, with a variant's name before the suffix."""
    files = sorted(folder.glob("*.safetensors"))
    plain = [path for path in files if "." not in path.name.removesuffix(".safetensors")]
    return plain or files


def _drawing(folder: Path) -> Drawing:
    vae = _config(folder / "vae")
    channels = _widths(vae)
    latent_pixels = 2 ** (len(channels) - 1) if channels else _LATENT_PIXELS
    decoder_channels = channels[0] if channels else _number(vae, "base_dim") or _USUAL_DECODER_CHANNELS
    unet = _config(folder / "unet")
    if unet:
        widths = _widths(unet) or [320]
        side = (_number(unet, "sample_size") or _USUAL_SIDE // latent_pixels) * latent_pixels
        return Drawing(side, widths[0], _UNET_LAYERS, latent_pixels, 0, decoder_channels)
    transformer = _config(folder / "transformer")
    side = (_number(transformer, "sample_size") or _USUAL_SIDE // latent_pixels) * latent_pixels
    place_pixels = latent_pixels * (_number(transformer, "patch_size") or _PATCH)
    if _number(transformer, "patch_size") == 1:  # such transformers get their patches packed already
        place_pixels = latent_pixels * _PATCH
    width = _transformer_width(transformer)
    return Drawing(side, width, _TRANSFORMER_LAYERS, place_pixels, _TEXT_TOKENS, decoder_channels)


def _transformer_width(config: Fields) -> int:
    heads, head_width = _number(config, "num_attention_heads"), _number(config, "attention_head_dim")
    if heads and head_width:
        return heads * head_width
    return _number(config, "dim") or _number(config, "hidden_size") or 1


def _config(folder: Path) -> Fields:
    return _read_object(folder / "config.json") if (folder / "config.json").is_file() else {}


def _widths(config: Fields) -> list[int]:
    value = config.get("block_out_channels")
    return [width for width in value if isinstance(width, int) and width > 0] if isinstance(value, list) else []


def _number(config: Fields, key: str) -> int | None:
    value = config.get(key)
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _read_object(path: Path) -> Fields:
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return value


def _whole_mib(size_bytes: int) -> int:
    return -(-size_bytes // MIB)
