"""Listens to the Docker engine's events and says "look again"; what is true is for inspection to tell.

One thread, which reads for as long as it lives and comes back after the engine was away.
"""

import contextlib
import json
import threading
from collections.abc import Callable

import docker
import requests
import structlog
from urllib3.exceptions import ReadTimeoutError

from controlplane.errors import RuntimeFailure
from controlplane.runtime.docker_engine import DockerEngine, mapped
from controlplane.runtime.docker_label import MANAGED, STORE

_log = structlog.get_logger(__name__)
_AGAIN_AFTER_SECONDS = 1.0
_TIMEOUT_SECONDS = 60
# A connection that died without a word looks like one on which nothing happens.
_QUIET_SECONDS = 60.0
_ENDINGS = ("die", "oom", "destroy")


class DockerEvents:
    """`look_again` is called from the thread, at every ending of a container of ours and after every gap.

    After `quiet_seconds` without any it connects anew, which is a gap.
    """

    def __init__(
        self,
        engine: DockerEngine,
        store_id: str,
        look_again: Callable[[], None],
        quiet_seconds: float = _QUIET_SECONDS,
    ) -> None:
        self._engine = engine
        self._filters = {
            "type": ["container"],
            "event": list(_ENDINGS),
            "label": [f"{MANAGED}=1", f"{STORE}={store_id}"],
        }
        self._look_again = look_again
        self._quiet_seconds = quiet_seconds
        self._closed = threading.Event()
        self._response: requests.Response | None = None
        self._thread = threading.Thread(target=self._run, name="docker-events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Blocks until the thread has let go of its connection."""
        self._closed.set()
        response = self._response
        if response is not None:
            response.raw.shutdown()  # wakes the thread from its read
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        said = ""
        while not self._closed.is_set():
            try:
                self._listen()
                said = ""
            except RuntimeFailure as exc:
                if not self._closed.is_set() and str(exc) != said:  # an engine that is away is away for long
                    said = str(exc)
                    _log.warning("docker.events_lost", reason=said)
            self._closed.wait(_AGAIN_AFTER_SECONDS)

    def _listen(self) -> None:
        with mapped(), contextlib.closing(self._engine.open()) as client, self._ask(client) as response:
            self._response = response
            try:
                if self._closed.is_set():
                    return
                self._look_again()  # whatever ended before we listened
                for _ in response.iter_lines():
                    self._look_again()
            except requests.exceptions.ConnectionError as exc:
                if not isinstance(exc.args[0], ReadTimeoutError):
                    raise
            finally:
                self._response = None

    def _ask(self, client: docker.DockerClient) -> requests.Response:
        """Not the SDK's own stream, which another thread cannot close without losing its socket."""
        response = client.api.get(
            f"{client.api.base_url}/events",
            params={"filters": json.dumps(self._filters)},
            stream=True,
            timeout=(_TIMEOUT_SECONDS, self._quiet_seconds),
        )
        response.raise_for_status()
        return response
