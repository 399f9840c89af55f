"""Callbacks are signed as Standard Webhooks say, and retried with pauses that grow within bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.core.webhook import (
    Message,
    Patience,
    Reply,
    decoded_secret,
    encoded_secret,
    pause_seconds,
    signed_headers,
)

PATIENCE = Patience(first_seconds=5.0, longest_seconds=86_400.0, tries=16)


def test_the_specifications_own_example_is_signed_alike() -> None:
    """Secret, id, time and body of the specification give its signature; a second secret adds its own."""
    key = decoded_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    message = Message("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    headers = signed_headers([key], message)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    first, second = signed_headers([key, bytes(24)], message)["webhook-signature"].split(" ")
    assert first == headers["webhook-signature"]
    assert second.startswith("v1,")


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
def test_bad_secrets_are_refused_with_the_remedy(text: str) -> None:
    """Too short, not base64, without its prefix."""
    with pytest.raises(ValueError, match="openssl rand -base64 32"):
        decoded_secret(text)


@given(st.binary(min_size=24, max_size=64))
def test_a_secret_survives_its_text(key: bytes) -> None:
    """What is written is what is read."""
    assert decoded_secret(encoded_secret(key)) == key


@given(
    status=st.sampled_from([None, 302, 400, 404, 429, 500, 503]),
    tries=st.integers(1, 15),
    chance=st.floats(0, 1, exclude_max=True),
    asked=st.none() | st.floats(0, 1e9),
)
def test_pauses_double_within_bounds(status: int | None, tries: int, chance: float, asked: float | None) -> None:
    """Between half and the whole of first * 2**(tries-1), never over the longest; a receiver may ask for more."""
    pause = pause_seconds(Reply(status, "", asked), tries, PATIENCE, chance)
    assert pause is not None
    full = min(5.0 * 2 ** (tries - 1), 86_400.0)
    assert full / 2 <= pause <= max(full, min(asked or 0.0, 86_400.0))
    assert pause >= min(asked or 0.0, 86_400.0)


@given(st.integers(1, 10_000))
def test_it_ends_with_the_last_try_or_with_gone(tries: int) -> None:
    """410 ends it at once, the number of tries in any case."""
    assert pause_seconds(Reply(410, ""), tries, PATIENCE, 0.5) is None
    assert (pause_seconds(Reply(500, ""), tries, PATIENCE, 0.5) is None) is (tries >= 16)
