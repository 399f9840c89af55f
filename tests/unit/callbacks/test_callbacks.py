"""Callbacks reach their receivers at least once, signed, and no receiver gets in another's way."""

import asyncio
import base64
import hmac
import ssl
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from callback_desk import SECRET, Desk

from controlplane.loop.callbacks.lanes import LaneRules
from controlplane.store import outbox
from controlplane.store.deliveries import DeliveryState
from controlplane.store.store import Store
from tests.fakes.callback_receiver import HANG, OK, receiving, status

CERTIFICATE = Path(__file__).parents[1] / "media" / "pictures.test.pem"
DELIVERED, DEAD, PENDING = DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.PENDING


async def test_a_callback_arrives_signed(desk: Desk) -> None:
    """As a JSON POST whose signature over id, time and body a receiver can check; afterwards nothing is due."""
    async with desk.sending():
        await desk.write("req-1", desk.url("/hook?x=1"), b'{"status":"complete"}')
        (came,) = await desk.here.until(1)
        row = await desk.row("req-1", DELIVERED, 1)
    assert (came.path, came.body, came.id) == ("/hook?x=1", b'{"status":"complete"}', "req-1")
    assert came.headers["content-type"] == "application/json"
    signed = f"req-1.{came.headers['webhook-timestamp']}.".encode() + came.body
    expected = base64.b64encode(hmac.digest(SECRET, signed, "sha256")).decode()
    assert came.headers["webhook-signature"] == f"v1,{expected}"
    assert (row.due_at, row.last_status, row.last_error) == (None, 200, None)
    assert await desk.store.outbox.next_due_at(0.0) is None


async def test_a_failing_receiver_is_tried_again_later(desk: Desk) -> None:
    """500, then well: the second try carries the same id and a new time, and comes no sooner than the pause."""
    desk.here.answers["/hook"] = [status(500), OK]
    async with desk.sending():
        await desk.write("req-1", desk.url("/hook"))
        row = await desk.row("req-1", PENDING, 1)
        assert (row.last_status, row.last_error, row.due_at) == (500, "the receiver answered 500", 1007.5)
        desk.clock.now = 1007.4
        desk.poke()
        await desk.write("req-2", desk.url("/other"))
        await desk.row("req-2", DELIVERED, 1)
        assert len(desk.here.came) == 2
        desk.clock.now = 1007.5
        desk.poke()
        await desk.row("req-1", DELIVERED, 2)
    first, second = await desk.here.until(2, "/hook")
    assert first.id == second.id == "req-1"
    assert [each.headers["webhook-timestamp"] for each in (first, second)] == ["1000", "1007"]


async def test_gone_ends_it_and_sending_again_begins_anew(desk: Desk) -> None:
    """410 makes a dead letter at once, with an event; once it is sent again it counts as new."""
    desk.here.answers["/hook"] = [status(410), OK]
    async with desk.sending():
        await desk.write("req-1", desk.url("/hook"), b"the body")
        row = await desk.row("req-1", DEAD, 1)
        assert (row.last_status, row.due_at) == (410, None)
        (told,) = await desk.store.events()
        assert (told.kind, told.subject, told.detail["status"]) == ("callback.dead", "req-1", 410)
        (listed,) = (await desk.store.outbox.page(DEAD)).deliveries
        assert listed == row
        await desk.store.outbox.resend("req-1")
        desk.poke()
        await desk.row("req-1", DELIVERED, 1)
    assert [came.body for came in desk.here.came] == [b"the body"] * 2
    assert (await desk.store.outbox.page(DEAD)).deliveries == ()
    assert await desk.store.outbox.resend("nobody") is None


async def test_patience_ends(desk: Desk) -> None:
    """After its last try a callback is dead and says what came of it; until then each pause is longer."""
    desk.here.answers["/hook"] = [status(503)]
    pauses = []
    async with desk.sending():
        await desk.write("req-1", desk.url("/hook"))
        for tries in range(1, 4):
            row = await desk.row("req-1", PENDING, tries)
            assert row.due_at is not None
            pauses.append(row.due_at - desk.clock.now)
            desk.clock.now = row.due_at
            desk.poke()
        await desk.row("req-1", DEAD, 4)
    assert pauses == [7.5, 15.0, 30.0]
    assert len(desk.here.came) == 4


async def test_a_receiver_that_hangs_holds_up_only_itself(desk: Desk) -> None:
    """Two hundred callbacks wait for one that never answers, and fifty behind them are delivered meanwhile."""
    desk.here.answers["/hang"] = [HANG]
    for n in range(200):
        await desk.write(f"hang-{n:03}", desk.url("/hang", "hanging.test"))
    for n in range(50):
        await desk.write(f"well-{n:02}", desk.url("/well", "well.test"))
    async with desk.sending():
        await desk.here.until(50, "/well")
        await desk.here.until(1, "/hang")
        for n in range(50):
            await desk.row(f"well-{n:02}", DELIVERED, 1)
        assert len(await desk.here.until(1, "/hang")) == 1


async def test_many_receivers_that_hang_hold_up_only_each_other(desk: Desk) -> None:
    """However many strangers never answer, they share their lane; a receiver that is known to answer has its own."""
    desk.here.answers["/hang"] = [HANG]
    async with desk.sending(lanes=LaneRules(per_host=2, others=8)):
        await desk.write("first", desk.url("/well", "well.test"))
        await desk.row("first", DELIVERED, 1)
        for n in range(40):
            await desk.write(f"hang-{n:02}", desk.url("/hang", f"h{n}.test"))
        await desk.here.until(8, "/hang")
        for n in range(30):
            await desk.write(f"well-{n:02}", desk.url("/well", "well.test"))
        for n in range(30):
            await desk.row(f"well-{n:02}", DELIVERED, 1)
        assert len(await desk.here.until(8, "/hang")) == 8


async def test_a_try_takes_so_long_and_no_longer(desk: Desk) -> None:
    """Without an answer in time a try has failed, and the next in that receiver's line has its turn."""
    desk.here.answers["/hang"] = [HANG]
    async with desk.sending(seconds=0.2):
        for n in range(3):
            await desk.write(f"req-{n}", desk.url("/hang"))
        for n in range(3):
            row = await desk.row(f"req-{n}", PENDING, 1)
            assert (row.last_status, row.last_error) == (None, "no answer within 0.2 s")


async def test_long_answers_are_not_read(desk: Desk) -> None:
    """Ten megabytes, or a body without an end, change nothing: the status counts and the rest is cut off."""
    length = 10 * 1024 * 1024
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n".encode()
    desk.here.answers |= {"/large": [head + bytes(length)], "/slow": [head]}
    async with desk.sending():
        await desk.write("large", desk.url("/large"))
        await desk.row("large", DELIVERED, 1)
        await desk.write("slow", desk.url("/slow"))
        await desk.row("slow", DELIVERED, 1)
    assert desk.here.taken_bytes < length


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (status(307, "location: http://169.254.169.254/latest"), "169.254.169.254 is not a public address"),
        (status(308, "location: http://inside.test/"), "inside.test is not a public address"),
        (status(307, "location: /loop"), "redirects more than 3 times"),
        (status(307, "location: file:///etc/passwd"), "only http:// and https://"),
        (status(302, "location: /other"), "the receiver answered 302; name the address that it redirects to"),
        (b"hello\r\n\r\n", "RemoteProtocolError"),
    ],
)
async def test_redirects_lead_nowhere_they_should_not(desk: Desk, answer: bytes, words: str) -> None:
    """Each step is judged anew; what would change the method is not followed; none of them is called."""

    async def names(host: str, port: int) -> Sequence[str]:
        return ("127.0.0.1",) if host == "here.test" else ("169.254.169.254",)

    desk.here.answers |= {"/hook": [answer], "/loop": [answer]}
    async with desk.sending(names):
        await desk.write("req-1", desk.url("/hook"))
        row = await desk.row("req-1", PENDING, 1)
    assert words in (row.last_error or "")
    assert {came.path for came in desk.here.came} <= {"/hook", "/loop"}


async def test_a_redirect_that_keeps_the_method_is_followed(desk: Desk) -> None:
    """With the same body and signature."""
    desk.here.answers["/old"] = [status(308, "location: /new")]
    async with desk.sending():
        await desk.write("req-1", desk.url("/old"), b"the body")
        await desk.row("req-1", DELIVERED, 1)
    old, new = desk.here.came
    assert (new.path, new.body) == ("/new", b"the body")
    assert new.headers["webhook-signature"] == old.headers["webhook-signature"]


@pytest.mark.parametrize("private", [True, False])
async def test_addresses_are_judged_at_every_try(desk: Desk, private: bool) -> None:
    """A name that was public and now means this machine, or where clouds keep credentials, is not called."""
    answers = ["127.0.0.1", "169.254.169.254"] if private else ["127.0.0.1", "10.0.0.1"]
    desk.here.answers["/hook"] = [status(500)]

    async def names(host: str, port: int) -> Sequence[str]:
        return (answers.pop(0),)

    async with desk.sending(names, private=private):
        await desk.write("req-1", desk.url("/hook"))
        first = await desk.row("req-1", PENDING, 1)
        desk.clock.now += 100.0
        desk.poke()
        second = await desk.row("req-1", PENDING, 2)
    assert (first.last_status, len(desk.here.came)) == ((500, 1) if private else (None, 0))
    assert "is not a public address (callbacks.allow_private_addresses)" in (second.last_error or "")


async def test_certificates_are_checked(desk: Desk) -> None:
    """A receiver whose certificate is nobody's gets nothing; a trusted one for the right name does."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(CERTIFICATE)
    async with receiving(server_side) as safe:
        url = f"https://pictures.test:{safe.port}/hook"
        async with desk.sending():
            await desk.write("req-1", url)
            row = await desk.row("req-1", PENDING, 1)
            assert "verify failed" in (row.last_error or "")
        assert not safe.came
        async with desk.sending(tls=ssl.create_default_context(cafile=CERTIFICATE)):
            await desk.write("req-2", url)
            await desk.row("req-2", DELIVERED, 1)


async def test_a_receiver_gets_a_few_at_a_time(desk: Desk) -> None:
    """One until it answered well, then as many as the rules say, and no more."""
    desk.here.answers["/hook"] = [OK, HANG]
    async with desk.sending(lanes=LaneRules(per_host=3)):
        for n in range(20):
            await desk.write(f"req-{n:02}", desk.url("/hook"))
        await desk.here.until(4)
        await desk.write("other", desk.url("/other", "other.test"))
        await desk.row("other", DELIVERED, 1)
        assert len(await desk.here.until(4, "/hook")) == 4


async def test_what_was_under_way_at_the_end_is_delivered_by_the_next_life(desk: Desk) -> None:
    """A sender that is ended during a try leaves the callback due."""
    desk.here.answers["/hook"] = [HANG, OK]
    async with desk.sending():
        await desk.write("req-1", desk.url("/hook"))
        await desk.here.until(1)
    async with desk.sending():
        await desk.row("req-1", DELIVERED, 1)
    assert [came.id for came in desk.here.came] == ["req-1", "req-1"]


async def test_a_name_server_that_hangs_holds_up_only_itself(desk: Desk) -> None:
    """While one name is never resolved, others are called."""

    async def names(host: str, port: int) -> Sequence[str]:
        if host == "silent.test":
            await asyncio.Event().wait()
        return ("127.0.0.1",)

    async with desk.sending(names):
        await desk.write("silent", desk.url("/hook", "silent.test"))
        await desk.write("well", desk.url("/hook"))
        await desk.row("well", DELIVERED, 1)
        await desk.row("silent", PENDING, 0)


STEP = 2**-10


class Creeping:
    """A clock that moves on a little at every look, so that something is always just becoming due."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += STEP
        return self.now


@pytest.mark.parametrize("ahead", range(1, 12))
async def test_what_becomes_due_during_a_search_is_not_overlooked(tmp_path: Path, ahead: int) -> None:
    """Whichever two looks at the clock its time falls between, it is delivered without anybody asking again."""
    clock = Creeping()
    store = await Store.open(tmp_path / "creeping.db", holder="the test", clock=clock)
    async with receiving() as here:
        desk = Desk(store, clock, here)
        row = partial(outbox.write, request_id="r", url=desk.url("/hook"), body=b"{}")
        await store._writer.commit(partial(row, at=clock.now + ahead * STEP))
        async with desk.sending():
            await here.until(1)
    await store.close()
