"""The diffusers engine's server in a process of its own, for tests: started, ready, spoken to, stopped, and gone."""

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
PAINTER = ("-m", "tests.engines.painter")
REAL = ("-P", str(ROOT / "engines" / "run.py"), "diffusers")


class ServerProcess:
    """One run of the server. `log` grows until it ends; `address` is known once it is ready."""

    def __init__(self, program: tuple[str, ...], arguments: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.log: list[str] = []
        self.address = ""
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._note(line.rstrip())
        self._process.stdout.close()
        self._note(None)

    def _note(self, line: str | None) -> None:
        with self._changed:
            if line is None:
                self._ended = True
            else:
                self.log.append(line)
                if found := re.search(r"Serving on (unix:|http:)(\S+)$", line):
                    self.address = found[2] if found[1] == "unix:" else f"http:{found[2]}"
            self._changed.notify_all()

    def wait_for(self, text: str) -> None:
        """Until the log has this text; fails when the process ends before."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or any(text in line for line in self.log), 60)
            assert any(text in line for line in self.log), "\n".join(self.log)

    def wait_until_ready(self) -> "ServerProcess":
        self.wait_for("Serving on ")
        return self

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit status, with the whole log read."""
        status = self._process.wait(60)
        self._reader.join(60)
        return status

    def mapped_files(self) -> list[str]:
        return Path(f"/proc/{self._process.pid}/maps").read_text().splitlines()

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.wait()

    def client(self) -> httpx.Client:
        if self.address.startswith("http:"):
            return httpx.Client(base_url=self.address, timeout=60)
        return httpx.Client(base_url="http://engine", transport=httpx.HTTPTransport(uds=self.address), timeout=60)


@contextmanager
def server(
    program: tuple[str, ...], folder: Path, *arguments: str, model_path: Path | None = None, **options: Any
) -> Iterator[ServerProcess]:
    """A server on a unix socket in `folder`, unless the arguments name a port; killed at the end at the latest."""
    listen = [] if "--port" in arguments else ["--uds", str(folder / "engine.sock")]
    path = [] if model_path is None else ["--model-path", str(model_path)]
    process = ServerProcess(
        program, [*listen, *path, "--model", "pictures", "tiny", "--options", json.dumps(options), *arguments]
    )
    try:
        yield process
    finally:
        process.end()
