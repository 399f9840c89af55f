"""Requests on their way: told about, cancelled by id or by hanging up, kept for who comes back, drained at the end."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engines.pictures_sent import received
from tests.engines.server_process import PAINTER, ServerProcess, server

ENDLESS = 1_000_000
GENERATIONS = "/v1/images/generations"


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server around a painter that draws one picture at a time."""
    folder = tmp_path_factory.mktemp("engine")
    options = {"max_steps": ENDLESS, "max_batch_size": 1, "max_waiting_images": 4}
    with server(PAINTER, folder, model_path=folder, **options) as running:
        yield running.wait_until_ready()


@pytest.fixture
def client(process: ServerProcess) -> Iterator[httpx.Client]:
    with process.client() as http:
        yield http


Events = Iterator[tuple[str, dict[str, Any]]]


@contextmanager
def drawing(client: httpx.Client, request_id: str, steps: int = ENDLESS, **headers: str) -> Iterator[Events]:
    """A streamed request that is being drawn: its first partial image was seen. Leaving hangs up."""
    body = {"prompt": "a red circle", "steps": steps, "stream": True, "partial_images": 1}
    with client.stream("POST", GENERATIONS, json=body, headers={"X-Request-Id": request_id, **headers}) as answer:
        events = _events(answer)
        assert next(events)[0] == "image_generation.partial_image"
        yield events


def _events(answer: httpx.Response) -> Events:
    event = ""
    for line in answer.iter_lines():
        key, _, value = line.partition(": ")
        if key == "event":
            event = value
        elif key == "data":
            yield event, json.loads(value)


def until(ask: Callable[[], httpx.Response], good: Callable[[httpx.Response], bool]) -> httpx.Response:
    """Ask again and again; the test's own time limit ends it."""
    while not good(answer := ask()):
        pass
    return answer


def draw(client: httpx.Client, **headers: str) -> httpx.Response:
    return client.post(GENERATIONS, json={"prompt": "a red circle", "steps": 2}, headers=headers)


def test_a_request_tells_how_far_it_is(client: httpx.Client, process: ServerProcess) -> None:
    """Its state counts steps; its result is refused as not yet over."""
    with drawing(client, "watched"), process.client() as other:
        state = other.get("/v1/requests/watched").json()
        assert (state["status"], state["images_total"], state["steps_total"]) == ("running", 1, ENDLESS)
        assert state["steps_done"] > 0
        answer = other.get("/v1/requests/watched/result")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "request_not_finished")
        assert answer.headers["x-should-retry"] == "false"
        assert other.get("/metrics").text.count("\ndiffusers_requests_running 1.0\n") == 1


def test_hanging_up_cancels(client: httpx.Client) -> None:
    """After its caller has gone, a request holds the worker no longer: the next one is drawn, and it ends cancelled."""
    with drawing(client, "left"):
        pass
    assert draw(client).status_code == 200
    assert client.get("/v1/requests/left").json()["status"] == "cancelled"
    assert client.get("/v1/requests/left/result").status_code == 499


def test_hanging_up_without_a_stream_cancels(client: httpx.Client, process: ServerProcess) -> None:
    """The same for a caller who waits for the whole answer."""
    body = {"prompt": "a red circle", "steps": ENDLESS}
    with process.client() as impatient, pytest.raises(httpx.ReadTimeout):
        impatient.post(GENERATIONS, json=body, headers={"X-Request-Id": "impatient"}, timeout=0.3)
    assert draw(client).status_code == 200
    assert client.get("/v1/requests/impatient").json()["status"] == "cancelled"


def test_cancel_by_id(client: httpx.Client, process: ServerProcess) -> None:
    """DELETE ends a request at its next step; its caller is told so, streaming or not."""
    with drawing(client, "unwanted") as events, process.client() as other:
        waiting = {"prompt": "x", "steps": ENDLESS}
        answers: list[httpx.Response] = []
        headers = {"X-Request-Id": "waiting"}
        caller = threading.Thread(target=lambda: answers.append(other.post(GENERATIONS, json=waiting, headers=headers)))
        caller.start()
        with process.client() as third:
            until(lambda: third.get("/v1/requests/waiting"), lambda answer: answer.status_code == 200)
            assert third.delete("/v1/requests/waiting").json()["status"] == "cancelling"
            caller.join()
            assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (499, "cancelled")
            third.delete("/v1/requests/unwanted")
        event, content = next(events)
        assert (event, content["error"]["code"]) == ("error", "cancelled")
        assert next(events, None) is None


def test_what_was_finished_after_its_caller_left_is_kept(client: httpx.Client) -> None:
    """With `X-On-Disconnect: finish` a request goes on alone, and its result is fetched by id."""
    with drawing(client, "later", steps=100, **{"X-On-Disconnect": "finish"}):
        pass
    answer = until(lambda: client.get("/v1/requests/later/result"), lambda answer: answer.status_code != 409)
    assert answer.status_code == 200
    assert received(answer.json()).size == (64, 64)
    state = client.get("/v1/requests/later").json()
    assert (state["status"], state["steps_done"], state["images_done"]) == ("finished", 100, 1)


def test_who_asks_again_gets_the_same_work(client: httpx.Client, process: ServerProcess) -> None:
    """With `X-If-Known: join` a second request under a live id gets its picture, and so does one later."""
    join = {"X-Request-Id": "shared", "X-If-Known": "join"}
    before = _images_drawn(client)
    with drawing(client, "shared", steps=300, **{"X-On-Disconnect": "finish"}):
        pass
    with process.client() as other:
        joined = draw(other, **join)
    again = draw(client, **join)

    assert joined.status_code == 200
    assert again.content == joined.content == client.get("/v1/requests/shared/result").content
    assert client.get("/v1/requests/shared").json()["steps_done"] == 300
    assert _images_drawn(client) == before + 1


def test_only_what_went_well_is_joined(client: httpx.Client) -> None:
    """What was cancelled is drawn anew; without a request of that id, the first one is drawn."""
    with drawing(client, "given-up"):
        pass
    until(lambda: client.get("/v1/requests/given-up"), lambda answer: answer.json()["status"] == "cancelled")
    for request_id in ("given-up", "first"):
        answer = draw(client, **{"X-Request-Id": request_id, "X-If-Known": "join"})
        assert answer.status_code == 200
        assert client.get(f"/v1/requests/{request_id}").json()["steps_done"] == 2


def _images_drawn(client: httpx.Client) -> float:
    (line,) = [line for line in client.get("/metrics").text.splitlines() if line.startswith("diffusers_images_total ")]
    return float(line.split()[1])


def test_an_answer_is_kept_until_it_is_deleted(client: httpx.Client) -> None:
    """An answered request is fetched again, byte for byte; DELETE forgets it."""
    answer = draw(client, **{"X-Request-Id": "kept"})
    assert client.get("/v1/requests/kept/result").content == answer.content
    assert client.delete("/v1/requests/kept").json()["status"] == "finished"
    for path in ("/v1/requests/kept", "/v1/requests/kept/result"):
        assert client.get(path).json()["error"]["code"] == "request_not_found"
    assert client.delete("/v1/requests/kept").status_code == 404


def test_an_id_is_used_once_at_a_time(client: httpx.Client, process: ServerProcess) -> None:
    """A second request under a live id is refused; under one that is over, it takes its place."""
    with drawing(client, "twice"), process.client() as other:
        answer = draw(other, **{"X-Request-Id": "twice"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "request_id_in_use")
        other.delete("/v1/requests/twice")
    until(lambda: client.get("/v1/requests/twice"), lambda answer: answer.json()["status"] == "cancelled")
    assert draw(client, **{"X-Request-Id": "twice"}).status_code == 200
    assert client.get("/v1/requests/twice").json()["status"] == "finished"


def test_a_cancelled_id_is_free_at_once(client: httpx.Client, process: ServerProcess) -> None:
    """Who cancels may send again under the same id: the new request waits for the end of the old one."""
    with drawing(client, "again"), process.client() as other:
        assert other.delete("/v1/requests/again").json()["status"] == "cancelling"
        assert draw(other, **{"X-Request-Id": "again"}).status_code == 200


def test_priority_goes_first(client: httpx.Client, process: ServerProcess) -> None:
    """A request with a higher X-Priority is drawn while a lower one waits."""
    with drawing(client, "low", **{"X-Priority": "10"}), process.client() as other:
        assert draw(other, **{"X-Priority": "90"}).status_code == 200
        assert other.get("/v1/requests/low").json()["status"] == "running"


def test_more_than_may_wait_are_refused(client: httpx.Client, process: ServerProcess) -> None:
    """Above the limit an answer says to try again; the rest is unharmed."""
    with drawing(client, "first"), process.client() as other:
        answer = other.post(GENERATIONS, json={"prompt": "x", "n": 4})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_full")
        assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("X-Priority", "101"),
        ("X-Priority", "-1"),
        ("X-Priority", "high"),
        ("X-Request-Id", "a/b"),
        ("X-Request-Id", "x" * 200),
        ("X-On-Disconnect", "maybe"),
        ("X-If-Known", "maybe"),
    ],
)
def test_headers_are_checked(client: httpx.Client, header: str, text: str) -> None:
    """A header that cannot be used is named."""
    answer = draw(client, **{header: text})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, header)


def test_asleep_requests_wait(client: httpx.Client, process: ServerProcess) -> None:
    """A sleeping engine is healthy, takes requests, and draws them once it is awake."""
    assert client.post("/sleep").status_code == 200
    assert client.get("/health").json() == {"status": "asleep"}
    assert client.get("/is_sleeping").json() == {"is_sleeping": True}
    answers: list[httpx.Response] = []
    caller = threading.Thread(target=lambda: answers.append(draw(client, **{"X-Request-Id": "sleepy"})))
    caller.start()
    with process.client() as other:
        until(lambda: other.get("/v1/requests/sleepy"), lambda answer: answer.status_code == 200)
        assert other.get("/v1/requests/sleepy").json()["status"] == "waiting"
        assert other.post("/wake_up").status_code == 200
        caller.join()
        assert other.get("/health").json() == {"status": "ready"}
    assert answers[0].status_code == 200


def test_sigterm_lets_running_requests_finish(tmp_path: Path) -> None:
    """What runs is finished, what comes is refused as retryable, and the process ends with 0, its socket gone."""
    with server(PAINTER, tmp_path, model_path=tmp_path, max_steps=ENDLESS) as process:
        process.wait_until_ready()
        with process.client() as client, process.client() as other, drawing(client, "last", steps=600) as events:
            process.terminate()
            answer = until(lambda: draw(other), lambda answer: answer.status_code == 503)
            assert answer.json()["error"]["code"] == "engine_closing"
            assert int(answer.headers["retry-after"]) > 0
            assert other.get("/health").status_code == 503
            assert next(events)[0] == "image_generation.completed"
        assert process.wait() == 0
    assert list(tmp_path.iterdir()) == []


def test_after_the_grace_requests_are_broken_off(tmp_path: Path) -> None:
    """What does not end within the grace is told that the engine closes, and may be sent elsewhere."""
    with server(PAINTER, tmp_path, "--grace-seconds", "0.2", model_path=tmp_path, max_steps=ENDLESS) as process:
        with process.wait_until_ready().client() as client, drawing(client, "last") as events:
            process.terminate()
            event, content = next(events)
            assert (event, content["error"]["code"]) == ("error", "engine_closing")
        assert process.wait() == 0


def test_asleep_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    """What waits for a sleeping engine is told at once that it closes."""
    with server(PAINTER, tmp_path, "--grace-seconds", "1000", model_path=tmp_path) as process:
        with process.wait_until_ready().client() as client, process.client() as other:
            assert client.post("/sleep").status_code == 200
            answers: list[httpx.Response] = []
            caller = threading.Thread(target=lambda: answers.append(draw(client, **{"X-Request-Id": "sleepy"})))
            caller.start()
            until(lambda: other.get("/v1/requests/sleepy"), lambda answer: answer.status_code == 200)
            process.terminate()
            caller.join()
        assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "engine_closing")
        assert process.wait() == 0


def test_a_second_signal_ends_the_grace(tmp_path: Path) -> None:
    """Who signals twice does not wait."""
    with server(PAINTER, tmp_path, "--grace-seconds", "1000", model_path=tmp_path, max_steps=ENDLESS) as process:
        with process.wait_until_ready().client() as client, drawing(client, "last") as events:
            process.terminate()
            with process.client() as other:
                until(lambda: other.get("/health"), lambda answer: answer.status_code == 503)
            process.terminate()
            assert next(events)[0] == "error"
        assert process.wait() == 0
