"""Learned upscaling: one model that spandrel knows, run over the picture tile by tile so that memory stays bounded.

Imported only where an upscaler is configured, for it needs torch. Without one, engines.pictures enlarges with Lanczos.
"""

import importlib
import importlib.util
import logging
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from engines.diffusers.errors import LoadFailed
from engines.diffusers.faults import is_out_of_memory
from engines.diffusers.memory import DeviceMemory, Memory, host_memory
from engines.diffusers.options import EngineOptions

SUFFIXES: Final = (".safetensors", ".pth", ".ckpt")

_log = logging.getLogger(__name__)

_TILE = 256
_SMALLEST_TILE = 32
# What a tile sees of its neighbours; without it seams show.
_MARGIN = 16
# What Lanczos may add to a pass of the model: another pass for so little costs more than it shows.
_REST = 1.25
_UNREADABLE = (
    SafetensorError,
    pickle.PickleError,
    RuntimeError,
    ValueError,
    LookupError,
    OSError,
    EOFError,
    AttributeError,
    TypeError,
    AssertionError,
    ArithmeticError,
)

Box = tuple[int, int, int, int]
CheckWanted = Callable[[], None]
"""Raises what shall end the work; called between two tiles."""


class Upscaler:
    """One loaded model. Callable from any thread; one picture is enlarged at a time, so memory is that of one tile."""

    def __init__(self, name: str, model: Any, memory: Memory, tile: int = _TILE) -> None:
        self._name = name
        self._model = model
        self._memory = memory
        self._turn = threading.Lock()
        self._tile = tile
        self._home = model.device

    @property
    def name(self) -> str:
        """The weights' own name, for answers."""
        return self._name

    @property
    def tile(self) -> int:
        """Pixels on a side that go through the model at once; falls when memory does not suffice."""
        return self._tile

    @property
    def scale(self) -> int:
        """What one pass enlarges by."""
        scale: int = self._model.scale
        return scale

    def upscale(self, image: Image.Image, size: tuple[int, int], check_wanted: CheckWanted) -> Image.Image:
        """A new picture of that size: the model as often as it takes, Lanczos for the rest, and for transparency.

        Raises MemoryError when not even a small tile fits, and whatever `check_wanted` raises.
        """
        colours = image.convert("L" if self._model.input_channels == 1 else "RGB")
        with self._turn:
            grown = self._passed(colours, check_wanted)
            while grown.width * _REST < size[0] or grown.height * _REST < size[1]:
                grown = self._passed(grown, check_wanted)
        if grown.size != size:
            grown = grown.resize(size, Image.Resampling.LANCZOS)
        if "A" in image.getbands():
            grown.putalpha(image.getchannel("A").resize(size, Image.Resampling.LANCZOS))
        return grown

    def sleep(self) -> None:
        """The weights to host memory, once the picture in work is done."""
        with self._turn:
            self._model.to(torch.device("cpu"))
            self._memory.release()

    def wake_up(self) -> None:
        with self._turn:
            self._model.to(self._home)

    def _passed(self, image: Image.Image, check_wanted: CheckWanted) -> Image.Image:
        scale = self.scale
        grown = Image.new(image.mode, (image.width * scale, image.height * scale))
        whole = (0, 0, image.width, image.height)
        for box in [whole] if _does_its_own_tiling(self._model) else _tiles(whole, self._tile):
            for piece, at in self._pieces(image, box, check_wanted):
                grown.paste(piece, (at[0] * scale, at[1] * scale))
        return grown

    def _pieces(self, image: Image.Image, box: Box, check: CheckWanted) -> Iterator[tuple[Image.Image, Box]]:
        """The box enlarged, in quarters where it does not fit into memory as a whole."""
        check()
        piece = self._enlarged_if_it_fits(image, box)
        if piece is not None:
            yield piece, box
            return
        self._memory.release()
        side = max(box[2] - box[0], box[3] - box[1]) // 2
        if side < _SMALLEST_TILE:
            raise MemoryError(f"not even a tile of {2 * side} pixels fits into memory while {self._name} enlarges it")
        self._tile = min(self._tile, side)
        for part in _tiles(box, side):
            yield from self._pieces(image, part, check)

    def _enlarged_if_it_fits(self, image: Image.Image, box: Box) -> Image.Image | None:
        seen = _with_margin(box, image.size)
        given = _tensor(image.crop(seen)).to(self._model.device, self._model.dtype)
        try:
            made = self._memory.within(("upscale", given.shape), lambda: self._model(given))
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                return None
            raise
        scale = self.scale
        left, top = (box[0] - seen[0]) * scale, (box[1] - seen[1]) * scale
        right, bottom = left + (box[2] - box[0]) * scale, top + (box[3] - box[1]) * scale
        return _picture(made[0, :, top:bottom, left:right])


def load_upscaler(path: Path, options: EngineOptions, memory: Memory | None = None, tile: int = _TILE) -> Upscaler:
    """The model in a file, or in a folder that holds one such file. Raises LoadFailed.

    `memory`: what it works within; by default all that `options.memory_mib` leaves once it is loaded.
    """
    file = _weights(path)
    spandrel = _spandrel()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        model = spandrel.ModelLoader(torch.device("cpu")).load_from_file(file)
    except spandrel.UnsupportedModelError as exc:
        raise LoadFailed(f"cannot load the upscaler {file}: spandrel knows no architecture for it") from exc
    except _UNREADABLE as exc:
        raise LoadFailed(f"cannot load the upscaler {file}: {_one_line(exc)}") from exc
    _check_purpose(model, file)
    model.to(torch.device(options.device), _dtype(model, options)).eval()
    _log.info("upscaler %s: %s, %d times", file.stem, model.architecture.name, model.scale)
    return Upscaler(file.stem, model, memory or _memory(options), tile)


def _memory(options: EngineOptions) -> Memory:
    if options.device == "cuda":
        return DeviceMemory(options.memory_mib)
    return host_memory(options.memory_mib)


def _weights(path: Path) -> Path:
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise LoadFailed(f"cannot load the upscaler {path}: its name must end in {', '.join(SUFFIXES)}")
        return path
    found = sorted(file for file in path.glob("*") if file.suffix.lower() in SUFFIXES) if path.is_dir() else []
    if len(found) != 1:
        raise LoadFailed(f"cannot load the upscaler {path}: there are {len(found)} weight files; name the one to use")
    return found[0]


def _check_purpose(model: Any, file: Path) -> None:
    """Colour or grey in, the same out, and larger; anything else is another kind of model."""
    channels = (model.input_channels, model.output_channels)
    if model.purpose not in ("SR", "FaceSR") or model.scale < 2 or channels not in ((1, 1), (3, 3)):
        raise LoadFailed(
            f"cannot use {file} as an upscaler: it is a {model.architecture.name} model for {model.purpose} "
            f"that takes {channels[0]} channels, makes {channels[1]} and enlarges {model.scale} times"
        )


def _dtype(model: Any, options: EngineOptions) -> torch.dtype:
    """Half precision where it is fast; bfloat16 only when asked for, since it shows in smooth gradients."""
    if options.device == "cpu" or options.dtype == "float32":
        return torch.float32
    if options.dtype == "bfloat16" and model.supports_bfloat16:
        return torch.bfloat16
    return torch.float16 if model.supports_half else torch.float32


def _does_its_own_tiling(model: Any) -> bool:
    return str(model.tiling.name) == "INTERNAL"


def _tiles(box: Box, side: int) -> list[Box]:
    left, top, right, bottom = box
    return [
        (x, y, min(x + side, right), min(y + side, bottom))
        for y in range(top, bottom, side)
        for x in range(left, right, side)
    ]


def _with_margin(box: Box, size: tuple[int, int]) -> Box:
    left, top, right, bottom = box
    return (
        max(left - _MARGIN, 0),
        max(top - _MARGIN, 0),
        min(right + _MARGIN, size[0]),
        min(bottom + _MARGIN, size[1]),
    )


def _tensor(image: Image.Image) -> torch.Tensor:
    """1 x channels x height x width, 0 to 1."""
    values = np.asarray(image, dtype=np.float32) / 255.0
    return torch.from_numpy(np.atleast_3d(values)).permute(2, 0, 1).unsqueeze(0).contiguous()


def _picture(values: torch.Tensor) -> Image.Image:
    whole = values.float().mul(255.0).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(whole[:, :, 0] if whole.shape[2] == 1 else whole)


def _spandrel() -> Any:
    try:
        with _torchvision_stand_in():
            return importlib.import_module("spandrel")
    except ImportError as exc:
        raise LoadFailed(f"cannot load spandrel, which upscalers need: {exc}") from exc


@contextmanager
def _torchvision_stand_in() -> Iterator[None]:
    """spandrel imports all its architectures at once; two that upscale nothing (LaMa, RestoreFormer) want torchvision.

    Beside a CPU torch there is none that loads. The stand-in is there while spandrel is imported and not a moment
    longer: other libraries look for torchvision and would believe in it.
    """
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    modules = {name: ModuleType(name) for name in _STAND_INS}
    functional: Any = modules[_STAND_INS[-1]]
    functional.rotate = functional.normalize = _no_torchvision
    functional.InterpolationMode = None
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in _STAND_INS:
            sys.modules.pop(name, None)


_STAND_INS: Final = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")


def _no_torchvision(*_args: object, **_kwargs: object) -> None:
    raise RuntimeError("this model needs torchvision, which is not installed")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
