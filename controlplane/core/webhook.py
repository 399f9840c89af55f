"""Decides how a callback is signed (Standard Webhooks) and what follows from a try at delivering it. Pure."""

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_PREFIX = "whsec_"
_LEAST_BYTES, _MOST_BYTES = 24, 64
_GONE = 410
_MOST_DOUBLINGS = 40


class Message(NamedTuple):
    """What is signed. `message_id` stays the same however often it is sent; `sent_at` is in whole unix seconds."""

    message_id: str
    sent_at: int
    body: bytes


class Reply(NamedTuple):
    """What came of a try: the receiver's status, or None and why there is none."""

    status: int | None
    reason: str
    retry_after_seconds: float | None = None

    @property
    def good(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a receiver is tried: pauses double from `first_seconds` to `longest_seconds`, `tries` at most."""

    first_seconds: float
    longest_seconds: float
    tries: int


def decoded_secret(text: str) -> bytes:
    """The key that `whsec_…` stands for. Raises ValueError."""
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(_PREFIX) or not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        raise ValueError(
            f'a signing secret is "{_PREFIX}" and {_LEAST_BYTES} to {_MOST_BYTES} bytes in base64; '
            f'make one: echo "{_PREFIX}$(openssl rand -base64 32)"'
        )
    return key


def encoded_secret(key: bytes) -> str:
    return _PREFIX + base64.b64encode(key).decode()


def signed_headers(secrets: Sequence[bytes], message: Message) -> Mapping[str, str]:
    """The three headers of Standard Webhooks; one signature for each secret, so that secrets can be changed."""
    content = f"{message.message_id}.{message.sent_at}.".encode() + message.body
    signatures = [base64.b64encode(hmac.digest(secret, content, "sha256")).decode() for secret in secrets]
    return {
        "webhook-id": message.message_id,
        "webhook-timestamp": str(message.sent_at),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def pause_seconds(reply: Reply, tries: int, patience: Patience, chance: float) -> float | None:
    """Seconds until the next try after `tries` of them; None: it ends here.

    `chance` in [0, 1) spreads the tries of many callbacks. A receiver may ask for a longer pause, up to the longest.
    """
    if reply.status == _GONE or tries >= patience.tries:
        return None
    pause = min(patience.first_seconds * 2.0 ** min(tries - 1, _MOST_DOUBLINGS), patience.longest_seconds)
    asked = min(reply.retry_after_seconds or 0.0, patience.longest_seconds)
    return max(pause * (0.5 + chance / 2), asked)
