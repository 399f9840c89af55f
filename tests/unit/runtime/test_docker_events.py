"""The events' thread: it says "look again" after events, gaps and silence, and lets go at once when it is closed."""

import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from queue import Queue

import pytest

from controlplane.runtime.docker_engine import DockerEngine
from controlplane.runtime.docker_events import DockerEvents

PATIENCE_SECONDS = 20.0


class Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers as a Docker engine does, as far as events need it; `let_go` ends a connection of theirs."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.listeners: Queue[Answer] = Queue()
        self.let_go = threading.Semaphore(0)
        super().__init__(str(path), Answer)
        self.address = f"unix://{path}"


class Answer(BaseHTTPRequestHandler):
    server: Engine
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        events = "/events" in self.path
        body = b"" if events else b'{"ApiVersion": "1.41"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if events:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        if events:
            self.server.listeners.put(self)
            self.server.let_go.acquire()
            self.close_connection = True

    def say(self) -> None:
        """One event."""
        event = b'{"Action": "die"}\n'
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.flush()

    def address_string(self) -> str:
        return "a test"

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "e.sock") as made:
        serving = threading.Thread(target=made.serve_forever)
        serving.start()
        yield made
        made.let_go.release(100)
        made.shutdown()
        serving.join()


@pytest.fixture
def looks() -> "Queue[None]":
    return Queue()


@pytest.fixture
def listen(engine: Engine, looks: "Queue[None]") -> Iterator[Callable[[float], DockerEvents]]:
    made: list[DockerEvents] = []

    def start(quiet_seconds: float) -> DockerEvents:
        client = DockerEngine(engine.address)
        made.append(DockerEvents(client, "store", lambda: looks.put(None), quiet_seconds))
        made[-1].start()
        return made[-1]

    yield start
    for each in made:
        each.close()


Listen = Callable[[float], DockerEvents]


def test_every_event_is_a_reason_to_look(engine: Engine, looks: "Queue[None]", listen: Listen) -> None:
    """Once when it begins, for what ended before; then once for each event."""
    listen(60)
    answer = engine.listeners.get(timeout=PATIENCE_SECONDS)
    looks.get(timeout=PATIENCE_SECONDS)
    for _ in range(3):
        answer.say()
        looks.get(timeout=PATIENCE_SECONDS)
    assert looks.empty()


def test_a_gap_is_a_reason_to_look(engine: Engine, looks: "Queue[None]", listen: Listen) -> None:
    """The engine hangs up: it connects anew, and looks, for nobody told what ended in between."""
    listen(60)
    engine.listeners.get(timeout=PATIENCE_SECONDS)
    looks.get(timeout=PATIENCE_SECONDS)
    engine.let_go.release()
    engine.listeners.get(timeout=PATIENCE_SECONDS)
    looks.get(timeout=PATIENCE_SECONDS)


def test_silence_is_a_reason_to_look(engine: Engine, looks: "Queue[None]", listen: Listen) -> None:
    """A connection that is dead without anybody having said so is given up after a while."""
    listen(0.1)
    for _ in range(2):
        engine.listeners.get(timeout=PATIENCE_SECONDS)
        looks.get(timeout=PATIENCE_SECONDS)


def test_closing_wakes_it_from_its_read(engine: Engine, listen: Listen) -> None:
    """It does not wait for the next event, which may never come: the thread is gone when close returns."""
    events = listen(600)
    engine.listeners.get(timeout=PATIENCE_SECONDS)
    events.close()
    names = [thread.name for thread in threading.enumerate()]
    assert "docker-events" not in names
