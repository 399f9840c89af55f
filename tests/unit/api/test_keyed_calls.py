"""Idempotency-Key: one piece of work per key, its answer to everybody who asks, for 24 hours and over restarts."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from adapters.base import NormalError
from controlplane.api.auth import Keyring
from controlplane.api.errors import error_body
from controlplane.api.keyed import Keyed
from controlplane.api.reply import EVENT_STREAM, Message, Reply, Scope, Send
from controlplane.errors import RequestRejected
from controlplane.settings import ApiKey
from controlplane.store.store import Store

PATH = "/v1/chat/completions"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Answer:
    """What came over the wire."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def replayed(self) -> bool:
        return self.headers.get("idempotency-replayed") == "true"


class Work:
    """The application inside: counts what it did; answers as told by the body, once it may."""

    def __init__(self) -> None:
        self.done: list[bytes] = []
        self.claims: list[Any] = []
        self.may_end = asyncio.Event()
        self.begun = asyncio.Semaphore(0)
        self.may_end.set()

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        body = (await receive())["body"]
        n = len(self.done)
        self.done.append(body)
        self.claims.append(scope.get("idempotency"))
        self.begun.release()
        reply = Reply(send, f"req-{n}")
        if body.startswith(b"stream"):
            await self._stream(body, reply)
            return
        await self.may_end.wait()
        if body.startswith(b"refused"):
            await Reply(send).error(RequestRejected(NormalError(400, "no", "invalid_request_error")))
        elif body.startswith(b"status "):
            status = int(body.split()[1])
            await reply.error(RequestRejected(NormalError(status, "no", "server_error")))
        elif body.startswith(b"broken"):
            raise RuntimeError("a bug")
        else:
            await reply.whole(200, b"answer %d" % n)

    async def _stream(self, body: bytes, reply: Reply) -> None:
        await reply.begin_stream(EVENT_STREAM)
        await reply.chunk(b"data: 1\n\n")
        await self.may_end.wait()
        await reply.chunk(b"data: 2\n\n")
        if b"fails" in body:
            await reply.error(RequestRejected(NormalError(502, "lost", "server_error")))
        else:
            await reply.end()


class World:
    """A store, the work, and callers."""

    def __init__(self, store: Store, keys: tuple[ApiKey, ...] = ()) -> None:
        self.work = Work()
        self.app = Keyed(self.work, store.keys, Keyring(keys, ()), 1 << 20, lambda path, exc: error_body(exc.error))

    async def call(self, key: str | None, body: bytes = b"hello", path: str = PATH, **headers: str) -> Answer:
        answer = Answer()

        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                answer.body += message["body"]

        fields = {**headers, **({"idempotency-key": key} if key is not None else {})}
        pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in fields.items()]
        await self.app({"type": "http", "method": "POST", "path": path, "headers": pairs}, receive, send)
        return answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "store.db", holder="the test", clock=clock)
    yield store
    await store.close()


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


async def test_the_same_call_twice_is_one_piece_of_work(world: World) -> None:
    """The second gets the first's answer, id included, and is told that it is a replay."""
    first, second = await world.call("k"), await world.call("k")
    assert (first.status, first.body, first.replayed) == (200, b"answer 0", False)
    assert (second.status, second.body, second.replayed) == (200, b"answer 0", True)
    assert first.headers["x-request-id"] == second.headers["x-request-id"] == "req-0"
    assert len(world.work.done) == 1
    assert world.work.claims[0].key == "k"


async def test_calls_without_a_key_are_left_alone(world: World) -> None:
    """Each is its own work and carries no claim."""
    assert [(await world.call(None)).body for _ in range(2)] == [b"answer 0", b"answer 1"]
    assert world.work.claims == [None, None]


async def test_who_asks_while_it_runs_waits_for_it(world: World) -> None:
    """Twenty callers with one key: one piece of work, one answer, given to all once it is there."""
    world.work.may_end.clear()
    calls = [asyncio.create_task(world.call("k")) for _ in range(20)]
    await world.work.begun.acquire()
    await asyncio.sleep(0)
    assert not any(call.done() for call in calls)
    world.work.may_end.set()
    answers = await asyncio.gather(*calls)
    assert {answer.body for answer in answers} == {b"answer 0"}
    assert sum(not answer.replayed for answer in answers) == 1
    assert len(world.work.done) == 1


@pytest.mark.parametrize("running", [True, False])
async def test_other_work_under_the_key_is_refused(world: World, running: bool) -> None:
    """Another body or path is 422, while the first runs as afterwards, and does not disturb it."""
    if running:
        world.work.may_end.clear()
    first = asyncio.create_task(world.call("k"))
    await world.work.begun.acquire()
    if not running:
        await first
    for other in (world.call("k", b"bye"), world.call("k", path="/v1/completions")):
        answer = await other
        assert (answer.status, b"idempotency_key_reused" in answer.body) == (422, True)
    world.work.may_end.set()
    assert (await first).body == b"answer 0"
    assert (await world.call("k")).body == b"answer 0"
    assert len(world.work.done) == 1


async def test_a_stream_is_played_to_everybody_from_its_beginning(world: World) -> None:
    """While it runs and afterwards, byte for byte."""
    world.work.may_end.clear()
    first = asyncio.create_task(world.call("k", b"stream"))
    await world.work.begun.acquire()
    second = asyncio.create_task(world.call("k", b"stream"))
    world.work.may_end.set()
    answers = [await first, await second, await world.call("k", b"stream")]
    assert {answer.body for answer in answers} == {b"data: 1\n\ndata: 2\n\n"}
    assert [answer.replayed for answer in answers] == [False, True, True]
    assert answers[2].headers["content-type"].startswith("text/event-stream")
    assert len(world.work.done) == 1


@pytest.mark.parametrize("body", [b"status 502", b"status 503", b"status 429", b"stream that fails", b"refused"])
async def test_what_says_try_again_is_not_kept(world: World, body: bytes) -> None:
    """Nor is what was refused at the door: the next call with the key does the work."""
    first, second = await world.call("k", body), await world.call("k", body)
    assert not second.replayed
    assert first.status == second.status
    assert len(world.work.done) == 2


async def test_a_definite_refusal_is_kept(world: World) -> None:
    """What the engine says of accepted work stands, good or bad."""
    first, second = await world.call("k", b"status 400"), await world.call("k", b"status 400")
    assert (second.status, second.body, second.replayed) == (400, first.body, True)


async def test_keys_outlive_the_process(world: World, store: Store) -> None:
    """Another control plane on the same store replays; over 24 hours later the key is free."""
    await world.call("k")
    after = World(store)
    assert (await after.call("k")).replayed
    assert (await after.call("k", b"bye")).status == 422
    assert after.work.done == []


async def test_keys_end_after_a_day(world: World, clock: Clock) -> None:
    """Then the same key is new work, also with another body."""
    await world.call("k")
    clock.now += 24 * 3600.0 - 1
    assert (await world.call("k")).replayed
    clock.now += 1
    assert not (await world.call("k", b"bye")).replayed
    assert len(world.work.done) == 2


async def test_over_keys_are_swept(world: World, store: Store, clock: Clock) -> None:
    """Retention deletes them, and only them."""
    await world.call("old")
    clock.now += 24 * 3600.0
    await world.call("new")
    assert await store.prune(before=0.0, keep=100) == 1
    assert (await world.call("new")).replayed


async def test_work_goes_on_without_its_caller(world: World) -> None:
    """The caller is cut off; a retry gets the answer of the work it had begun."""
    world.work.may_end.clear()
    first = asyncio.create_task(world.call("k"))
    await world.work.begun.acquire()
    first.cancel()
    await asyncio.wait((first,))
    world.work.may_end.set()
    assert (await world.call("k")).body == b"answer 0"
    assert len(world.work.done) == 1


async def test_a_bug_is_told_to_everybody_and_keeps_nothing(world: World) -> None:
    """The server sees the exception of each call; the key stays free."""
    world.work.may_end.clear()
    calls = [asyncio.create_task(world.call("k", b"broken")) for _ in range(2)]
    await world.work.begun.acquire()
    world.work.may_end.set()
    for call in calls:
        with pytest.raises(RuntimeError, match="a bug"):
            await call
    with pytest.raises(RuntimeError, match="a bug"):
        await world.call("k", b"broken")
    assert len(world.work.done) == 2


async def test_each_client_has_its_own_keys(store: Store) -> None:
    """Two API keys, one idempotency key: two pieces of work; an unknown API key is refused and does none."""
    keys = tuple(
        ApiKey.model_validate({"name": name, "key": {"sha256": sha256(f"secret-{name}".encode()).hexdigest()}})
        for name in ("alice", "bob")
    )
    world = World(store, keys)
    for name in ("alice", "bob", "alice"):
        assert (await world.call("k", authorization=f"Bearer secret-{name}")).status == 200
    assert (await world.call("k", authorization="Bearer wrong")).status == 401
    assert [claim.client for claim in world.work.claims] == ["alice", "bob"]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "\xe9"])
async def test_odd_keys_are_refused(world: World, key: str) -> None:
    """Empty, too long, or not printable ASCII."""
    answer = await world.call(key)
    assert (answer.status, b"Idempotency-Key must be" in answer.body) == (400, True)
    assert world.work.done == []


async def test_a_form_that_is_sent_again_is_the_same_work(world: World) -> None:
    """Its boundary is made anew each time; other contents are other work."""

    def form(boundary: str, text: str) -> tuple[bytes, str]:
        body = f'--{boundary}\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n{text}\r\n--{boundary}--\r\n'
        return body.encode(), f"multipart/form-data; boundary={boundary}"

    answers = []
    for boundary, text in (("aaa111", "cat"), ("bbb222", "cat"), ("ccc333", "dog")):
        body, content_type = form(boundary, text)
        answers.append(await world.call("k", body, content_type=content_type))
    assert [answer.status for answer in answers] == [200, 200, 422]
    assert len(world.work.done) == 1


async def test_a_store_that_cannot_be_read_refuses(world: World, store: Store, tmp_path: Path) -> None:
    """Whether the key was used cannot be known, so nothing is done under it."""
    await store.checkpoint()
    store._database.reading.dispose()
    (tmp_path / "store.db").rename(tmp_path / "away.db")
    (tmp_path / "store.db").write_bytes(b"no database at all " * 500)
    answer = await world.call("k")
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")
    assert world.work.done == []


@pytest.mark.parametrize("order", [(b"bye", b"hello"), (b"hello", b"bye")])
async def test_a_wrong_call_beside_a_right_one_changes_nothing(
    world: World, store: Store, order: tuple[bytes, ...]
) -> None:
    """At the same moment, after a restart: the right body is replayed, the wrong one refused, whoever came first."""
    await world.call("k", b"hello")
    after = World(store)
    answers = await asyncio.gather(*(after.call("k", body) for body in order))
    assert dict(zip(order, (answer.status for answer in answers), strict=True)) == {b"hello": 200, b"bye": 422}
    assert after.work.done == []
