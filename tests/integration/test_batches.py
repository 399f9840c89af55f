"""Files and batches, as the official SDK uses them, over deaths of the service too."""

import asyncio
import os
import sqlite3
from contextlib import closing
from hashlib import sha256
from urllib.parse import urlsplit

import pytest
from batch_files import CHAT, chat, counted, ended, file_of, line, lines_of, order
from openai import APIStatusError, BadRequestError, ConflictError, NotFoundError
from service import Serve, Service, model, until

from engines.simulated.text import expected_answer

LINES = int(os.environ.get("BATCH_LINES", "5000"))
SLOW = {"tokens_per_second": 20}


async def test_a_batch_outlives_two_deaths(serve: Serve) -> None:
    """SIGKILL twice while it runs: every line is told of exactly once, in the file of the good or of the refused."""
    slots = max(4, LINES // 60)
    service = await serve(model("a", slots=slots, script=SLOW), model("b", slots=slots, script=SLOW))
    good = {f"line {n}": ("a" if n % 2 else "b", f"prompt {n}") for n in range(LINES) if n % 20}
    lines = [
        chat(f"line {n}", *good[f"line {n}"])
        if n % 20
        else chat(f"line {n}", "nobody" if n % 40 else "a", "bad", max_tokens=-1)
        for n in range(LINES)
    ]
    batch = await order(service.openai(), lines, metadata={"run": "1"})
    for share in (6, 2):
        await counted(service, batch.id, len(good) // share)
        await service.kill()
        for name in (f"file-{'0' * 27}", f"file-{'1' * 27}.part"):
            (service.state_dir / "files" / name).write_bytes(b"of a life that ended in the middle")
        await service.start()

    over = await ended(service, batch.id, timeout=60 + LINES)

    assert (over.status, over.metadata) == ("completed", {"run": "1"})
    assert over.request_counts is not None
    assert over.request_counts.to_dict() == {"total": LINES, "completed": len(good), "failed": LINES - len(good)}
    answered = await lines_of(service, over.output_file_id)
    assert sorted(each["custom_id"] for each in answered) == sorted(good)
    for each in answered:
        assert (each["error"], each["response"]["status_code"]) == (None, 200)
        text = each["response"]["body"]["choices"][0]["message"]["content"]
        assert text == expected_answer(good[each["custom_id"]][1], 2)
    refused = await lines_of(service, over.error_file_id)
    assert sorted(each["custom_id"] for each in refused) == sorted({each["custom_id"] for each in lines} - good.keys())
    wrong = {(each["response"]["status_code"], each["response"]["body"]["error"]["param"]) for each in refused}
    assert wrong == {(404, "model"), (400, "max_tokens")}
    assert len({each["id"] for each in answered + refused}) == LINES
    there = {path.name for path in (service.state_dir / "files").iterdir()}
    assert there == {over.input_file_id, over.output_file_id, over.error_file_id}


async def test_bad_files_fail_with_every_bad_line_named(serve: Serve) -> None:
    """Nothing of a file that is not good is done; the batch says what is wrong where, blank lines aside."""
    service = await serve(model("a"))
    client = service.openai()
    content = b"\n".join(
        (
            b"{",
            b"",
            b"[]",
            b'{"method": "POST"}',
            b'{"custom_id": "x", "method": "GET", "url": "/v1/chat/completions", "body": {}}',
            b'{"custom_id": "x", "method": "POST", "url": "/v1/embeddings", "body": {}}',
            b'{"custom_id": "x", "method": "POST", "url": "/v1/chat/completions"}',
            b'{"custom_id": "y", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "a"}}',
            b'{"custom_id": "y", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "a"}}',
        )
    )
    found = []
    for each in (content, b" \n\n"):
        uploaded = await client.files.create(file=("in.jsonl", each), purpose="batch")
        batch = await client.batches.create(input_file_id=uploaded.id, endpoint=CHAT, completion_window="24h")
        over = await ended(service, batch.id)
        assert (over.status, over.output_file_id, over.in_progress_at) == ("failed", None, None)
        assert over.failed_at is not None
        assert over.errors is not None
        assert over.errors.data is not None
        found.append([(problem.code, problem.line, problem.param) for problem in over.errors.data])

    assert found == [
        [
            ("invalid_json_line", 1, None),
            ("invalid_json_line", 3, None),
            ("missing_required_parameter", 4, "custom_id"),
            ("invalid_method", 5, "method"),
            ("mismatched_url", 6, "url"),
            ("missing_required_parameter", 7, "body"),
            ("duplicate_custom_id", 9, "custom_id"),
        ],
        [("empty_file", None, None)],
    ]
    assert await service.journal() == []


async def test_what_was_done_before_a_cancel_is_kept(serve: Serve) -> None:
    """Cancelled in the middle: each line is either answered or told to be cancelled; once more changes nothing."""
    service = await serve(model("a", slots=1, script=SLOW))
    client = service.openai()
    batch = await order(client, [chat(f"{n}", "a", f"prompt {n}", 4) for n in range(40)])
    await counted(service, batch.id, 2)

    assert (await client.batches.cancel(batch.id)).status in ("cancelling", "cancelled")
    over = await ended(service, batch.id)

    assert over.status == "cancelled"
    assert over.cancelling_at is not None
    assert over.cancelled_at is not None
    answered = {each["custom_id"] for each in await lines_of(service, over.output_file_id)}
    left = await lines_of(service, over.error_file_id)
    assert len(answered) >= 2
    assert sorted([*answered, *(each["custom_id"] for each in left)], key=int) == [f"{n}" for n in range(40)]
    assert {(each["response"], each["error"]["code"]) for each in left} == {(None, "batch_cancelled")}
    assert (await client.batches.cancel(batch.id)).status == "cancelled"


async def test_what_does_not_run_in_time_expires(serve: Serve) -> None:
    """Once its window is over, lines that did not run are told so, and the batch has expired."""
    service = await serve(model("a", slots=1, script=SLOW))
    batch = await order(service.openai(), [chat(f"{n}", "a", "x", 20) for n in range(4)])
    await counted(service, batch.id, 1)
    await service.kill()
    with closing(sqlite3.connect(service.state_dir / "store.sqlite")) as store:
        store.execute("UPDATE batches SET expires_at = expires_at - 90000")
        store.execute("UPDATE requests SET deadline_at = deadline_at - 90000")
        store.commit()
    await service.start()

    over = await ended(service, batch.id)

    answered = await lines_of(service, over.output_file_id)
    left = await lines_of(service, over.error_file_id)
    assert over.status == "expired"
    assert over.expired_at is not None
    assert {each["error"]["code"] for each in left} == {"batch_expired"}
    assert sorted(each["custom_id"] for each in [*answered, *left]) == ["0", "1", "2", "3"]


async def test_people_go_before_batches(serve: Serve) -> None:
    """However much earlier a batch came, a call gets the next slot that comes free."""
    service = await serve(model("a", slots=1, script=SLOW))
    client = service.openai()
    batch = await order(client, [chat(f"{n}", "a", "x", 4) for n in range(20)])
    await counted(service, batch.id, 1)
    await client.chat.completions.create(
        model="a", messages=[{"role": "user", "content": "me"}], max_tokens=1, extra_headers={"X-Priority": "1"}
    )
    await ended(service, batch.id)

    rows = await service.journal()
    (mine,) = [row for row in rows if row["mode"] == "sync"]
    between = [row for row in rows if mine["created_at"] < row["started_at"] < mine["started_at"]]
    assert len(between) <= 1


async def test_a_batch_is_drained_model_by_model(serve: Serve) -> None:
    """Lines of two models that do not fit together, one after the other in the file: each model is loaded once."""
    service = await serve(model("a", mib=700), model("b", mib=700))
    lines = [chat(f"{n}", "ab"[n % 2], f"prompt {n}") for n in range(60)]
    batch = await order(service.openai(), lines)

    over = await ended(service, batch.id)

    assert over.request_counts is not None
    assert over.request_counts.completed == 60
    events = (await service.admin("events", limit=1000))["events"]
    loads = [event["subject"] for event in events if event["kind"] == "replica.ready"]
    assert sorted(loads) == ["a-0", "b-0"]


@pytest.mark.parametrize(
    ("url", "body", "found"),
    [
        ("/v1/completions", {"model": "a", "prompt": "x", "max_tokens": 1}, "choices"),
        ("/v1/embeddings", {"model": "e", "input": ["x", "y"]}, "data"),
        ("/v1/images/generations", {"prompt": "x", "size": "64x64"}, "data"),
    ],
)
async def test_every_endpoint_can_be_batched(serve: Serve, url: str, body: dict[str, object], found: str) -> None:
    """Not only chats; a stream is refused in its line."""
    service = await serve(
        model("a"), model("e", model_type="embedding"), model("draw", model_type="text2image", mib=64)
    )
    lines = [line("0", body, url), line("1", body, url), line("2", {**body, "stream": True}, url)]
    over = await ended(service, (await order(service.openai(), lines, url)).id)

    answered, refused = await lines_of(service, over.output_file_id), await lines_of(service, over.error_file_id)
    assert [each["custom_id"] for each in answered] == ["0", "1"]
    assert all(each["response"]["body"][found] for each in answered)
    assert [each["response"]["body"]["error"]["param"] for each in refused] == ["stream"]


async def test_files_are_listed_read_and_deleted(serve: Serve) -> None:
    """Byte for byte, in both orders, page by page; a file that a batch reads stays; one that is gone is gone."""
    service = await serve(model("a", slots=1, script=SLOW))
    client = service.openai()
    content = b"\r\n--x\0" * 700_000
    made = [await client.files.create(file=(f"f{n}.jsonl", content[n:]), purpose="batch") for n in range(3)]
    ids = [each.id for each in made]

    assert [each.bytes for each in made] == [len(content) - n for n in range(3)]
    assert [each.id async for each in client.files.list(order="asc", limit=2)] == ids
    assert [each.id async for each in client.files.list(limit=1)] == ids[::-1]
    assert [each.id async for each in client.files.list(purpose="batch_output")] == []
    assert (await client.files.content(ids[1])).content == content[1:]
    assert (await client.files.retrieve(ids[1])).filename == "f1.jsonl"
    assert (await client.files.delete(ids[1])).deleted
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(NotFoundError):
            await gone(ids[1])
    left = sorted(path.name for path in (service.state_dir / "files").iterdir())
    assert left == sorted([ids[0], ids[2]])
    batch = await order(client, [chat("0", "a", "x", 400)])
    with pytest.raises(ConflictError, match="cancel the batch first"):
        await client.files.delete(batch.input_file_id)
    await client.batches.cancel(batch.id)
    await ended(service, batch.id)
    assert (await client.files.delete(batch.input_file_id)).deleted


async def _told_size(service: Service, size: int) -> bytes:
    """The first line of the answer to an upload that says how large it is, before any of it is sent."""
    url = urlsplit(service.base_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    head = f"POST /v1/files HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {size}\r\n\r\n"
    writer.write(head.encode())
    first = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return first


async def test_bad_orders_are_refused_by_name(serve: Serve) -> None:
    """Uploads and batches that cannot be: OpenAI's error with the field, and nothing is left of them."""
    service = await serve(model("a"))
    client = service.openai()
    upload = {"file": ("x.jsonl", b"{}")}
    forms = [
        ({"purpose": "fine-tune"}, upload, "purpose"),
        ({}, upload, "purpose"),
        ({"purpose": "batch"}, {"other": ("x", b"")}, "other"),
        ({"purpose": "batch", "expires_after[seconds]": "1", "expires_after[anchor]": "created_at"}, upload, None),
    ]
    for fields, files, param in forms:
        answer = await service.http.post("/v1/files", data=fields, files=files)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == (param or "expires_after.seconds")
    assert (await service.http.post("/v1/files", json={})).json()["error"]["code"] == "invalid_form"
    assert (await _told_size(service, 2**30)).startswith(b"HTTP/1.1 413 ")
    assert list((service.state_dir / "files").iterdir()) == []

    good = (await client.files.create(file=file_of([chat("0", "a", "x")]), purpose="batch")).id
    fields = {"input_file_id": good, "endpoint": CHAT, "completion_window": "24h"}
    for wrong in ({"input_file_id": "file-x"}, {"endpoint": "/v1/moderations"}, {"completion_window": "1h"}):
        with pytest.raises(BadRequestError) as caught:
            await client.batches.create(**{**fields, **wrong})  # type: ignore[arg-type]
        assert caught.value.param in wrong
    assert [each.id async for each in client.batches.list()] == []


async def test_a_key_stands_for_one_batch(serve: Serve) -> None:
    """The same Idempotency-Key gives the same batch, other work under it 422; batches are listed newest first."""
    service = await serve(model("a"))
    client = service.openai()
    uploaded = (await client.files.create(file=file_of([chat("0", "a", "x")]), purpose="batch")).id
    fields = {"input_file_id": uploaded, "endpoint": CHAT, "completion_window": "24h"}
    headers = {"Idempotency-Key": "k"}
    first = await client.batches.create(**fields, extra_headers=headers)  # type: ignore[arg-type]
    again = await client.batches.create(**fields, extra_headers=headers)  # type: ignore[arg-type]
    with pytest.raises(APIStatusError) as caught:
        await client.batches.create(**fields, metadata={"x": "y"}, extra_headers=headers)  # type: ignore[arg-type]
    other = await client.batches.create(**fields)  # type: ignore[arg-type]

    assert first.id == again.id
    assert caught.value.status_code == 422
    assert [each.id async for each in client.batches.list(limit=1)] == [other.id, first.id]


async def test_batches_belong_to_their_key(serve: Serve) -> None:
    """Another key sees neither files nor batches, nor can it use them; an administrator sees all."""
    names = {"alice": ["user"], "bob": ["user"], "root": ["user", "admin"]}
    digests = {name: sha256(f"sk-{name}".encode()).hexdigest() for name in names}
    keys = [{"name": n, "key": {"sha256": digests[n]}, "scopes": scopes} for n, scopes in names.items()]
    service = await serve(model("a"), api_keys=keys)
    alice, bob, root = (service.openai(api_key=f"sk-{name}") for name in names)
    batch = await order(alice, [chat("0", "a", "x")])

    for see in (lambda: bob.batches.retrieve(batch.id), lambda: bob.files.retrieve(batch.input_file_id)):
        with pytest.raises(NotFoundError):
            await see()
    with pytest.raises(BadRequestError):
        await bob.batches.create(input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h")
    assert [each.id async for each in bob.batches.list()] == []
    assert [each.id async for each in root.batches.list()] == [batch.id]

    async def over() -> bool:
        return (await alice.batches.retrieve(batch.id)).status == "completed"

    await until(over)


async def test_a_batch_that_cannot_be_read_keeps_nobody_waiting(serve: Serve) -> None:
    """Its file is gone from the disk: other batches go on, and it can be cancelled."""
    service = await serve(model("a"))
    client = service.openai()
    lost = await client.files.create(file=file_of([chat("0", "a", "x")]), purpose="batch")
    (service.state_dir / "files" / lost.id).unlink()
    stuck = await client.batches.create(input_file_id=lost.id, endpoint=CHAT, completion_window="24h")

    good = await order(client, [chat("0", "a", "x")])
    assert (await ended(service, good.id)).status == "completed"
    assert (await client.batches.retrieve(stuck.id)).status == "validating"
    await client.batches.cancel(stuck.id)
    assert (await ended(service, stuck.id)).status == "cancelled"
