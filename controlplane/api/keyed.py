"""Idempotency-Key around what makes work: the same key and body get the first answer, also while it is being made.

Work under a key belongs to the key, not to a connection: it goes on when its caller leaves, and a retry gets its
answer. Answers that say "try again" are not kept: trying again does the work.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import structlog

from controlplane.api.auth import Keyring
from controlplane.api.body import CallerGone, read_body
from controlplane.api.errors import unavailable
from controlplane.api.multipart import boundary_of, is_form
from controlplane.api.recording import Recording, is_last, replay
from controlplane.api.reply import Message, Receive, Reply, Scope, Send
from controlplane.errors import RequestRejected, StoreFailure
from controlplane.loop import rejections
from controlplane.store.edges import Keys
from controlplane.store.errors import KeyReused
from controlplane.store.idempotency import KeptAnswer
from controlplane.store.records import IdempotencyClaim

log = structlog.get_logger(__name__)

Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
Refusal = Callable[[str, RequestRejected], bytes]
_Place = tuple[str | None, str]

_HEADER: Final = b"idempotency-key"
_LONGEST_KEY: Final = 255


@dataclass(eq=False, slots=True)
class _Work:
    """What is being done under a key. `decided`: it is known whether the key was free for it; if not, `rejection`."""

    fingerprint: str
    recording: Recording = field(default_factory=Recording)
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    rejection: RequestRejected | None = None


class Keyed:
    """ASGI application around another one; calls without a key pass untouched.

    The inner application finds the claim in its scope, under "idempotency".
    """

    def __init__(self, inner: Asgi, keys: Keys, keyring: Keyring, max_body_bytes: int, refusal: Refusal) -> None:
        self._inner = inner
        self._keys = keys
        self._keyring = keyring
        self._max_body_bytes = max_body_bytes
        self._refusal = refusal
        self._under_way: dict[_Place, _Work] = {}
        # The event loop itself holds tasks only weakly.
        self._tasks: dict[_Work, asyncio.Task[None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not any(name == _HEADER for name, _ in scope["headers"]):
            await self._inner(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            client = self._keyring.identify(headers)
            key = valid_key(headers[_HEADER])
            body = await read_body(receive, headers, self._max_body_bytes)
            claim = IdempotencyClaim(client.name, key, _fingerprint(scope["path"], headers, body))
            await self._answer(claim, scope, body, send)
        except RequestRejected as exc:
            await Reply(send).error(exc, self._refusal(scope["path"], exc))
        except CallerGone:
            return

    async def _answer(self, claim: IdempotencyClaim, scope: Scope, body: bytes, send: Send) -> None:
        """Join the work of this key, or begin it. Raises RequestRejected."""
        place = (claim.client, claim.key)
        while (work := self._under_way.get(place)) is not None and work.fingerprint != claim.fingerprint:
            await work.decided.wait()
            if work.rejection is None:
                raise _reused()
            # It was that one which was wrong under this key, and it is gone now.
        first = work is None
        if work is None:
            work = self._under_way[place] = _Work(claim.fingerprint)
            self._tasks[work] = asyncio.create_task(self._work(claim, work, scope, body))
        task = self._tasks[work]
        if not await work.recording.play(send, replayed=not first):
            if work.rejection is not None:
                raise work.rejection
            # What broke is told by the server, as it is for any call.
            await asyncio.shield(task)

    async def _work(self, claim: IdempotencyClaim, work: _Work, scope: Scope, body: bytes) -> None:
        """Give the kept answer or make one, for everybody who listens."""
        try:
            kept = await self._found(claim, work)
            work.decided.set()
            if kept is not None:
                await replay(kept, _adding(work.recording))
            elif work.rejection is None:
                await self._inner({**scope, "idempotency": claim}, _once(body), self._keeping(claim, work.recording))
        finally:
            del self._under_way[claim.client, claim.key], self._tasks[work]
            work.decided.set()
            work.recording.break_off()

    async def _found(self, claim: IdempotencyClaim, work: _Work) -> KeptAnswer | None:
        """The kept answer. None: there is none yet, or the work is rejected."""
        try:
            return await self._keys.answer(claim)
        except KeyReused:
            work.rejection = _reused()
        except StoreFailure as exc:
            work.rejection = unavailable(f"the store cannot look up the Idempotency-Key now: {exc}", 2.0)
        return None

    def _keeping(self, claim: IdempotencyClaim, recording: Recording) -> Send:
        """Nobody has the whole answer before it is kept: a retry after a crash must not find less."""

        async def send(message: Message) -> None:
            answer = recording.kept_answer(message) if is_last(message) else None
            if answer is not None:
                try:
                    await self._keys.keep(claim, answer)
                except StoreFailure as exc:
                    log.warning("idempotency.not_kept", key=claim.key, reason=str(exc))
            recording.add(message)

        return send


def _adding(recording: Recording) -> Send:
    async def send(message: Message) -> None:
        recording.add(message)

    return send


def _once(body: bytes) -> Receive:
    """The request, and then nothing: work under a key has no caller that could leave."""
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            await asyncio.Event().wait()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _reused() -> RequestRejected:
    return rejections.invalid(
        "this Idempotency-Key was used for another request; take a new key for new work",
        "Idempotency-Key",
        "idempotency_key_reused",
        422,
    )


def valid_key(header: bytes) -> str:
    """Raises RequestRejected."""
    if not 0 < len(header) <= _LONGEST_KEY or not header.isascii() or not header.decode("ascii").isprintable():
        message = f"Idempotency-Key must be 1 to {_LONGEST_KEY} printable ASCII characters, such as a UUID"
        raise rejections.invalid(message, "Idempotency-Key", "invalid_value")
    return header.decode("ascii")


def _fingerprint(path: str, headers: Mapping[bytes, bytes], body: bytes) -> str:
    """A digest of what is asked. A form that is sent again has another boundary and is the same form."""
    content_type = headers.get(b"content-type", b"")
    if is_form(content_type) and (boundary := boundary_of(content_type)):
        body = body.replace(boundary, b"")
    return sha256(path.encode() + b"\0" + body).hexdigest()
