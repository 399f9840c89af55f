"""`inferctl callbacks`: what it asks the service, what it shows, and what it sends again."""

from typing import Any

import pytest
from inferctl_process import inferctl

CALLBACK: dict[str, Any] = {
    "request_id": "req-1",
    "url": "https://app.example/hook",
    "state": "dead",
    "tries": 16,
    "created_at": 1_800_000_000.0,
    "due_at": None,
    "ended_at": 1_800_086_400.0,
    "last_status": 500,
    "last_error": "the receiver answered 500",
}


def test_dead_callbacks_are_listed(admin_api: Any) -> None:
    """With the reason, and the way to the next page; --json has the service's answer unchanged."""
    payload = {"callbacks": [CALLBACK], "next_cursor": "c2"}
    admin_api.says("GET", "/admin/callbacks", payload)
    ended = inferctl("callbacks", "list", "--url", admin_api.url)
    assert ended.code == 0, ended.err
    for text in ("req-1", "https://app.example/hook", "the receiver answered 500", "--cursor c2"):
        assert text in ended.out
    assert admin_api.seen[0][1] == "/admin/callbacks?state=dead&limit=50"
    assert inferctl("callbacks", "list", "--url", admin_api.url, "--json").json == payload


def test_named_callbacks_are_sent_again(admin_api: Any) -> None:
    """One order for each."""
    admin_api.says("POST", "/admin/callbacks/req-1/resend", {**CALLBACK, "state": "pending"})
    ended = inferctl("callbacks", "resend", "req-1", "--url", admin_api.url)
    assert (ended.code, ended.out) == (0, "1 callbacks are sent again\n")


def test_all_dead_callbacks_are_sent_again(admin_api: Any) -> None:
    """--all asks for the list and orders each of it."""
    admin_api.says("GET", "/admin/callbacks", {"callbacks": [CALLBACK], "next_cursor": None})
    admin_api.says("POST", "/admin/callbacks/req-1/resend", {**CALLBACK, "state": "pending"})
    assert inferctl("callbacks", "resend", "--all", "--url", admin_api.url).code == 0
    assert [seen[:2] for seen in admin_api.seen] == [
        ("GET", "/admin/callbacks?state=dead&limit=1000"),
        ("POST", "/admin/callbacks/req-1/resend"),
    ]


@pytest.mark.parametrize("arguments", [(), ("req-1", "--all")])
def test_what_to_send_must_be_said(admin_api: Any, arguments: tuple[str, ...]) -> None:
    """Neither nothing nor both."""
    ended = inferctl("callbacks", "resend", *arguments, "--url", admin_api.url)
    assert ended.code == 2
    assert "or give --all" in ended.err
    assert admin_api.seen == []
