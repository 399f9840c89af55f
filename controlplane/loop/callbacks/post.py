"""One try at a delivery: the signed body to the receiver, within one span of time, and what came of it.

A redirect that keeps the method is followed, each step judged anew. Of an answer only the head is read: no body,
however long or slow, changes what it says.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx

from controlplane.core.webhook import Message, Reply, signed_headers
from controlplane.loop.callbacks.address import SETTING
from controlplane.loop.callbacks.secrets import Secrets
from controlplane.media.outbound import Outbound, OutboundRules, Resolve, Sending, Unreachable
from controlplane.store.deliveries import Delivery

_FOLLOWED: Final = frozenset({307, 308})
_MAX_REDIRECTS: Final = 3
_LONGEST_REASON: Final = 300


@dataclass(frozen=True, slots=True)
class PostRules:
    """`timeout_seconds` covers everything: names, redirects and the answer."""

    allow_private: bool
    timeout_seconds: float
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)


class Poster:
    """Holds no connection between two tries: one would outlive the judgement that allowed it."""

    def __init__(self, rules: PostRules, secrets: Secrets, resolve: Resolve) -> None:
        self._rules = rules
        self._secrets = secrets
        self._resolve = resolve
        self._outbound = OutboundRules(rules.allow_private, SETTING)

    async def post(self, delivery: Delivery, now: float) -> Reply:
        """What the receiver answered, or why it did not; never raises for what a receiver does."""
        seconds = self._rules.timeout_seconds
        message = Message(delivery.request_id, int(now), delivery.body)
        headers = {
            **signed_headers(self._secrets.of(delivery.secret_name), message),
            "content-type": "application/json",
        }
        try:
            async with asyncio.timeout(seconds), Outbound(self._outbound, self._resolve, self._rules.tls) as outbound:
                return await _followed(outbound, delivery.url, Sending("POST", headers, delivery.body))
        except TimeoutError:
            return Reply(None, f"no answer within {seconds:g} s")
        except Unreachable as exc:
            return Reply(None, _shown(str(exc)))
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            return Reply(None, _shown(f"{type(exc).__name__} {exc}".strip()))


async def _followed(outbound: Outbound, address: str, sending: Sending) -> Reply:
    url = httpx.URL(address)
    for _ in range(_MAX_REDIRECTS + 1):
        answer = await outbound.send(url, sending)
        try:
            if answer.status_code not in _FOLLOWED or "location" not in answer.headers:
                return _reply(answer.status_code, answer.headers)
            url = url.join(httpx.URL(answer.headers["location"]))
        finally:
            await answer.aclose()
    raise Unreachable(f"it redirects more than {_MAX_REDIRECTS} times")


def _reply(status: int, headers: Mapping[str, str]) -> Reply:
    reason = f"the receiver answered {status}"
    if 300 <= status < 400:
        reason += "; name the address that it redirects to"
    asked = headers.get("retry-after", "")
    return Reply(status, reason, float(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else None)


def _shown(reason: str) -> str:
    """What every database takes and nobody's terminal minds."""
    return "".join(letter if letter.isprintable() else "?" for letter in reason[:_LONGEST_REASON])
