"""What image engines answer, and what we make of it: headers, errors, verdicts, counters, logs."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.base import Call, Ending, NormalError, Probe, Verdict
from adapters.diffusers import errors, log, probe, verdict, wire

TAIL_BYTES = 8192
USAGE = {
    "input_tokens": 5,
    "input_tokens_details": {"text_tokens": 5, "image_tokens": 0},
    "output_tokens": 16,
    "total_tokens": 21,
}
SHORT, LONG = "QUJD", base64.b64encode(bytes(range(256)) * 400).decode()


def test_a_request_carries_its_name_and_our_priority() -> None:
    """Priority 0 to 100, higher first, is the engine's own scale."""
    call = Call("POST", "/v1/images/edits", b"", b"multipart/form-data; boundary=x", "req-1", 70, stream=True)
    assert wire.request_headers(call) == [
        (b"content-type", b"multipart/form-data; boundary=x"),
        (b"x-request-id", b"req-1"),
        (b"x-priority", b"70"),
        (b"accept", b"text/event-stream"),
    ]


def told(status: int, **fields: Any) -> NormalError:
    return errors.normalise(status, json.dumps({"error": fields}).encode())


def test_our_engines_errors_keep_their_meaning() -> None:
    """Type, code and field come through as the engine says them; only what may succeed later is retryable."""
    assert told(400, message="size: too odd", type="invalid_request_error", param="size", code="invalid_value") == (
        NormalError(400, "size: too odd", "invalid_request_error", "size", "invalid_value")
    )
    assert told(503, message="closing", type="server_error", param=None, code="engine_closing") == (
        NormalError(503, "closing", "server_error", None, "engine_closing", retryable=True)
    )
    memory = told(507, message="it needs 900 MiB", type="server_error", param=None, code="out_of_memory")
    assert (memory.status, memory.code, memory.retryable) == (507, "out_of_memory", False)
    cancelled = told(499, message="the request was cancelled", type="invalid_request_error", code="cancelled")
    assert (cancelled.status, cancelled.code, cancelled.retryable) == (499, "cancelled", False)


OTHERS = [
    # vllm-omni: vLLM's shape, with the status as its code.
    (
        400,
        {"error": {"message": "bad size", "type": "BadRequestError", "param": None, "code": 400}},
        (400, "invalid_request_error", None, None, False),
    ),
    (
        500,
        {
            "error": {
                "message": "CUDA out of memory. Tried to allocate 2 GiB",
                "type": "InternalServerError",
                "code": 500,
            }
        },
        (507, "server_error", None, "out_of_memory", False),
    ),
    (503, {"error": {"message": "busy", "code": 503}}, (503, "server_error", None, "engine_busy", True)),
    # SGLang-diffusion: FastAPI's.
    (400, {"detail": "response_format=url is not supported"}, (400, "invalid_request_error", None, None, False)),
    (
        422,
        {"detail": [{"type": "missing", "loc": ["body", "prompt"], "msg": "Field required", "input": {}}]},
        (422, "invalid_request_error", "prompt", None, False),
    ),
]


@pytest.mark.parametrize(("status", "body", "expected"), OTHERS)
def test_other_image_engines_are_understood(status: int, body: Any, expected: tuple[object, ...]) -> None:
    """vllm-omni's and SGLang-diffusion's error shapes become the same OpenAI error."""
    found = errors.normalise(status, json.dumps(body).encode())
    assert (found.status, found.type, found.param, found.code, found.retryable) == expected
    assert found.message


@settings(deadline=None)
@given(st.integers(0, 999), st.binary(max_size=300) | st.builds(lambda v: json.dumps({"error": v}).encode(), st.text()))
def test_no_body_is_too_strange(status: int, body: bytes) -> None:
    """Whatever an engine answers becomes an error with a sentence and a status that is one."""
    found = errors.normalise(status, body)
    assert 400 <= found.status <= 599
    assert found.message


def test_paths_of_this_machine_are_not_told() -> None:
    """A message may name files and sockets of the host; callers do not get to see them."""
    found = told(500, message="cannot read /models/secret/unet.bin", type="server_error", code="internal_error")
    assert "secret" not in found.message


def answer(picture: str, **more: Any) -> bytes:
    """As our engine writes it: pictures first, token counts behind them."""
    head = {"created": 1, "data": [{"b64_json": picture, "seed": 3}], "size": "64x64"}
    return json.dumps({**head, "usage": USAGE, "timings": {"steps": 4}, **more}, separators=(",", ":")).encode()


def event(name: str, picture: str = SHORT, **more: Any) -> bytes:
    fields = {"type": name, "b64_json": picture, "created_at": 1, "size": "64x64", "output_format": "png", **more}
    return f"event: {name}\ndata: {json.dumps(fields, separators=(',', ':'))}\n\n".encode()


@pytest.mark.parametrize("picture", [SHORT, LONG])
def test_a_whole_answer_is_complete_and_counted(picture: str) -> None:
    """However large the picture, the token counts behind it are found; cut off amid a value, it is not complete."""
    body = answer(picture)
    assert verdict.judge(body[-TAIL_BYTES:], stream=False) == Verdict(Ending.COMPLETE, 5, 16)
    assert verdict.judge(body[:-2][-TAIL_BYTES:], stream=False).ending is Ending.ABORTED


def test_an_answer_without_pictures_is_an_error() -> None:
    """200 says nothing: an empty list, an error or nothing at all is no drawing."""
    for body in (b"", b"{}", b'{"created":1,"data":[]}', b'{"error":{"message":"no"}}'):
        found = verdict.judge(body, stream=False)
        assert found.ending is Ending.ERROR
        assert found.message


@pytest.mark.parametrize("name", ["image_generation", "image_edit"])
@pytest.mark.parametrize("picture", [SHORT, LONG])
def test_a_stream_is_complete_with_its_finished_picture(name: str, picture: str) -> None:
    """There is no [DONE]: the event of the finished picture ends it, however long; earlier it is aborted."""
    partial = event(f"{name}.partial_image", picture, partial_image_index=0)
    stream = partial + event(f"{name}.completed", picture, usage=USAGE)
    assert verdict.judge(stream[-TAIL_BYTES:], stream=True) == Verdict(Ending.COMPLETE, 5, 16)
    for end in [0, len(partial), *range(1, len(stream) - 2, len(stream) // 50)]:
        assert verdict.judge(stream[:end][-TAIL_BYTES:], stream=True).ending is Ending.ABORTED


def test_an_error_in_a_stream_is_one() -> None:
    """The caller's part of the stream was good; its end says why there is no picture."""
    failed = b'event: error\ndata: {"error":{"message":"it needs more memory","code":"out_of_memory"}}\n\n'
    stream = event("image_generation.partial_image", LONG) + failed
    assert verdict.judge(stream[-TAIL_BYTES:], stream=True) == Verdict(Ending.ERROR, message="it needs more memory")


def test_others_answers_are_judged_alike() -> None:
    """vllm-omni puts metrics behind the pictures, SGLang nothing at all."""
    omni = {"created": 1, "data": [{"b64_json": LONG}], "output_format": "png", "size": "64x64", "metrics": {"s": 1}}
    sglang = {"id": "x", "created": 1, "data": [{"b64_json": LONG, "revised_prompt": 'say "usage":{}'}]}
    for body in (omni, sglang):
        tail = json.dumps(body).encode()[-TAIL_BYTES:]
        assert verdict.judge(tail, stream=False) == Verdict(Ending.COMPLETE)


@settings(deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_no_tail_is_too_strange(tail: bytes, stream: bool) -> None:
    """Judging never fails."""
    assert verdict.judge(tail, stream=stream).ending in Ending


METRICS = b"""# HELP diffusers_requests_running Images in the denoising batch
diffusers_requests_running 2.0
diffusers_requests_waiting 3.0
diffusers_steps_total 40.0
diffusers_images_total 4.0
diffusers_requests_total{kind="image_generation",outcome="finished"} 3.0
diffusers_requests_total{kind="image_process",outcome="failed"} 1.0
"""


def test_counters_show_load_and_progress() -> None:
    """Steps, pictures and requests that ended all prove that work moves; an engine without a pipeline tells no load."""
    assert probe.read_counters(METRICS) == Probe(ready=True, running=2, waiting=3, progressed=48)
    assert probe.read_counters(b"") == Probe(ready=True)


LOADED = "INFO 2026-11-23 13:18:07,404 diffusers_engine: Serving tiny on unix:/run/e.sock"


def test_how_far_a_start_has_come() -> None:
    """In words for people, from the last line that tells."""
    assert log.cold_phase([]) == "starting the engine"
    assert log.cold_phase(["[transformers] a warning"]) == "starting the engine"
    assert log.cold_phase(["[transformers] a warning", LOADED, "INFO x uvicorn: Started"]) == "ready"


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (
            ["ERROR 2026-11-23 13:18:07,404 diffusers_engine: cannot start: cannot load LoRA x: it does not fit"],
            "cannot load LoRA x: it does not fit",
        ),
        (
            ["ERROR 2026-11-23 13:18:07,404 diffusers_engine: cannot listen on /a.sock: Permission denied"],
            "cannot listen on /a.sock: Permission denied",
        ),
        (
            ["usage: x", "engines/run.py diffusers: error: argument --options: thread: Extra inputs are not permitted"],
            "argument --options: thread: Extra inputs are not permitted",
        ),
        (["Traceback (most recent call last):", "ModuleNotFoundError: No module named 'torch'"], "No module named"),
        ([], "it ended without a word"),
    ],
)
def test_why_a_start_failed(lines: list[str], cause: str) -> None:
    """The one sentence that helps, out of the engine's own words or Python's."""
    assert cause in log.failure(lines)
