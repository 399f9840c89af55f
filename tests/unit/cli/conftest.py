"""A configuration in the test's folder, and a real server that answers like the admin API."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from inferctl_process import write_config


@dataclass
class AdminApi:
    """Answers by method and path; notes every request as it came."""

    url: str = ""
    answers: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)

    def says(self, method: str, path: str, payload: Any, status: int = 200) -> None:
        self.answers[method, path] = (status, payload)

    def refuses(self, method: str, path: str, status: int, message: str) -> None:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        self.says(method, path, {"error": error}, status)


@pytest.fixture
def admin_api() -> Iterator[AdminApi]:
    """A real HTTP server on a free loopback port."""
    api = AdminApi()

    class Exchange(BaseHTTPRequestHandler):
        def answer(self) -> None:
            api.seen.append((self.command, self.path, self.headers.get("authorization")))
            status, payload = api.answers.get((self.command, self.path.partition("?")[0]), (404, "nothing here"))
            body = payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Exchange) as server:
        api.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield api
        server.shutdown()
        thread.join()


@pytest.fixture
def service_file(tmp_path: Path) -> Path:
    """A configuration for a host of 1000 MiB with one simulated model; caches and state lie in the test's folder."""
    return write_config(tmp_path, {"model_id": "sim", "vram_required_mb": 400})
