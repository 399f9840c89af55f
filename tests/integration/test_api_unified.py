"""The unified API: four kinds of inference by the names of the specification, artifacts, failures and deadlines."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from service import Service, model, until
from unified import DRAW, NAMES, PATHS, PROCESS, SEE, TEXT, complete, picture, refused
from uploads import data_url, odd_pictures, png

from engines.simulated.pictures import Mark, digest, read_mark, seen
from engines.simulated.text import expected_answer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service for the module with a model of each kind; `slow` has one slot and takes its time."""
    service = Service(tmp_path_factory.mktemp("unified"))
    media = service.folder / "media"
    (media / "sub").mkdir(parents=True)
    (media / "sub" / "red.png").write_bytes(png())
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


async def test_without_a_media_folder_no_path_is_read(serve: Any) -> None:
    """403 that says which setting is missing."""
    service = await serve(model("see", model_type="image2text"))
    answer = await service.http.post(SEE, json={"image_path": "a.png"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "no_media_folder")


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


async def test_openapi_describes_the_unified_api(service: Service) -> None:
    """Each path with the fields it takes, uploads included, and the names of its answer."""
    described = (await service.http.get("/openapi.json")).json()["paths"]

    for path in PATHS:
        operation = described[path]["post"]
        bodies = operation["requestBody"]["content"]
        assert bodies["application/json"]["schema"]["properties"].keys() >= {"model", "parameters", "priority"}
        assert ("multipart/form-data" in bodies) is (path in (SEE, PROCESS))
        answer = operation["responses"]["200"]["content"]["application/json"]["schema"]["properties"]
        assert answer.keys() >= NAMES


async def test_results_outlive_the_service(serve: Any, tmp_path: Path) -> None:
    """SIGKILL and a new life: the artifact is still there under its name."""
    service = await serve(model("draw", model_type="text2image"))
    fields = (await service.http.post(DRAW, json={"prompt": "kept"})).json()
    before = (await service.http.get(fields["image_paths"][0])).content

    await service.restart()

    assert (await service.http.get(fields["image_paths"][0])).content == before
