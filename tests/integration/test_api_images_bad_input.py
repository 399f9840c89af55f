"""Wrong input on the image paths: JSON, forms and uploads, each refused by its field; nothing stays half-started."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from any_bodies import FORMS, IMAGE_BODIES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service import Service, model
from uploads import png

pytestmark = pytest.mark.asyncio(loop_scope="module")

GENERATIONS = "/v1/images/generations"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service for the module: `quick` draws, `chat` does not."""
    service = Service(tmp_path_factory.mktemp("bad-images"))
    service.write(
        model("quick", model_type="text2image"),
        model("chat"),
        server={"max_body_mib": 4},
        media={"allow_private_addresses": True},
    )
    await service.start()
    yield service
    await service.end()


BAD_FIELDS: list[Any] = [
    ({"size": "63x64"}, "size"),
    ({"size": "huge"}, "size"),
    ({"n": 0}, "n"),
    ({"n": 11}, "n"),
    ({"steps": 0}, "steps"),
    ({"steps": 10_000}, "steps"),
    ({"guidance": "NaN"}, "guidance"),
    ({"scheduler": "nothing"}, "scheduler"),
    ({"output_format": "tiff"}, "output_format"),
    ({"output_compression": 101}, "output_compression"),
    ({"partial_images": 4}, "partial_images"),
    ({"prompt": None}, "prompt"),
    ({"response_format": "file"}, "response_format"),
    ({"response_format": "url", "stream": True}, "response_format"),
    ({"stream": "maybe"}, "stream"),
    ({"priority": 101}, "priority"),
    ({"model": "chat"}, "model"),
    ({"model": "nothing"}, "model"),
    ({"model": ""}, "model"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_FIELDS)
async def test_a_wrong_field_is_named_in_json(service: Service, fields: dict[str, Any], param: str) -> None:
    """4xx in OpenAI's shape with the field in `param`, whoever noticed, and no slot stays taken."""
    answer = await service.http.post(GENERATIONS, json={"model": "quick", "prompt": "x", **fields})

    error = answer.json()["error"]
    assert answer.status_code in (400, 404), answer.text
    assert (error["param"], error["type"]) == (param, error["type"])
    assert error["message"]
    await service.busy("quick", running=0, waiting=0)


@pytest.mark.parametrize(("fields", "param"), [case for case in BAD_FIELDS if case[0] not in ({"prompt": None},)])
async def test_a_wrong_field_is_named_in_a_form(service: Service, fields: dict[str, Any], param: str) -> None:
    """The same in a multipart form."""
    texts = {"model": "quick", "prompt": "x", **{name: str(value) for name, value in fields.items()}}
    answer = await service.http.post("/v1/images/edits", data=texts, files={"image": png()})

    error = answer.json()["error"]
    assert answer.status_code in (400, 404), answer.text
    assert error["param"] == param
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        pytest.param("multipart/form-data", b"", id="no boundary"),
        pytest.param("multipart/form-data; boundary=x", b"", id="empty"),
        pytest.param("multipart/form-data; boundary=x", b"nothing of the kind", id="no form"),
        pytest.param(
            "multipart/form-data; boundary=x", b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\nb', id="cut"
        ),
        pytest.param(
            "multipart/form-data; boundary=x", b"--x\r\ncontent-type: a/b\r\n\r\nb\r\n--x--\r\n", id="no name"
        ),
        pytest.param("application/json", b"{", id="cut JSON"),
    ],
)
async def test_a_broken_body_is_refused(service: Service, content_type: str, body: bytes) -> None:
    """400 that says what is wrong with it."""
    answer = await service.http.post("/v1/images/edits", content=body, headers={"content-type": content_type})

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] in ("invalid_form", "invalid_json")


async def test_an_upload_above_the_limit_is_refused(service: Service) -> None:
    """413 that names the setting."""
    files = {"image": b"x" * (5 << 20)}
    answer = await service.http.post("/v1/images/edits", data={"prompt": "x"}, files=files)

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


async def test_what_is_no_picture_is_refused_by_name(service: Service) -> None:
    """A text file as `image`: 400 naming the field, through the SDK."""
    with pytest.raises(openai.BadRequestError) as refused:
        await service.openai().images.edit(model="quick", image=("a.png", b"plain text"), prompt="x")

    assert refused.value.param == "image"


async def test_the_wrong_method_is_told(service: Service) -> None:
    """405 with allow."""
    answer = await service.http.get(GENERATIONS)

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://169.254.169.254/", "http://127.0.0.1:1/a.png"])
async def test_an_address_that_cannot_be_had_is_refused(service: Service, url: str) -> None:
    """400 that names the field."""
    answer = await service.http.post("/v1/images/edits", json={"model": "quick", "prompt": "x", "image": [url]})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image.0")


# Whatever comes, the caller gets pictures or OpenAI's error, never a failure of ours.


@pytest.fixture(scope="module")
def plain(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.base_url, timeout=30) as client:
        yield client


def _pictures_or_error(answer: httpx.Response) -> None:
    if answer.headers["content-type"].startswith("text/event-stream"):
        assert b"event: image_" in answer.content
    elif answer.status_code == 200:
        assert answer.json()["data"]
    else:
        assert answer.status_code in (400, 404), answer.text
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)


@given(path=st.sampled_from([GENERATIONS, "/v1/images/edits"]), body=IMAGE_BODIES)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def _any_body_is_answered(plain: httpx.Client, path: str, body: bytes) -> None:
    _pictures_or_error(plain.post(path, content=body))


@given(texts=FORMS, image=st.just(png((8, 8))) | st.binary(max_size=60))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def _any_form_is_answered(plain: httpx.Client, texts: dict[str, str], image: bytes) -> None:
    _pictures_or_error(plain.post("/v1/images/edits", data=texts, files={"image": ("a.png", image)}))


async def test_any_bytes_json_and_form_get_pictures_or_an_error(service: Service, plain: httpx.Client) -> None:
    """Hypothesis: never a 5xx, always OpenAI's shape, nobody is left waiting and nothing is logged as an error."""
    await asyncio.to_thread(_any_body_is_answered, plain)
    await asyncio.to_thread(_any_form_is_answered, plain)

    await service.busy("quick", running=0, waiting=0)
    assert not [event for event in service.events() if event["level"] in ("error", "critical")]
