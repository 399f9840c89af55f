"""The commands that ask a running service: what they send, what they show, and how they end."""

import socket
from typing import Any

import pytest
from inferctl_process import inferctl

MODEL: dict[str, Any] = {
    "model_id": "org/chat",
    "aliases": ["chat"],
    "types": ["text2text"],
    "engine": "vllm",
    "state": "ready",
    "tier": "warm",
    "pinned": True,
    "vram_mib": 2560,
    "waiting": 3,
    "running": 2,
    "max_concurrency": 8,
    "reason": None,
    "replicas": ["chat-0"],
}
REPLICA: dict[str, Any] = {
    "replica_id": "chat-0",
    "model_id": "org/chat",
    "generation": 4,
    "state": "starting",
    "healthy": False,
    "cordoned_for": "embed",
    "device_id": "gpu0",
    "reserved_mib": 2560,
    "measured_mib": None,
    "phase": "loading weights",
    "leases": 1,
    "failures": 2,
    "retry_in_seconds": 8.0,
    "failure_reason": "no such [file]",
    "endpoint": "unix:/run/x.sock",
    "handle": "pid 4711",
    "state_seconds": 3725.2,
}
DEVICE: dict[str, Any] = {
    "device_id": "gpu0",
    "kind": "cuda",
    "name": "RTX",
    "total_mib": 8192,
    "budget_mib": 7168,
    "booked_mib": 2560,
    "measured_mib": 2401,
    "unattributed_mib": None,
    "free_mib": 4608,
    "declared_mib": 2560,
    "holds": [{"model_id": "embed", "device_id": "gpu0", "mib": 1024}],
}
REQUEST: dict[str, Any] = {
    "request_id": "req-1",
    "model_id": "org/chat",
    "type": "text2text",
    "status": "pending",
    "priority": 70,
    "created_at": 1_800_000_000.0,
    "reason": "waits for room",
}
EXPLANATION: dict[str, Any] = {
    "subject": "req-1",
    "state": "waiting",
    "reason": "no_room",
    "sentence": "waits for 2560 MiB on gpu0",
    "position": 3,
    "eta_seconds": 75,
    "numbers": {"need_mib": 2560, "free_mib": 100},
}


def test_status_shows_devices_models_and_totals(admin_api: Any) -> None:
    """One command gives the owner's overview."""
    admin_api.says("GET", "/admin/models", {"models": [MODEL, {**MODEL, "model_id": "b", "waiting": 1}]})
    admin_api.says("GET", "/admin/devices", {"devices": [DEVICE]})
    ended = inferctl("status", "--url", admin_api.url)
    assert ended.code == 0, ended.err
    assert "ready, pinned" in ended.out
    assert "embed (1024 MiB)" in ended.out
    assert "4 waiting, 4 running" in ended.out


@pytest.mark.parametrize(
    ("command", "path", "payload", "shown"),
    [
        ("models", "/admin/models", {"models": [MODEL]}, ["org/chat", "chat", "2/8", "2560"]),
        (
            "replicas",
            "/admin/replicas",
            {"replicas": [REPLICA]},
            [
                "starting, loading weights, unhealthy, leaves for embed",
                "no such [file]; again in 8 s",
                "1 h 2 min",
                "pid 4711",
            ],
        ),
        ("devices", "/admin/devices", {"devices": [DEVICE]}, ["gpu0", "7168", "2401", "4608"]),
        (
            "requests",
            "/admin/requests",
            {"requests": [REQUEST], "next_cursor": "c2"},
            ["waits for room", "--cursor c2"],
        ),
    ],
)
def test_lists_are_shown_to_people_and_given_to_programs(
    admin_api: Any, command: str, path: str, payload: Any, shown: list[str]
) -> None:
    """A table has the facts in words; --json has the service's answer unchanged."""
    admin_api.says("GET", path, payload)
    ended = inferctl(command, "--url", admin_api.url)
    assert ended.code == 0, ended.err
    for text in shown:
        assert text in ended.out
    assert inferctl(command, "--url", admin_api.url, "--json").json == payload


def test_requests_are_filtered_by_the_service(admin_api: Any) -> None:
    """Filters go into the query; what was not given is left to the service."""
    admin_api.says("GET", "/admin/requests", {"requests": [], "next_cursor": None})
    ended = inferctl("requests", "--url", admin_api.url, "--status", "pending", "--model", "a/b", "--limit", "5")
    assert "no requests" in ended.out
    assert admin_api.seen == [("GET", "/admin/requests?status=pending&model=a%2Fb&limit=5", None)]


@pytest.mark.parametrize("verb", ["load", "unload", "pin", "unpin"])
def test_a_model_is_told_what_to_do(admin_api: Any, verb: str) -> None:
    """The command is a POST on the model, its answer one sentence."""
    admin_api.says("POST", f"/admin/models/org/chat/{verb}", MODEL)
    ended = inferctl(verb, "org/chat", "--url", admin_api.url)
    assert (ended.code, ended.out) == (0, "org/chat is ready, pinned\n")
    assert inferctl(verb, "org/chat", "--url", admin_api.url, "--json").json == MODEL


@pytest.mark.parametrize(("subject", "query"), [("chat", "model=chat"), ("req-1", "request_id=req-1")])
def test_explain_tells_models_from_requests(admin_api: Any, subject: str, query: str) -> None:
    """A name or alias of a model is asked as such, anything else as a request."""
    admin_api.says("GET", "/admin/models", {"models": [MODEL]})
    admin_api.says("GET", "/admin/explain", EXPLANATION)
    ended = inferctl("explain", subject, "--url", admin_api.url)
    assert admin_api.seen[-1][1] == f"/admin/explain?{query}"
    assert ended.out.splitlines() == [
        "req-1: waits for 2560 MiB on gpu0",
        "position in line: 3",
        "expected in: 1 min 15 s",
        "need mib: 2560",
        "free mib: 100",
    ]


def test_address_and_key_may_come_from_the_environment(admin_api: Any) -> None:
    """INFERCTL_URL and INFERCTL_KEY stand in for the options; the key goes as a bearer token and is never printed."""
    admin_api.says("GET", "/admin/models", {"models": []})
    ended = inferctl("models", env={"INFERCTL_URL": admin_api.url, "INFERCTL_KEY": "the-key"})
    assert ended.code == 0
    assert admin_api.seen == [("GET", "/admin/models", "Bearer the-key")]
    assert "the-key" not in inferctl("models", "--help", env={"INFERCTL_KEY": "the-key"}).out


def test_a_refusal_is_the_services_own_sentence(admin_api: Any) -> None:
    """The message of the error is shown as it is, and the code says failed."""
    admin_api.refuses("POST", "/admin/models/huge/load", 409, "model huge can never fit: [7000 MiB]")
    ended = inferctl("load", "huge", "--url", admin_api.url)
    assert ended.code == 1
    assert ended.err.strip() == "error: model huge can never fit: [7000 MiB]"
    as_json = inferctl("load", "huge", "--url", admin_api.url, "--json")
    assert as_json.json["error"] == {"message": "model huge can never fit: [7000 MiB]", "kind": "failed"}


def test_a_missing_key_says_how_to_give_one(admin_api: Any) -> None:
    """401 and 403 are about the key, so the remedy is named."""
    admin_api.refuses("GET", "/admin/models", 401, "an API key is needed")
    ended = inferctl("models", "--url", admin_api.url)
    assert ended.code == 1
    assert "an API key is needed; give a key with --key or INFERCTL_KEY" in ended.err


def test_another_server_at_the_address_is_recognised(admin_api: Any) -> None:
    """Text that is not ours gives a sentence, not a traceback."""
    ended = inferctl("devices", "--url", admin_api.url)
    assert ended.code == 1
    assert "answered 404 in no form that this service uses" in ended.err
    assert "Traceback" not in ended.err


def test_no_service_is_told_apart_from_a_failure() -> None:
    """Nothing listening ends with code 3 and says how to start."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        ended = inferctl("status", "--url", url)
    assert ended.code == 3
    assert f"cannot connect to {url}" in ended.err
    assert "inferctl serve" in ended.err


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host"])
def test_an_address_that_is_none_is_wrong_usage(url: str) -> None:
    """Code 2, with an example of a right one."""
    ended = inferctl("status", "--url", url)
    assert ended.code == 2
    assert "write one like http://127.0.0.1:8000" in ended.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["stauts"], "status"), (["load"], "MODEL"), (["requests", "--limit", "0"], "--limit")],
)
def test_wrong_usage_ends_with_two(arguments: list[str], told: str) -> None:
    """A slip in the command line names what was meant or missing."""
    ended = inferctl(*arguments)
    assert ended.code == 2
    assert told in ended.err


def test_the_version_is_the_packages() -> None:
    """--version prints the installed version and nothing else."""
    ended = inferctl("--version")
    assert ended.code == 0
    assert ended.out.strip().count(".") == 2
