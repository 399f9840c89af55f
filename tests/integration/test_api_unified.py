"""The unified API: four kinds of inference by the names of the specification, artifacts, and every refusal by field."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from any_bodies import UNIFIED_BODIES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from service import Service, model, until
from uploads import bad_pictures, data_url, odd_pictures, png

from engines.simulated.pictures import Mark, digest, read_mark, seen
from engines.simulated.text import expected_answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "/api/v1/text-to-text"
DRAW = "/api/v1/text-to-image"
SEE = "/api/v1/image-to-text"
PROCESS = "/api/v1/image-processing"
PATHS = {TEXT: "text2text", DRAW: "text2image", SEE: "image2text", PROCESS: "image_processing"}
NAMES = {"request_id", "type", "status", "created_at", "error_message", "model"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service for the module with a model of each kind; `slow` has one slot and takes its time."""
    service = Service(tmp_path_factory.mktemp("unified"))
    media = service.folder / "media"
    (media / "sub").mkdir(parents=True)
    (media / "sub" / "red.png").write_bytes(png())
    (media / "link.png").symlink_to("sub/red.png")
    (service.folder / "secret.png").write_bytes(png(colour="blue"))
    (media / "out.png").symlink_to("../secret.png")
    service.write(
        model("chat", priority=60, aliases=["talk"]),
        model("quiet", priority=40),
        model("draw", model_type="text2image", priority=60),
        model("slow", model_type="text2image", slots=1, script={"steps_per_second": 20}),
        model("see", model_type="image2text"),
        model("change", model_type="image_processing"),
        model("broken", model_type="text2image", priority=1, script={"faults": [{"kind": "error", "token": 1}]}),
        media={"folder": str(media), "max_image_megapixels": 4},
        server={"max_body_mib": 4},
    )
    await service.start()
    yield service
    await service.end()


async def complete(service: Service, path: str, **call: Any) -> dict[str, Any]:
    """The answer to a good call, checked for the names that every answer has."""
    answer = await service.http.post(path, **call)
    assert answer.status_code == 200, answer.text
    fields = answer.json()
    assert fields.keys() >= NAMES
    assert (fields["status"], fields["type"], fields["error_message"]) == ("complete", PATHS[path], None)
    assert fields["request_id"] == answer.headers["x-request-id"]
    return dict(fields)


async def refused(service: Service, path: str, status: int = 400, **call: Any) -> dict[str, Any]:
    """The answer to a bad call: the same names, and OpenAI's error beside them."""
    answer = await service.http.post(path, **call)
    assert answer.status_code == status, answer.text
    fields = answer.json()
    assert fields.keys() == NAMES | {"error"}
    assert (fields["status"], fields["type"]) == ("failed", PATHS[path])
    assert fields["error_message"] == fields["error"]["message"]
    assert set(fields["error"]) == {"message", "type", "param", "code"}
    return dict(fields)


async def picture(service: Service, path: str) -> Image.Image:
    """The artifact that a path of an answer names."""
    answer = await service.http.get(path)
    assert answer.status_code == 200, answer.text
    found = Image.open(io.BytesIO(answer.content))
    assert answer.headers["content-type"] == Image.MIME[found.format or ""]
    return found


@pytest.mark.parametrize(
    ("name", "served"), [(None, "chat"), ("talk", "chat"), ("quiet", "quiet"), ("text2text", "chat")]
)
async def test_text_to_text(service: Service, name: str | None, served: str) -> None:
    """By id, alias, type or none: the text of the prompt, its counts, and the journal's row under its id."""
    body: dict[str, Any] = {"prompt": "say this", "parameters": {"max_tokens": 5}, "priority": 70}
    if name is not None:
        body["model"] = name
    fields = await complete(service, TEXT, json=body)

    assert fields["text"] == expected_answer("say this", 5)
    assert fields["usage"] == {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
    assert fields["model"] == served
    row = await service.request(fields["request_id"])
    assert (row["model_id"], row["priority"], row["type"], row["outcome"]) == (served, 70, "text2text", "succeeded")
    assert row["path"] == TEXT
    assert abs(row["created_at"] - fields["created_at"]) < 0.01


async def test_text_to_image(service: Service) -> None:
    """Every picture is an artifact that tells prompt, seed and request; width and height are one size."""
    parameters = {"n": 3, "seed": 10, "width": 64, "height": 32, "steps": 2}
    body = {"prompt": "a red circle", "negative_prompt": "blur", "parameters": parameters}
    fields = await complete(service, DRAW, json=body)

    assert (fields["model"], fields["size"], fields["seeds"]) == ("draw", "64x32", [10, 11, 12])
    assert len(fields["image_paths"]) == 3
    for seed, path in zip(fields["seeds"], fields["image_paths"], strict=True):
        content = (await service.http.get(path)).content
        assert read_mark(content) == Mark(digest("a red circle"), seed, digest(fields["request_id"]))
        assert (await picture(service, path)).size == (64, 32)


async def test_image_to_text(service: Service) -> None:
    """By upload, data URL and path in the media folder, the model sees the same bytes."""
    upload = png()
    wanted = expected_answer(f"{seen(upload)}\nwhat is it", 4)
    form = {"prompt": "what is it", "parameters": json.dumps({"max_tokens": 4})}
    body = {"prompt": "what is it", "parameters": {"max_tokens": 4}}

    uploaded = await complete(service, SEE, files={"file": ("a.png", upload)}, data=form)
    inline = await complete(service, SEE, json={**body, "image": data_url(upload)})
    named = await complete(service, SEE, json={**body, "image_path": "sub/red.png"})

    assert uploaded["text"] == inline["text"] == named["text"] == wanted


async def test_image_processing(service: Service) -> None:
    """An upload is enlarged three times; the answer says which method made it."""
    form = {"operation": "upscale", "parameters": '{"scale": 3}'}
    fields = await complete(service, PROCESS, files={"file": ("a.png", png((20, 10)))}, data=form)

    assert (fields["operation"], fields["method"], fields["size"]) == ("upscale", "lanczos", "60x30")
    assert (await picture(service, fields["image_path"])).size == (60, 30)


async def test_the_format_of_a_processed_picture_can_be_named(service: Service) -> None:
    """output_format beside the operation's own parameters."""
    parameters = {"angle": 90, "output_format": "webp"}
    body = {"operation": "rotate", "image_path": "sub/red.png", "parameters": parameters}
    fields = await complete(service, PROCESS, json=body)

    assert (await picture(service, fields["image_path"])).format == "WEBP"


@pytest.mark.parametrize("name", odd_pictures())
async def test_odd_pictures_are_taken(service: Service, name: str) -> None:
    """CMYK, 16 bit, animated and EXIF-rotated: the result is RGB with 8 bits, upright."""
    fields = await complete(service, PROCESS, files={"file": odd_pictures()[name]}, data={"operation": "flip"})

    found = await picture(service, fields["image_path"])
    assert found.mode == "RGB"
    assert found.size == ((10, 30) if name == "sideways" else (8, 8))


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


async def test_without_a_media_folder_no_path_is_read(serve: Any) -> None:
    """403 that says which setting is missing."""
    service = await serve(model("see", model_type="image2text"))
    answer = await service.http.post(SEE, json={"image_path": "a.png"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "no_media_folder")


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
        (TEXT, {"prompt": "x", "wait": False}, "wait"),
        (TEXT, {"prompt": "x", "wait": "no"}, "wait"),
        (TEXT, {"prompt": "x", "callback_url": "http://example.com"}, "callback_url"),
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


async def test_the_header_wins_over_the_field(service: Service) -> None:
    """X-Priority before `priority`."""
    fields = await complete(service, TEXT, json={"prompt": "x", "priority": 10}, headers={"X-Priority": "90"})
    assert (await service.request(fields["request_id"]))["priority"] == 90


async def test_an_engines_failure_is_told_with_the_request(service: Service) -> None:
    """The request was accepted, so its failure has its id and model, and so has the journal."""
    fields = await refused(service, DRAW, 500, json={"prompt": "x", "model": "broken", "parameters": {"steps": 3}})

    assert fields["model"] == "broken"
    row = await service.request(fields["request_id"])
    assert (row["status"], row["error_message"]) == ("failed", fields["error_message"])


async def test_a_deadline_is_kept(service: Service) -> None:
    """While another has the only slot: 503 deadline_exceeded after the caller's own time."""
    body = {"prompt": "x", "model": "slow", "parameters": {"steps": 200}}
    first = asyncio.create_task(service.http.post(DRAW, json=body, timeout=60))
    await service.busy("slow", running=1)

    fields = await refused(service, DRAW, 503, json={**body, "deadline_seconds": 0.2})

    assert fields["error"]["code"] == "deadline_exceeded"
    assert (await service.request(fields["request_id"]))["status"] == "expired"
    first.cancel()
    await service.busy("slow", running=0, waiting=0)


async def test_a_caller_that_leaves_frees_the_slot(service: Service) -> None:
    """The connection is closed while the engine draws: the row reads cancelled and the slot is free again."""
    body = {"prompt": "gone", "model": "slow", "parameters": {"steps": 200}}
    call = asyncio.create_task(service.http.post(DRAW, json=body))
    await service.busy("slow", running=1)
    call.cancel()

    await service.busy("slow", running=0, waiting=0)
    await complete(service, DRAW, json={**body, "parameters": {"steps": 1}})

    async def cancelled() -> bool:
        return any(row["outcome"] == "cancelled" for row in await service.journal(model="slow"))

    await until(cancelled)


async def test_artifacts_are_served_safely(service: Service) -> None:
    """Type, nosniff, a cache header that never expires, ranges and HEAD; the same picture has the same name."""
    body = {"image_path": "sub/red.png", "operation": "grayscale"}
    first, second = [await complete(service, PROCESS, json=body) for _ in range(2)]
    path = first["image_path"]
    whole = await service.http.get(path)
    part = await service.http.get(path, headers={"range": "bytes=0-7"})
    head = await service.http.head(path)

    assert path == second["image_path"]
    assert path.startswith("/api/v1/artifacts/")
    assert whole.headers["content-type"] == "image/png"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert "immutable" in whole.headers["cache-control"]
    assert (part.status_code, part.content) == (206, b"\x89PNG\r\n\x1a\n")
    assert (head.status_code, int(head.headers["content-length"])) == (200, len(whole.content))


@pytest.mark.parametrize("name", ["..%2Fservice.json", "%2e%2e/%2e%2e/service.json", "a.png", "0" * 64 + ".svg", ""])
async def test_nothing_but_artifacts_is_served(service: Service, name: str) -> None:
    """Anything else is 404 in OpenAI's shape."""
    answer = await service.http.get(f"/api/v1/artifacts/{name}")

    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("path", PATHS)
async def test_only_post_is_taken(service: Service, path: str) -> None:
    """405 with allow."""
    answer = await service.http.get(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


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
    if answer.status_code == 200:
        assert fields["status"] == "complete"
    else:
        assert answer.status_code in (400, 403, 404), answer.text
        assert isinstance(fields["error"]["message"], str)


async def test_any_bytes_and_any_json_get_an_answer_or_an_error(service: Service, plain: httpx.Client) -> None:
    """Hypothesis: never a 5xx, always the names, nobody is left waiting and nothing is logged as an error."""
    await asyncio.to_thread(_any_body_is_answered, plain)

    for entry in (await service.admin("models"))["models"]:
        assert (entry["running"], entry["waiting"]) == (0, 0)
    assert not [event for event in service.events() if event["level"] in ("error", "critical")]


async def test_results_outlive_the_service(serve: Any, tmp_path: Path) -> None:
    """SIGKILL and a new life: the artifact is still there under its name."""
    service = await serve(model("draw", model_type="text2image"))
    fields = (await service.http.post(DRAW, json={"prompt": "kept"})).json()
    before = (await service.http.get(fields["image_paths"][0])).content

    await service.restart()

    assert (await service.http.get(fields["image_paths"][0])).content == before
