"""Wrong input of every kind: a clear error in OpenAI's shape, and nothing half-started behind it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service import Service, model, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
TALK = [{"role": "user", "content": "hello"}]
GOOD = {"model": "chat-a", "messages": TALK, "max_tokens": 2}
MIB = 1024 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service for the module: two models that are asked, two that must never start."""
    service = Service(tmp_path_factory.mktemp("bad-input"))
    service.write(
        model("chat-a", aliases=["quick"], script={"max_model_len": 1_000_000}),
        model("embed-a", model_type="embedding"),
        model("never", mib=4000, model_type="image2text"),
        {
            "model_id": "no-folder",
            "model_type": "text2text",
            "engine": "simulated",
            "model_path": "./not-there",
            "vram_required_mb": 64,
            "priority": 0,
        },
        server={"max_body_mib": 1},
        scheduling={"backoff_initial_seconds": 60},
    )
    await service.start()
    yield service
    await service.end()


async def _error(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error in OpenAI's shape, after a look at the status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return dict(error)


async def _nothing_half_started(service: Service) -> None:
    """Every process of ours belongs to a replica that is ready, and nobody waits."""

    async def settled() -> dict[str, Any] | None:
        answer = await service.admin("replicas")
        return answer if {view["state"] for view in answer["replicas"]} <= {"ready", "failed"} else None

    views = (await until(settled))["replicas"]
    ready = {view["replica_id"] for view in views if view["state"] == "ready"}
    assert {process.environ()["IM_REPLICA"] for process in service.engines()} == ready
    for entry in (await service.admin("models"))["models"]:
        assert (entry["running"], entry["waiting"]) == (0, 0)


async def test_a_body_that_is_not_json_is_told_where(service: Service) -> None:
    """400 invalid_json with line and column."""
    error = await _error(await service.http.post(CHAT, content=b'{"model": "chat-a",\n "messages": [}'), 400)

    assert error["code"] == "invalid_json"
    assert "line 2, column 15" in error["message"]
    await _nothing_half_started(service)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x00\x00\x00", id="NUL"),
        pytest.param(b'{"model": "\xff\xfe"}', id="not UTF-8"),
        pytest.param(b'{"model": "\\ud800"}', id="half a surrogate pair"),
        pytest.param(b"[1, 2]", id="a list"),
        pytest.param(b'"chat-a"', id="a text"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[" * 200_000 + b"]" * 200_000, id="very deep"),
        pytest.param(b'{"model": "text2text", "x": ' + b"[" * 400 + b"]" * 400 + b"}", id="deep, by type"),
        pytest.param(b'{"model": "chat-a", "x": 1e999}', id="infinite"),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(service: Service, body: bytes) -> None:
    """400 invalid_json, whatever was sent, and the service goes on."""
    error = await _error(await service.http.post(CHAT, content=body), 400)

    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_json")
    await _nothing_half_started(service)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        pytest.param({"model": None}, "missing_model", "model", id="no model"),
        pytest.param({"model": ""}, "invalid_type", "model", id="empty model"),
        pytest.param({"model": 7}, "invalid_type", "model", id="a number for a model"),
        pytest.param({"model": ["chat-a"]}, "invalid_type", "model", id="a list for a model"),
        pytest.param({"model": "embed-a"}, "wrong_type", "model", id="chat with an embedding model"),
        pytest.param({"stream": "yes"}, "invalid_type", "stream", id="stream as text"),
        pytest.param({"stream": 1}, "invalid_type", "stream", id="stream as number"),
        pytest.param({"priority": -1}, "invalid_priority", "priority", id="priority -1"),
        pytest.param({"priority": 101}, "invalid_priority", "priority", id="priority 101"),
        pytest.param({"priority": "high"}, "invalid_priority", "priority", id="priority as text"),
        pytest.param({"priority": True}, "invalid_priority", "priority", id="priority true"),
        pytest.param({"priority": 5.5}, "invalid_priority", "priority", id="priority 5.5"),
    ],
)
async def test_a_wrong_field_is_named(service: Service, fields: dict[str, Any], code: str, param: str) -> None:
    """400 with the field in `param`, before anything is accepted."""
    answer = await service.http.post(CHAT, json={**GOOD, **fields})

    error = await _error(answer, 400)
    assert (error["code"], error["param"]) == (code, param)
    assert "x-request-id" not in answer.headers
    await _nothing_half_started(service)


@pytest.mark.parametrize("value", ["-1", "101", "high", "true", "5.5", "", "9" * 5000])
async def test_a_wrong_priority_header_is_refused(service: Service, value: str) -> None:
    """Whole numbers from 0 to 100 only; the message says so, and stays short."""
    error = await _error(await service.http.post(CHAT, json=GOOD, headers={"X-Priority": value}), 400)

    assert (error["code"], error["param"]) == ("invalid_priority", "X-Priority")
    assert "from 0 to 100" in error["message"]
    assert len(error["message"]) < 200


@pytest.mark.parametrize("value", ["0", "-3", "soon", "nan", "inf", "1e9", ""])
async def test_a_wrong_deadline_is_refused(service: Service, value: str) -> None:
    """More than 0 and at most a week of seconds."""
    error = await _error(await service.http.post(CHAT, json=GOOD, headers={"X-Deadline-Seconds": value}), 400)

    assert (error["code"], error["param"]) == ("invalid_deadline", "X-Deadline-Seconds")
    await _nothing_half_started(service)


async def test_an_unknown_model_is_told_the_nearest(service: Service) -> None:
    """404 model_not_found with a suggestion, and with the names when none is near."""
    near = await _error(await service.http.post(CHAT, json={**GOOD, "model": "chat-b"}), 404)
    far = await _error(await service.http.post(CHAT, json={**GOOD, "model": "zzzzzz"}), 404)

    assert (near["code"], near["param"], near["type"]) == ("model_not_found", "model", "not_found_error")
    assert "did you mean 'chat-a'?" in near["message"]
    assert "known are: chat-a, embed-a" in far["message"]


async def test_a_very_long_model_name_is_not_repeated(service: Service) -> None:
    """The answer to a name of 900 KB is short, and comes at once: nobody else waits for it."""
    error = await _error(await service.http.post(CHAT, json={**GOOD, "model": "chat-a" * 150_000}), 404)

    assert len(error["message"]) < 400


async def test_a_path_that_the_model_is_not_for_is_refused(service: Service) -> None:
    """Embeddings from a chat model: 400 that says what each is for."""
    error = await _error(await service.http.post("/v1/embeddings", json={"model": "chat-a", "input": "x"}), 400)

    assert error["code"] == "wrong_type"
    assert "/v1/embeddings is for embedding; chat-a does text2text" in error["message"]


async def test_a_model_that_can_never_fit_is_refused_at_once(service: Service) -> None:
    """503 with both figures and the remedy, which the SDK does not retry; nothing is tried."""
    for answer in (
        await service.http.post(CHAT, json={**GOOD, "model": "never"}),
        await service.order("never", "load"),
    ):
        error = await _error(answer, 503)
        assert error["code"] == "model_never_fits"
        assert "needs 4000 MiB and the largest device budget is 1000 MiB" in error["message"]
        assert answer.headers["x-should-retry"] == "false"
    assert not await service.replica("never-0")
    await _nothing_half_started(service)


async def test_a_missing_model_folder_is_named(service: Service) -> None:
    """503 model_failed with the folder; no process is started for it."""
    answer = await service.http.post(CHAT, json={**GOOD, "model": "no-folder"})

    error = await _error(answer, 503)
    assert (error["code"], error["param"]) == ("model_failed", "model")
    assert "not-there" in error["message"]
    assert not service.engines("no-folder-0")
    await _nothing_half_started(service)


async def _chunks(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // 65536):
        yield b"x" * 65536


@pytest.mark.parametrize("declared", [True, False], ids=["content-length", "chunked"])
async def test_a_body_above_the_limit_is_refused(service: Service, declared: bool) -> None:
    """2 MiB where 1 MiB is allowed: 413 that names the limit; the next call on the connection is answered."""
    content = b"x" * 2 * MIB if declared else _chunks(2 * MIB)

    error = await _error(await service.http.post(CHAT, content=content), 413)

    assert error["code"] == "body_too_large"
    assert "1 MiB" in error["message"]
    assert "server.max_body_mib" in error["message"]
    assert (await service.http.post(CHAT, json=GOOD)).status_code == 200


async def test_a_declared_length_above_the_limit_is_refused_before_the_body(service: Service) -> None:
    """The answer comes although not one byte of the body was sent."""
    url = httpx.URL(service.base_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 10485760\r\n\r\n" % CHAT.encode())

    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 413 ")
    writer.close()
    await writer.wait_closed()


async def test_a_body_just_below_the_limit_is_taken(service: Service) -> None:
    """The limit is the limit: a megabyte of prompt passes the door."""
    prompt = "x" * (MIB - 200)

    answer = await service.http.post(CHAT, json={**GOOD, "messages": [{"role": "user", "content": prompt}]})

    assert answer.status_code == 200, answer.text[:300]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        pytest.param({"max_tokens": "many"}, "max_tokens", id="max_tokens as text"),
        pytest.param({"max_tokens": -1}, "max_tokens", id="max_tokens -1"),
        pytest.param({"messages": "hello"}, "messages", id="messages as text"),
        pytest.param({"messages": [1]}, "messages", id="a number as message"),
        pytest.param({"n": 3}, "n", id="three choices"),
    ],
)
async def test_what_the_engine_refuses_is_passed_on_in_openais_shape(
    service: Service, fields: dict[str, Any], param: str
) -> None:
    """400 with the engine's sentence and field, whole and streamed alike; the journal says failed."""
    for stream in (False, True):
        answer = await service.http.post(CHAT, json={**GOOD, **fields, "stream": stream})

        error = await _error(answer, 400)
        assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, None)
        row = await service.request(answer.headers["x-request-id"])
        assert (row["outcome"], row["http_status"]) == ("failed", 400)
    await _nothing_half_started(service)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/nothing", 404),
        ("GET", "/v1/models/nothing", 404),
        ("GET", "/", 404),
        ("GET", "/v1/chat/completions/", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/embeddings", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/admin/models", 405),
        ("GET", "/admin/models/chat-a/load", 405),
    ],
)
async def test_an_unknown_path_or_method_is_an_error_in_openais_shape(
    service: Service, method: str, path: str, status: int
) -> None:
    """404 and 405 name method and path; 405 says what is allowed."""
    answer = await service.http.request(method, path)

    error = await _error(answer, status)
    assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")
    if status == 405:
        assert answer.headers["allow"]
        assert f"{method} {path}" in error["message"]


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"NOT HTTP AT ALL\r\n\r\n", id="no HTTP"),
        pytest.param(b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: ten\r\n\r\n", id="length as text"),
        pytest.param(b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -5\r\n\r\n", id="negative length"),
        pytest.param(
            b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", id="bad chunk"
        ),
    ],
)
async def test_what_is_not_http_is_refused(service: Service, head: bytes) -> None:
    """400, the connection is closed, and the service goes on."""
    url = httpx.URL(service.base_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(head.replace(b"%s", CHAT.encode()))

    async with asyncio.timeout(30):
        answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 400 ")
    writer.close()
    await writer.wait_closed()
    assert (await service.http.get("/health")).status_code == 200


async def test_a_huge_header_does_no_harm(service: Service) -> None:
    """A header of 300 KB that means nothing to us is neither passed on nor answered with a failure."""
    answer = await service.http.post(CHAT, json=GOOD, headers={"X-Unknown": "y" * 300_000})

    assert answer.status_code == 200
    await _nothing_half_started(service)


# Whatever comes, the caller gets a valid answer or OpenAI's error, never a failure of ours.

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
NAMES = st.sampled_from(["chat-a", "quick", "text2text", "embed-a", "nothing"]) | JSON
FIELDS = st.fixed_dictionaries(
    {"model": NAMES},
    optional={
        "messages": st.just(TALK) | JSON,
        "max_tokens": st.integers(1, 3) | JSON,
        "stream": st.booleans() | JSON,
        "priority": st.integers(-5, 105) | JSON,
        "service_tier": st.sampled_from(["flex", "priority", "auto"]) | JSON,
        "n": JSON,
        "stream_options": JSON,
    },
)
BODIES = st.binary(max_size=200) | JSON.map(json.dumps).map(str.encode) | FIELDS.map(json.dumps).map(str.encode)


@pytest.fixture(scope="module")
def plain(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.base_url, timeout=30) as client:
        yield client


@given(body=BODIES)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def _any_body_is_answered(plain: httpx.Client, body: bytes) -> None:
    answer = plain.post(CHAT, content=body)
    if answer.status_code == 200:
        assert answer.content.endswith(b"data: [DONE]\n\n") or answer.json()["object"] == "chat.completion"
    else:
        assert answer.status_code in (400, 404), answer.text
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)


async def test_any_bytes_and_any_json_get_an_answer_or_an_error(service: Service, plain: httpx.Client) -> None:
    """Hypothesis: never a 5xx, always OpenAI's shape or a whole answer, and nothing hangs or is left waiting."""
    await asyncio.to_thread(_any_body_is_answered, plain)

    await _nothing_half_started(service)
    assert not [event for event in service.events() if event["level"] in ("error", "critical")]
