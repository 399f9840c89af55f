"""The sections about what outlives the process: the store's place, and callbacks."""

from typing import Any

import pytest

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_defaults_need_no_server_and_call_nobody_inside(config: Any) -> None:
    """A file in the state folder; callbacks to public addresses only, tried for two days."""
    config.manager(state_dir="state")
    settings = config.load()
    assert settings.store_place == config.folder / "state/store.sqlite"
    callbacks = settings.callbacks
    assert (callbacks.secrets, callbacks.allow_private_addresses) == ((), False)
    pauses = [min(5.0 * 2**n, callbacks.longest_pause_seconds) for n in range(callbacks.tries - 1)]
    assert sum(pauses) > 24 * 3600


def test_secrets_are_read_and_never_shown(config: Any) -> None:
    """From a file, for the store's address as for callbacks."""
    (config.folder / "secret").write_text(SECRET + "\n")
    (config.folder / "database").write_text("postgresql://me:hidden@db/store\n")
    config.manager(
        store={"url": {"file": "database"}},
        callbacks={"secrets": [{"name": "default", "secret": {"file": "secret"}}]},
    )
    settings = config.load()
    assert settings.store_place == "postgresql://me:hidden@db/store"
    assert settings.callbacks.secrets[0].secret.get_secret_value() == SECRET
    assert "hidden" not in repr(settings)
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    ("keys", "where", "remedy"),
    [
        ({"store": {"url": "mysql://x"}}, "store.url", 'write "postgresql://user@host/database"'),
        ({"store": {"path": "x"}}, "store.path", "unknown key"),
        (
            {"callbacks": {"secrets": [{"name": "a", "secret": SECRET}]}},
            "callbacks.secrets[0].secret",
            "a secret never stands in the file itself",
        ),
        (
            {"callbacks": {"secrets": [{"name": "a", "secret": {"file": "short"}}]}},
            "callbacks.secrets[0].secret",
            "openssl rand -base64 32",
        ),
        ({"callbacks": {"tries": 0}}, "callbacks.tries", "must be at least 1"),
        (
            {"callbacks": {"longest_pause_seconds": 1.0}},
            "callbacks.longest_pause_seconds",
            "is less than first_pause_seconds (5)",
        ),
    ],
)
def test_a_mistake_is_answered_with_its_remedy(config: Any, keys: Any, where: str, remedy: str) -> None:
    """One line with place and remedy, which repeats no secret."""
    (config.folder / "short").write_text("whsec_c2hvcnQ=")
    config.manager(**keys)
    (mistake,) = config.mistakes()
    assert f": {where}: " in mistake
    assert remedy in mistake
    assert SECRET not in mistake
