"""The admin API: what it shows adds up, what it orders happens once, and every route is documented."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from chats import ask, begin, later
from service import Service, model, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORDERS = ("load", "unload", "pin", "unpin")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    service = Service(tmp_path_factory.mktemp("admin"))
    service.write(
        model("a", mib=300, slots=2, aliases=["first"], script={"memory_mib": 60, "tokens_per_second": 50}),
        model("b", mib=200, script={"memory_mib": 40}),
        model("keeper", mib=64, min_replicas=1),
    )
    await service.start()
    yield service
    await service.end()


def _error(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


async def test_the_ledger_adds_up(service: Service) -> None:
    """Booked is the sum of the reservations, free is budget less booked, and what runs is measured."""
    for model_id in ("a", "b"):
        await ask(service.openai(), model_id, "hello")

    async def measured() -> Any:
        views = (await service.admin("replicas"))["replicas"]
        (device,) = (await service.admin("devices"))["devices"]
        return (device, views) if len(views) == 3 and all(view["measured_mib"] for view in views) else None

    device, views = await until(measured)
    assert device["booked_mib"] == sum(view["reserved_mib"] for view in views) == 564
    assert device["free_mib"] == device["budget_mib"] - device["booked_mib"] - device["held_mib"]
    assert (device["budget_mib"], device["held_mib"], device["holds"]) == (1000, 0, [])
    assert device["measured_mib"] > 0


async def test_models_and_replicas_tell_the_same(service: Service) -> None:
    """A model's state, slots and replica list agree with the replica's own view while a request runs."""
    stream = await begin(service.openai(), "a", "hello", 2000)

    entry, view = await service.busy("a", running=1), await service.replica("a-0")

    assert entry["replicas"] == ["a-0"]
    assert (entry["state"], view["state"], view["leases"]) == ("ready", "ready", 1)
    assert (entry["aliases"], entry["types"], entry["vram_mib"]) == (["first"], ["text2text"], 300)
    assert service.pid(view) in {process.pid for process in service.engines("a-0")}
    await stream.leave()
    await service.busy("a", running=0)


async def test_orders_may_be_given_twice(service: Service) -> None:
    """Load, unload, pin and unpin each answer 200 the second time as well and change nothing more."""
    for verb, pinned in (("pin", True), ("unpin", False)):
        for _ in range(2):
            assert (await service.order("b", verb)).json()["pinned"] is pinned
    for _ in range(2):
        assert (await service.order("b", "unload")).status_code == 200
    await service.in_state("b-0", "stopped")
    assert not service.engines("b-0")
    for _ in range(2):
        assert (await service.order("b", "load")).status_code == 200
    generation = (await service.in_state("b-0", "ready"))["generation"]

    assert (await service.order("b", "load")).status_code == 200

    assert (await service.replica("b-0"))["generation"] == generation


async def test_an_order_that_contradicts_is_a_conflict(service: Service) -> None:
    """Unload of a pinned model, and of one that must run: 409 naming the remedy, which no SDK tries again."""
    await service.order("a", "pin")
    for model_id, remedy in (("a", "unpin it first"), ("keeper", "min_replicas 1")):
        answer = await service.order(model_id, "unload")

        error = _error(answer, 409)
        assert error["code"] == "conflict"
        assert remedy in error["message"]
        assert answer.headers["x-should-retry"] == "false"
    await service.order("a", "unpin")


async def test_the_sdk_does_not_repeat_a_conflict(service: Service) -> None:
    """With retries allowed, one request is sent and ConflictError raised."""
    sent: list[str] = []

    async def note(request: Any) -> None:
        sent.append(str(request.url))

    await service.order("a", "pin")
    async with openai.DefaultAsyncHttpxClient(event_hooks={"request": [note]}) as http:
        client = service.openai(max_retries=3, http_client=http)
        with pytest.raises(openai.ConflictError, match="pinned"):
            await client.post(f"{service.base_url}/admin/models/a/unload", cast_to=object)
    await service.order("a", "unpin")

    assert len(sent) == 1


@pytest.mark.parametrize("verb", ORDERS)
async def test_an_order_about_an_unknown_model_is_refused(service: Service, verb: str) -> None:
    """404 with a suggestion."""
    error = _error(await service.order("keepr", verb), 404)

    assert error["code"] == "model_not_found"
    assert "did you mean 'keeper'?" in error["message"]


async def test_the_journal_is_filtered_and_paged(service: Service) -> None:
    """Pages follow one another without a gap or a repetition, newest first; filters give only what they say."""
    client = service.openai()
    for n in range(5):
        await ask(client, "b", f"number {n}")
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="b", messages=[])

    whole = [row["request_id"] for row in await service.journal(model="b")]
    paged: list[str] = []
    cursor: dict[str, str] = {}
    while cursor is not None:
        page = await service.admin("requests", model="b", limit=2, **cursor)
        assert len(page["requests"]) <= 2
        paged += [row["request_id"] for row in page["requests"]]
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None  # type: ignore[assignment]

    assert paged == whole
    assert len(set(paged)) == len(paged) >= 6
    assert whole == sorted(whole, reverse=True)
    assert {row["model_id"] for row in await service.journal(model="b")} == {"b"}
    (failed,) = await service.journal(outcome="failed", model="b")
    assert (failed["http_status"], failed["status"]) == (400, "failed")
    assert not await service.journal(client="nobody")


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "cursor=zzz", "status=lost", "outcome=lost", "statuss=failed"],
)
async def test_a_wrong_question_is_told_which_part(service: Service, query: str) -> None:
    """400 with the parameter's name."""
    error = _error(await service.http.get(f"/admin/requests?{query}"), 400)

    assert error["param"] == query.partition("=")[0]


async def test_events_go_on_where_one_stopped(service: Service) -> None:
    """Oldest first, from the event after the given id on."""
    first = (await service.admin("events", limit=2))["events"]
    rest = (await service.admin("events", after=first[-1]["id"], limit=1000))["events"]

    ids = [event["id"] for event in [*first, *rest]]
    assert ids == sorted(set(ids))
    assert {"replica.starting", "replica.ready"} <= {event["kind"] for event in [*first, *rest]}
    assert set(first[0]) == {"id", "at", "kind", "subject", "detail"}


async def test_explain_says_why_a_request_waits(service: Service) -> None:
    """The same sentence for the request in explain and in the journal, with position and numbers."""
    client = service.openai()
    running = [await begin(client, "a", f"long {n}", 2000) for n in range(2)]
    queued = later(ask(client, "a", "short", 2))
    await service.busy("a", running=2, waiting=1)

    async def waits() -> Any:
        rows = await service.journal(status="pending", model="a")
        return next((row for row in rows if row["position"] is not None), None)

    row = await until(waits)
    found = await service.admin("explain", request_id=row["request_id"])

    assert (found["position"], found["waiting"], found["model_id"]) == (1, 1, "a")
    assert row["position"] == 1
    assert found["reason"] != "none"
    assert found["sentence"]
    assert (found["numbers"]["slots"], found["numbers"]["busy"]) == (2, 2)
    assert (await service.admin("explain", model="first"))["model_id"] == "a"
    for stream in running:
        await stream.leave()
    assert "short" in await queued
    assert "succeeded" in (await service.admin("explain", request_id=row["request_id"]))["sentence"]


async def test_explain_of_nothing_is_refused(service: Service) -> None:
    """Neither or both is 400; unknown ones are 404."""
    _error(await service.http.get("/admin/explain"), 400)
    _error(await service.http.get("/admin/explain?model=a&request_id=x"), 400)
    assert _error(await service.http.get("/admin/explain?model=nobody"), 404)["code"] == "model_not_found"
    assert _error(await service.http.get("/admin/explain?request_id=req_0"), 404)["code"] == "not_found"


async def test_metrics_count_what_was_done(service: Service) -> None:
    """Prometheus text with requests by outcome and the device's ledger; a request more counts one more."""

    async def succeeded() -> float:
        page = (await service.http.get("/metrics")).text
        start = 'inference_manager_requests_total{model="b",outcome="succeeded"} '
        return next((float(line.removeprefix(start)) for line in page.splitlines() if line.startswith(start)), 0.0)

    before = await succeeded()
    await ask(service.openai(), "b", "count me")

    assert await succeeded() == before + 1
    answer = await service.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'inference_manager_device_booked_mib{device="host"}' in answer.text


async def test_every_admin_route_is_documented(service: Service) -> None:
    """/openapi.json has each route with its answer's shape."""
    paths = (await service.http.get("/openapi.json")).json()["paths"]

    lists = ("models", "replicas", "devices", "requests", "events", "explain", "callbacks")
    wanted = {f"/admin/{what}": "get" for what in lists}
    wanted["/admin/callbacks/{request_id}/resend"] = "post"
    wanted |= {f"/admin/models/{{model_id}}/{verb}": "post" for verb in ORDERS}
    assert {path for path in paths if path.startswith("/admin")} == set(wanted)
    for path, method in wanted.items():
        answer = paths[path][method]["responses"]["200"]["content"]["application/json"]["schema"]
        assert answer["$ref"].startswith("#/components/schemas/"), path
