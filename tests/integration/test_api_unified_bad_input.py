"""Wrong input under /api/v1: every field, form, picture and path is refused by name, and no engine has seen it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from any_bodies import UNIFIED_BODIES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service import Service, model
from unified import DRAW, NAMES, PATHS, PROCESS, SEE, TEXT, refused
from uploads import bad_pictures, data_url, png

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service for the module with a model of each kind, and a media folder with links in it."""
    service = Service(tmp_path_factory.mktemp("bad-unified"))
    media = service.folder / "media"
    (media / "sub").mkdir(parents=True)
    (media / "sub" / "red.png").write_bytes(png())
    (media / "link.png").symlink_to("sub/red.png")
    (service.folder / "secret.png").write_bytes(png(colour="blue"))
    (media / "out.png").symlink_to("../secret.png")
    service.write(
        model("chat"),
        model("draw", model_type="text2image"),
        model("see", model_type="image2text"),
        model("change", model_type="image_processing"),
        media={"folder": str(media), "max_image_megapixels": 4},
        server={"max_body_mib": 4},
    )
    await service.start()
    yield service
    await service.end()


@pytest.mark.parametrize("name", bad_pictures())
async def test_bad_pictures_are_refused_by_name(service: Service, name: str) -> None:
    """Whichever way they come, 400 names the field, and no engine has seen them."""
    content = bad_pictures()[name]
    upload = await refused(service, PROCESS, files={"file": ("a.png", content)}, data={"operation": "flip"})
    inline = await refused(service, SEE, json={"image": data_url(content)})

    assert (upload["error"]["param"], inline["error"]["param"]) == ("file", "image")
    assert upload["request_id"] is None


@pytest.mark.parametrize(
    "path", ["../secret.png", "/etc/passwd", "link.png", "out.png", "sub", "none.png", "a\0b", "."]
)
async def test_no_path_leads_out_of_the_media_folder(service: Service, path: str) -> None:
    """Parents, absolute paths, links, folders and what is not there: 400 naming image_path."""
    fields = await refused(service, SEE, json={"image_path": path})
    assert fields["error"]["param"] == "image_path"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (TEXT, {}, "prompt"),
        (TEXT, {"prompt": ""}, "prompt"),
        (TEXT, {"prompt": 7}, "prompt"),
        (TEXT, {"prompt": "x", "promt": "y"}, "promt"),
        (TEXT, {"prompt": "x", "model": 7}, "model"),
        (TEXT, {"prompt": "x", "model": ""}, "model"),
        (TEXT, {"prompt": "x", "model": "draw"}, "model"),
        (TEXT, {"prompt": "x", "parameters": []}, "parameters"),
        (TEXT, {"prompt": "x", "parameters": {"stream": True}}, "parameters.stream"),
        (TEXT, {"prompt": "x", "parameters": {"messages": []}}, "parameters.messages"),
        (TEXT, {"prompt": "x", "parameters": {"max_tokens": -1}}, "parameters.max_tokens"),
        (TEXT, {"prompt": "x", "priority": 101}, "priority"),
        (TEXT, {"prompt": "x", "priority": "high"}, "priority"),
        (TEXT, {"prompt": "x", "deadline_seconds": 0}, "deadline_seconds"),
        (TEXT, {"prompt": "x", "deadline_seconds": "soon"}, "deadline_seconds"),
        (TEXT, {"prompt": "x", "wait": "no"}, "wait"),
        (TEXT, {"prompt": "x", "callback_url": "example.com"}, "callback_url"),
        (TEXT, {"prompt": "x", "type": "text2image"}, "type"),
        (DRAW, {"prompt": "x", "parameters": {"steps": 0}}, "parameters.steps"),
        (DRAW, {"prompt": "x", "parameters": {"steps": 10_000}}, "parameters.steps"),
        (DRAW, {"prompt": "x", "parameters": {"guidance": "NaN"}}, "parameters.guidance"),
        (DRAW, {"prompt": "x", "parameters": {"scheduler": "none"}}, "parameters.scheduler"),
        (DRAW, {"prompt": "x", "parameters": {"size": "63x64"}}, "parameters.size"),
        (DRAW, {"prompt": "x", "parameters": {"width": 63, "height": 64}}, "parameters.width"),
        (DRAW, {"prompt": "x", "parameters": {"width": 64}}, "parameters.width"),
        (DRAW, {"prompt": "x", "parameters": {"response_format": "url"}}, "parameters.response_format"),
        (DRAW, {"prompt": "x", "negative_prompt": 1}, "negative_prompt"),
        (SEE, {"prompt": "x"}, "image"),
        (SEE, {"image": "file:///etc/passwd"}, "image"),
        (SEE, {"image": data_url(png()), "image_path": "sub/red.png"}, "image_path"),
        (PROCESS, {"image_path": "sub/red.png"}, "operation"),
        (PROCESS, {"image_path": "sub/red.png", "operation": "explode"}, "operation"),
        (
            PROCESS,
            {"image_path": "sub/red.png", "operation": "blur", "parameters": {"radius": -1}},
            "parameters.radius",
        ),
        (PROCESS, {"image_path": "sub/red.png", "operation": "blur", "parameters": {"size": 1}}, "parameters.size"),
    ],
)
async def test_a_wrong_field_is_named(service: Service, path: str, body: dict[str, Any], param: str) -> None:
    """400 with the caller's own name of the field, whoever noticed; nobody is left waiting."""
    fields = await refused(service, path, json=body)

    assert fields["error"]["param"] == param
    assert (await service.model("chat"))["waiting"] == 0


@pytest.mark.parametrize(
    ("form", "files", "param"),
    [
        pytest.param({"operation": "flip"}, {"picture": png()}, "picture", id="another name"),
        pytest.param({"operation": "flip", "file": "text"}, {}, "file", id="no upload"),
        pytest.param({"operation": "flip", "parameters": "{"}, {"file": png()}, "parameters", id="parameters"),
        pytest.param({"operation": "flip", "priority": "high"}, {"file": png()}, "priority", id="priority"),
        pytest.param({"operation": "flip", "wait": "maybe"}, {"file": png()}, "wait", id="wait"),
        pytest.param({"operashun": "flip"}, {"file": png()}, "operashun", id="unknown field"),
        pytest.param({}, {"file": png()}, "operation", id="no operation"),
    ],
)
async def test_a_wrong_form_is_named(
    service: Service, form: dict[str, str], files: dict[str, bytes], param: str
) -> None:
    """The same for multipart; a form without files is sent as one all the same."""
    parts: Any = [*((name, (None, text)) for name, text in form.items()), *files.items()]
    fields = await refused(service, PROCESS, files=parts)

    assert fields["error"]["param"] == param


async def test_an_unknown_model_is_told_the_nearest(service: Service) -> None:
    """404 with a suggestion."""
    fields = await refused(service, DRAW, 404, json={"prompt": "x", "model": "drow"})
    assert "did you mean 'draw'?" in fields["error_message"]


# Whatever comes, the caller gets an answer by the names or an error by the names, never a failure of ours.


@pytest.fixture(scope="module")
def plain(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.base_url, timeout=30) as client:
        yield client


@given(path=st.sampled_from(sorted(PATHS)), body=UNIFIED_BODIES)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def _any_body_is_answered(plain: httpx.Client, path: str, body: bytes) -> None:
    answer = plain.post(path, content=body)
    fields = answer.json()
    assert fields.keys() >= NAMES, answer.text
    if answer.status_code in (200, 202):
        assert fields["status"] == ("complete" if answer.status_code == 200 else "pending")
    else:
        assert answer.status_code in (400, 403, 404), answer.text
        assert isinstance(fields["error"]["message"], str)


async def test_any_bytes_and_any_json_get_an_answer_or_an_error(service: Service, plain: httpx.Client) -> None:
    """Hypothesis: never a 5xx, always the names, nobody is left waiting and nothing is logged as an error."""
    await asyncio.to_thread(_any_body_is_answered, plain)

    for entry in (await service.admin("models"))["models"]:
        await service.busy(entry["model_id"], running=0, waiting=0)
    assert not [event for event in service.events() if event["level"] in ("error", "critical")]
