"""Edits over HTTP: what is kept, what is drawn anew, and what is refused."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.engines.pictures_sent import (
    BLUE,
    GREEN,
    RED,
    animated,
    bomb,
    data_url,
    encoded,
    flat,
    overwritten,
    png,
    received,
    turned,
)
from tests.engines.server_process import PAINTER, server


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server around the painter, on a unix socket."""
    folder = tmp_path_factory.mktemp("engine")
    with (
        server(PAINTER, folder, model_path=folder, max_upload_mib=2, max_pixels=20_000) as process,
        process.wait_until_ready().client() as http,
    ):
        yield http


def edit(client: httpx.Client, image: bytes, mask: bytes | None = None, **fields: Any) -> httpx.Response:
    """As multipart; every field as text."""
    files = [("image", ("image.png", image))]
    if mask is not None:
        files.append(("mask", ("mask.png", mask)))
    data = {"prompt": "a red circle", "seed": "1", **{key: str(value) for key, value in fields.items()}}
    return client.post("/v1/images/edits", data=data, files=files)


def half_marked(mode: str, rest: Any, marked: Any) -> bytes:
    """A mask of 64 by 64 whose left half is marked."""
    mask = flat(rest, mode=mode)
    mask.paste(marked, (0, 0, 32, 64))
    return png(mask)


@pytest.mark.parametrize(
    "mask",
    [half_marked("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)), half_marked("L", 0, 255), half_marked("RGB", 0, (255,) * 3)],
    ids=["transparent", "white", "white in colour"],
)
def test_only_what_the_mask_marks_is_drawn_anew(client: httpx.Client, mask: bytes) -> None:
    """Transparent in a mask with alpha, white in one without, is drawn anew; the rest stays as it was."""
    image = received(edit(client, png(flat(RED)), mask).json())
    assert image.getpixel((63, 0)) == RED
    assert image.getpixel((0, 0)) != RED


def test_a_transparent_image_is_its_own_mask(client: httpx.Client) -> None:
    """Without a mask, the transparent part of the image is drawn anew."""
    image = received(edit(client, half_marked("RGBA", (*BLUE, 255), (*BLUE, 0))).json())
    assert image.getpixel((63, 0)) == BLUE
    assert image.getpixel((0, 0)) != BLUE


def test_strength_says_how_much_is_given_up(client: httpx.Client) -> None:
    """Without a mask, less strength keeps more of the image."""
    weak, strong = (received(edit(client, png(flat(GREEN)), strength=each).json()) for each in (0.25, 1))
    assert _distance(weak, GREEN) < _distance(strong, GREEN)


def _distance(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return sum(abs(a - b) for a, b in zip(image.getpixel((0, 0)), colour, strict=True))


def test_json_with_data_urls_draws_the_same(client: httpx.Client) -> None:
    """A JSON body, with images bare or wrapped as OpenAI does, gives the picture that the form gives."""
    image, mask = png(flat(RED)), half_marked("L", 0, 255)
    form = edit(client, image, mask).json()["data"]
    shapes: list[dict[str, Any]] = [
        {"image": data_url(image), "mask": data_url(mask)},
        {"image": [data_url(image)], "mask": {"image_url": data_url(mask)}},
        {"images": [{"image_url": data_url(image)}], "mask": data_url(mask)},
    ]
    bodies = [{"prompt": "a red circle", "seed": 1, **shape} for shape in shapes]
    assert [client.post("/v1/images/edits", json=body).json()["data"] for body in bodies] == [form] * 3


def test_the_size_follows_the_image(client: httpx.Client) -> None:
    """Without a size, the nearest one that can be drawn; never more pixels than are drawn by default."""
    sizes = {(50, 30): "48x32", (640, 320): "88x48", (64, 64): "64x64"}
    assert {size: edit(client, png(flat(size=size))).json()["size"] for size in sizes} == sizes
    assert edit(client, png(flat(size=(50, 30))), size="64x32").json()["size"] == "64x32"


def test_an_image_that_is_too_narrow_is_refused(client: httpx.Client) -> None:
    """No size that can be drawn is like it; with a size named it is drawn."""
    image = png(flat(size=(1, 20_000)))
    assert edit(client, image).json()["error"]["param"] == "image"
    assert edit(client, image, size="64x64").status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        encoded(flat((0, 255, 255, 0), mode="CMYK"), "JPEG"),
        encoded(Image.new("I;16", (64, 64), 20_000), "PNG"),
        animated(),
        turned(),
        encoded(flat().convert("P"), "PNG"),
        encoded(flat().convert("1"), "PNG"),
    ],
    ids=["CMYK", "16 bit", "animated", "turned", "palette", "one bit"],
)
def test_unusual_pictures_are_taken(client: httpx.Client, content: bytes) -> None:
    """CMYK, 16 bit, animated, EXIF-turned, palette and one-bit pictures are made plain and edited."""
    assert edit(client, content).status_code == 200


def test_a_turned_picture_is_upright(client: httpx.Client) -> None:
    """The size that counts is that of the picture as it is shown."""
    assert edit(client, turned()).json()["size"] == "64x32"


@pytest.mark.parametrize(
    "content",
    [png(flat())[:100], b"", b"not a picture", b"<svg/>", bomb(), overwritten()],
    ids=["truncated", "empty", "text", "svg", "bomb", "overwritten"],
)
def test_broken_pictures_are_refused(client: httpx.Client, content: bytes) -> None:
    """What is no picture, or too large a one, is refused by the field's name, and the engine stays up."""
    for answer, param in ((edit(client, content), "image"), (edit(client, png(flat()), content), "mask")):
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text[:300]
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"strength": "1.1"}, "strength"),
        ({"strength": "nan"}, "strength"),
        ({"strength": "0"}, "strength"),
        ({"strength": "0.1", "steps": "5"}, "strength"),
        ({"steps": "many"}, "steps"),
        ({"size": "65x64"}, "size"),
        ({"n": "0"}, "n"),
        ({"prompt": ""}, "prompt"),
        ({"model": "other"}, "model"),
    ],
)
def test_fields_of_a_form_are_checked(client: httpx.Client, fields: dict[str, str], param: str) -> None:
    """A field that cannot be used is named."""
    answer = edit(client, png(flat()), **fields)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param


def test_an_address_is_no_image(client: httpx.Client) -> None:
    """The engine fetches nothing: an address, or a path, in place of a data URL is refused."""
    for address in ("https://example.test/a.png", "file:///etc/passwd", "/etc/passwd"):
        error = client.post("/v1/images/edits", json={"prompt": "x", "image": address}).json()["error"]
        assert (error["param"], error["code"]) == ("image", "invalid_image")


def test_the_mask_has_the_size_of_the_image(client: httpx.Client) -> None:
    """Another size is refused, and both are told."""
    error = edit(client, png(flat()), png(flat(255, (32, 64), "L"))).json()["error"]
    assert error["param"] == "mask"
    assert "32x64" in error["message"]
    assert "64x64" in error["message"]


def test_a_mask_marks_something(client: httpx.Client) -> None:
    """A mask that marks nothing is refused: the answer would be the image."""
    assert edit(client, png(flat()), png(flat(0, mode="L"))).json()["error"]["param"] == "mask"


def test_one_image_at_a_time(client: httpx.Client) -> None:
    """Two images are refused rather than one of them dropped; none is missing."""
    both = [("image[]", ("a.png", png(flat()))), ("image[]", ("b.png", png(flat())))]
    answer = client.post("/v1/images/edits", data={"prompt": "x"}, files=both)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")
    answer = client.post("/v1/images/edits", json={"prompt": "x"})
    assert answer.json()["error"]["code"] == "missing_required_parameter"


def test_bodies_that_are_too_large_are_refused(client: httpx.Client) -> None:
    """A body above the limit is answered with 413, whether its length is announced or not."""
    large = b"\0" * (3 * 2**20)
    assert edit(client, large).status_code == 413
    parts = (large[start : start + 65_536] for start in range(0, len(large), 65_536))
    answer = client.post("/v1/images/edits", content=parts, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert edit(client, png(flat())).status_code == 200


def test_a_broken_form_is_refused(client: httpx.Client) -> None:
    """A form that ends early, or has no boundary, is a 400 in OpenAI's shape."""
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = client.post("/v1/images/edits", content=b"--x\r\nContent-Dispo", headers={"content-type": kind})
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
