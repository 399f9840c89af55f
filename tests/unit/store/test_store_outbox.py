"""The outbox and the idempotency keys, on both databases: who is due, what moves on, what is kept."""

from functools import partial

import pytest
from store_rows import ManualClock, accepted

from controlplane.store import idempotency, outbox
from controlplane.store.deliveries import Delivery, DeliveryState, DeliveryTry, Hosts
from controlplane.store.errors import KeyReused
from controlplane.store.idempotency import KeptAnswer
from controlplane.store.records import IdempotencyClaim, JobDraft, Mode
from controlplane.store.store import Store

DELIVERED, DEAD, PENDING = DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.PENDING
NOBODY: frozenset[str] = frozenset()


async def put(store: Store, request_id: str, url: str = "https://a.test/hook", at: float = 1000.0) -> None:
    body = f"body of {request_id}".encode()
    await store._writer.commit(
        partial(outbox.write, request_id=request_id, url=url, body=body, at=at, secret_name="alice")
    )


async def due(
    store: Store, hosts: Hosts | None = None, under_way: frozenset[str] = NOBODY, limit: int = 9
) -> list[str]:
    return [head.request_id for head in await store.outbox.due(hosts or Hosts(), under_way, limit)]


async def test_deliveries_come_in_the_order_of_their_time(store: Store, clock: ManualClock) -> None:
    """Only those whose time has come, longest due first, not those under way; the next time is known."""
    for n, at in enumerate((1003.0, 1001.0, 1002.0, 2000.0)):
        await put(store, f"r{n}", at=at)
    clock.now = 1500.0
    assert await due(store) == ["r1", "r2", "r0"]
    assert await due(store, limit=2) == ["r1", "r2"]
    assert await due(store, under_way=frozenset({"r1"})) == ["r2", "r0"]
    assert await store.outbox.next_due_at(1500.0) == 2000.0
    assert await store.outbox.next_due_at(2000.0) is None


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://A.test/x", "a.test:443"),
        ("http://a.test/x?y", "a.test:80"),
        ("http://user:pw@a.test:8080", "a.test:8080"),
        ("http://[::1]:90/", "::1:90"),
        ("http://a.test:x/", ""),
    ],
)
async def test_receivers_are_told_apart_by_host_and_port(store: Store, url: str, host: str) -> None:
    """However the address is written."""
    await put(store, "r", url)
    (head,) = await store.outbox.due(Hosts(), NOBODY, 9)
    assert head.host == host
    assert await due(store, Hosts(among=frozenset({host}))) == ["r"]
    assert await due(store, Hosts(without=frozenset({host}))) == []
    assert await due(store, Hosts(among=NOBODY)) == []


async def test_a_try_moves_a_delivery_on_once(store: Store, clock: ManualClock) -> None:
    """Compare-and-set on the number of tries: a second report of the same try changes nothing."""
    await put(store, "r")
    assert await store.outbox.load("r") == Delivery("r", "https://a.test/hook", "alice", b"body of r", 0)
    failed = DeliveryTry("r", 0, PENDING, at=1001.0, due_at=1010.0, status=500, error="it answered 500")
    assert await store.outbox.record(failed)
    assert not await store.outbox.record(failed)
    assert await due(store) == []
    clock.now = 1010.0
    assert await due(store) == ["r"]
    good = DeliveryTry("r", 1, DELIVERED, at=1011.0, status=200)
    assert await store.outbox.record(good)
    assert not await store.outbox.record(DeliveryTry("r", 2, DEAD, at=1012.0))
    row = await store.outbox.one("r")
    assert row is not None
    assert (row.state, row.tries, row.ended_at, row.last_status, row.last_error) == (DELIVERED, 2, 1011.0, 200, None)
    assert (await due(store), await store.outbox.load("r"), await store.outbox.one("x")) == ([], None, None)


async def test_only_the_dead_are_raised(store: Store) -> None:
    """Sending again resets what was given up, with an event for each way, and leaves all else as it is."""
    for name in ("dead", "pending", "delivered"):
        await put(store, name)
    await store.outbox.record(DeliveryTry("dead", 0, DEAD, at=1001.0, status=410, error="gone"))
    await store.outbox.record(DeliveryTry("delivered", 0, DELIVERED, at=1001.0, status=200))
    for name, state, tries in (("dead", PENDING, 0), ("pending", PENDING, 0), ("delivered", DELIVERED, 1)):
        row = await store.outbox.resend(name)
        assert row is not None
        assert (row.state, row.tries) == (state, tries)
    assert await store.outbox.resend("nobody") is None
    loaded = await store.outbox.load("dead")
    assert loaded is not None
    assert loaded.body == b"body of dead"
    assert [(e.kind, e.subject) for e in await store.events()] == [
        ("callback.dead", "dead"),
        ("callback.resent", "dead"),
    ]


async def test_pages_give_each_delivery_once_newest_first(store: Store) -> None:
    """By state, following the cursor."""
    for n in range(10):
        await put(store, f"r{n}", at=1000.0 + n // 3)
        if n % 2:
            await store.outbox.record(DeliveryTry(f"r{n}", 0, DEAD, at=1001.0))
    seen, cursor = [], None
    while True:
        page = await store.outbox.page(DEAD, cursor, limit=2)
        seen += [row.request_id for row in page.deliveries]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == ["r9", "r7", "r5", "r3", "r1"]
    assert len((await store.outbox.page(PENDING)).deliveries) == 5
    with pytest.raises(ValueError, match="unknown cursor"):
        await store.outbox.page(DEAD, "x")


async def test_pruning_spares_what_is_due(store: Store) -> None:
    """Ended deliveries from before the cut go; what is pending stays, however old."""
    for name, at in (("old", 1001.0), ("new", 2001.0)):
        await put(store, name)
        await store.outbox.record(DeliveryTry(name, 0, DELIVERED, at=at, status=200))
    await put(store, "pending", at=1.0)
    assert await store.prune(before=2000.0, keep=100) == 1
    left = [await store.outbox.one(name) for name in ("old", "new", "pending")]
    assert [row is not None for row in left] == [False, True, True]


CLAIM = IdempotencyClaim("alice", "k", "digest")
ANSWER = KeptAnswer(200, (("content-type", "application/json"), ("x-request-id", "req-\xe9")), b"\x00answer")


async def test_an_answer_is_kept_for_a_day(store: Store, clock: ManualClock) -> None:
    """Byte for byte; to the same client, key and work only; then the key is free for other work."""
    assert await store.keys.answer(CLAIM) is None
    await store.keys.keep(CLAIM, ANSWER)
    assert await store.keys.answer(CLAIM) == ANSWER
    assert await store.keys.answer(IdempotencyClaim(None, "k", "other")) is None
    other = IdempotencyClaim("alice", "k", "other")
    for use in (store.keys.answer(other), store.keys.keep(other, ANSWER)):
        with pytest.raises(KeyReused):
            await use
    clock.now += idempotency.KEPT_SECONDS
    assert await store.keys.answer(other) is None
    await store.keys.keep(other, ANSWER)
    assert await store.keys.answer(other) == ANSWER


async def test_a_job_and_its_key_are_one_commit(store: Store, clock: ManualClock) -> None:
    """The second job under a key is the first one, also once that one's answer is kept; a day later it is new."""

    def draft(request_id: str) -> JobDraft:
        return JobDraft(accepted(request_id, mode=Mode.ASYNC, created_at=clock.now), b"{}", idempotency=CLAIM)

    assert await store.accept_job(draft("first")) == "first"
    assert await store.accept_job(draft("second")) == "first"
    assert await store.keys.answer(CLAIM) is None
    await store.keys.keep(CLAIM, ANSWER)
    assert await store.accept_job(draft("third")) == "first"
    assert [row.request_id for row in (await store.requests()).requests] == ["first"]
    clock.now += idempotency.KEPT_SECONDS
    assert await store.accept_job(draft("fourth")) == "fourth"
    assert await store.keys.answer(CLAIM) is None
