"""Learned upscaling with real weight files of tiny models that spandrel recognises."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from engines.diffusers import upscale
from engines.diffusers.errors import LoadFailed
from engines.diffusers.memory import process_mib
from engines.diffusers.options import EngineOptions
from engines.diffusers.upscale import Upscaler, load_upscaler

T = TypeVar("T")
CPU = EngineOptions(device="cpu", threads=1)


class Unwanted(Exception):
    """What a caller that has gone away raises."""


def never() -> None:
    """The caller still waits."""


class Scarce:
    """Memory for so many pixels at once, and no more."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self.released = 0

    def within(self, shape: Hashable, action: Callable[[], T]) -> T:
        assert isinstance(shape, tuple)
        if shape[1][2] * shape[1][3] > self._pixels:
            raise MemoryError("too many pixels")
        return action()

    def used_mib(self) -> int:
        return 0

    def release(self) -> None:
        self.released += 1


def esrgan(folder: Path, scale: int, suffix: str = ".safetensors", channels: int = 3) -> Path:
    """A small ESRGAN with random weights, as a file."""
    with upscale._torchvision_stand_in():
        architecture = importlib.import_module("spandrel.architectures.ESRGAN")
    torch.manual_seed(5)
    model = architecture.ESRGAN(in_nc=channels, out_nc=channels, num_filters=8, num_blocks=1, scale=scale)
    path = folder / f"{scale}x-tiny{suffix}"
    if suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return path


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(7)
    values = rng.integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(values[:, :, 0] if mode == "L" else values, mode=None)


def whole_picture(upscaler: Upscaler, image: Image.Image) -> np.ndarray:
    """What the model itself says, without tiles."""
    given = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0).permute(2, 0, 1)[None]
    made = upscaler._model(given)[0].permute(1, 2, 0)
    return made.mul(255).round().numpy()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("scale", [2, 4])
def test_a_weight_file_of_either_kind_enlarges_by_its_own_scale(tmp_path: Path, scale: int, suffix: str) -> None:
    """The scale is read from the weights, and the result is the model's own, not Lanczos'."""
    upscaler = load_upscaler(esrgan(tmp_path, scale, suffix), CPU)
    image = noise(19, 13)
    made = upscaler.upscale(image, (19 * scale, 13 * scale), never)
    assert (upscaler.scale, upscaler.name, made.size) == (scale, f"{scale}x-tiny", (19 * scale, 13 * scale))
    np.testing.assert_allclose(np.asarray(made, dtype=float), whole_picture(upscaler, image), atol=1)


def test_tiles_leave_no_seams(tmp_path: Path) -> None:
    """A picture of several tiles looks as it would without tiles: every pixel within one of 255."""
    upscaler = load_upscaler(esrgan(tmp_path, 2), CPU, tile=48)
    image = noise(130, 101)
    made = upscaler.upscale(image, (260, 202), never)
    np.testing.assert_allclose(np.asarray(made, dtype=float), whole_picture(upscaler, image), atol=1)


@pytest.mark.parametrize(
    ("size", "asked"), [((1, 1), (2, 2)), ((33, 7), (50, 11)), ((20, 20), (160, 160)), ((9, 300), (18, 600))]
)
def test_any_size_comes_out_as_asked(tmp_path: Path, size: tuple[int, int], asked: tuple[int, int]) -> None:
    """Less than the model's scale, more than one pass of it, a single pixel: the size is exact."""
    upscaler = load_upscaler(esrgan(tmp_path, 2), CPU)
    assert upscaler.upscale(noise(*size), asked, never).size == asked


def test_transparency_is_kept(tmp_path: Path) -> None:
    """What was transparent stays so; the model only sees colours."""
    upscaler = load_upscaler(esrgan(tmp_path, 2), CPU)
    image = noise(16, 16)
    image.putalpha(Image.linear_gradient("L").resize((16, 16)))
    made = upscaler.upscale(image, (32, 32), never)
    assert made.mode == "RGBA"
    assert made.getchannel("A").tobytes() == image.getchannel("A").resize((32, 32), Image.Resampling.LANCZOS).tobytes()


def test_a_grey_model_makes_grey_pictures(tmp_path: Path) -> None:
    """A model of one channel works on brightness, whatever was sent."""
    upscaler = load_upscaler(esrgan(tmp_path, 2, channels=1), CPU)
    assert upscaler.upscale(noise(8, 8), (16, 16), never).mode == "L"


def test_who_has_gone_is_not_served_to_the_end(tmp_path: Path) -> None:
    """Between two tiles the caller's wish is asked for; and the upscaler is free for the next one."""
    upscaler = load_upscaler(esrgan(tmp_path, 2), CPU, tile=32)
    asked = 0

    def leave_after_two() -> None:
        nonlocal asked
        asked += 1
        if asked > 2:
            raise Unwanted

    with pytest.raises(Unwanted):
        upscaler.upscale(noise(128, 128), (256, 256), leave_after_two)
    assert asked == 3
    assert upscaler.upscale(noise(8, 8), (16, 16), never).size == (16, 16)


def test_a_tile_that_does_not_fit_is_cut(tmp_path: Path) -> None:
    """Under a cap that a whole tile breaks, smaller ones are used and the picture is the same."""
    path = esrgan(tmp_path, 2)
    image = noise(128, 128)
    expected = load_upscaler(path, CPU).upscale(image, (256, 256), never)
    scarce = Scarce(100 * 100)
    tight = load_upscaler(path, CPU, scarce)
    made = tight.upscale(image, (256, 256), never)
    assert (tight.tile, scarce.released) == (64, 1)
    np.testing.assert_allclose(np.asarray(made, dtype=float), np.asarray(expected, dtype=float), atol=1)


def test_the_cap_of_the_options_is_kept(tmp_path: Path) -> None:
    """With a real cap a little above what the process holds, a tile is cut rather than the cap broken."""
    path = esrgan(tmp_path, 4)
    load_upscaler(path, CPU)
    room = EngineOptions(device="cpu", threads=1, memory_mib=process_mib() + 40)
    upscaler = load_upscaler(path, room)
    assert upscaler.upscale(noise(200, 200), (800, 800), never).size == (800, 800)
    assert upscaler.tile < 256
    with pytest.raises(LoadFailed, match="memory_mib"):
        load_upscaler(path, EngineOptions(device="cpu", memory_mib=20))


def test_what_never_fits_is_a_memory_error(tmp_path: Path) -> None:
    """One sentence, no endless halving, and the upscaler lives on."""
    scarce = Scarce(100)
    upscaler = load_upscaler(esrgan(tmp_path, 2), CPU, scarce)
    with pytest.raises(MemoryError, match="not even a tile of"):
        upscaler.upscale(noise(64, 64), (128, 128), never)
    assert upscaler.upscale(noise(4, 4), (8, 8), never).size == (8, 8)


def test_two_threads_take_turns(tmp_path: Path) -> None:
    """Two callers at once both get the picture that one alone would get."""
    upscaler = load_upscaler(esrgan(tmp_path, 2), CPU)
    image = noise(40, 40)
    alone = upscaler.upscale(image, (80, 80), never).tobytes()
    made: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: made.append(upscaler.upscale(image, (80, 80), never).tobytes()))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [alone, alone]


def test_sleeping_and_waking_changes_no_picture(tmp_path: Path) -> None:
    """The weights come back as they were."""
    upscaler = load_upscaler(esrgan(tmp_path, 2), CPU)
    before = upscaler.upscale(noise(8, 8), (16, 16), never).tobytes()
    upscaler.sleep()
    upscaler.wake_up()
    assert upscaler.upscale(noise(8, 8), (16, 16), never).tobytes() == before


def test_a_folder_with_one_weight_file_is_enough(tmp_path: Path) -> None:
    """The file is found; with two of them it must be named."""
    esrgan(tmp_path, 2)
    (tmp_path / "README.md").write_text("not weights")
    assert load_upscaler(tmp_path, CPU).scale == 2
    esrgan(tmp_path, 4)
    with pytest.raises(LoadFailed, match="2 weight files"):
        load_upscaler(tmp_path, CPU)


def test_what_is_no_upscaler_is_refused_by_name(tmp_path: Path) -> None:
    """Missing, of another suffix, broken, foreign, or a model that enlarges nothing: one sentence with the file."""
    foreign, broken, pickled = tmp_path / "foreign.safetensors", tmp_path / "broken.safetensors", tmp_path / "b.pth"
    save_file({"some.weight": torch.zeros(3)}, foreign)
    broken.write_bytes(b"\x00" * 100)
    pickled.write_bytes(b"no pickle at all")
    text = tmp_path / "weights.txt"
    text.write_text("")
    for path in (tmp_path / "absent.pth", foreign, broken, pickled, text, esrgan(tmp_path, 1)):
        with pytest.raises(LoadFailed, match=path.name):
            load_upscaler(path, CPU)


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    """A .pth from a stranger is read as tensors only."""
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (ran,)

    path = tmp_path / "trap.pth"
    torch.save({"model.0.weight": Trap()}, path)
    with pytest.raises(LoadFailed, match="trap"):
        load_upscaler(path, CPU)
    assert not ran.exists()


def test_the_stand_in_for_torchvision_is_gone_afterwards(tmp_path: Path) -> None:
    """Other libraries look for torchvision; they must see what is really there."""
    load_upscaler(esrgan(tmp_path, 2), CPU)
    assert not any(
        name.startswith("torchvision") and not getattr(sys.modules[name], "__file__", None) for name in sys.modules
    )
