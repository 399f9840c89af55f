"""One store with its outbox, one receiver, and senders between them."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from controlplane.core.webhook import Patience
from controlplane.loop.callbacks.lanes import LaneRules, Lanes
from controlplane.loop.callbacks.post import Poster, PostRules
from controlplane.loop.callbacks.secrets import Secrets
from controlplane.loop.callbacks.sender import CallbackSender, SenderRules
from controlplane.loop.telemetry import Telemetry
from controlplane.media.outbound import Resolve
from controlplane.store import outbox
from controlplane.store.deliveries import DeliveryRecord, DeliveryState
from controlplane.store.store import Store
from tests.fakes.callback_receiver import Receiver

SECRET = bytes(range(24))


class Clock:
    """Set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def loopback(host: str, port: int) -> Sequence[str]:
    """Every name is this machine, which stands for the internet where private addresses are allowed."""
    return ("127.0.0.1",)


@dataclass
class Desk:
    """One store with its outbox, and what a test does with it."""

    store: Store
    clock: Clock
    here: Receiver
    senders: list[CallbackSender] = field(default_factory=list)

    async def write(self, request_id: str, url: str, body: bytes = b"{}", secret_name: str | None = None) -> None:
        """As the end of a job does."""
        await self.store._writer.commit(
            partial(outbox.write, request_id=request_id, url=url, body=body, at=self.clock(), secret_name=secret_name)
        )
        self.poke()

    def poke(self) -> None:
        for sender in self.senders:
            sender.poke()

    def url(self, path: str, host: str = "here.test") -> str:
        return f"http://{host}:{self.here.port}{path}"

    async def row(self, request_id: str, state: DeliveryState, tries: int) -> DeliveryRecord:
        """The row, once it is so."""
        async with asyncio.timeout(60):
            while True:
                found = await self.store.outbox.one(request_id)
                if found is not None and (found.state, found.tries) == (state, tries):
                    return found

    @asynccontextmanager
    async def sending(
        self,
        resolve: Resolve = loopback,
        *,
        private: bool = True,
        seconds: float = 60.0,
        lanes: LaneRules | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> AsyncIterator[CallbackSender]:
        """A sender at work."""
        rules = PostRules(private, seconds, tls) if tls else PostRules(private, seconds)
        sender = CallbackSender(
            self.store.outbox,
            Poster(rules, Secrets({}, SECRET), resolve),
            Lanes(lanes or LaneRules(per_host=2)),
            SenderRules(Patience(10.0, 80.0, 4), lambda: 0.5, self.clock),
            Telemetry(),
        )
        self.senders.append(sender)
        running = asyncio.create_task(sender.run())
        try:
            yield sender
        finally:
            assert not running.done(), running
            self.senders.remove(sender)
            running.cancel()
            await asyncio.wait((running,))
