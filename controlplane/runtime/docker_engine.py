"""The Docker Engine behind one seam: SDK calls in threads, SDK errors as RuntimeFailure, one place for both.

Knows nothing of replicas. The SDK is synchronous; each thread has a client of its own, for they share no session.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import TypeVar

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from urllib3.exceptions import HTTPError

from controlplane.errors import RuntimeFailure

T = TypeVar("T")
_THREADS = 8
_TIMEOUT_SECONDS = 60
_ADVICE = {
    "could not select device driver": (
        "install nvidia-container-toolkit and restart the engine; `inferctl doctor` says what else is missing"
    ),
    "is already in use by container": "somebody else's container holds it; see `docker ps --all`",
}


class ContainerMissing(RuntimeFailure):
    """The container that a call was about is gone."""


class ContainerBusy(RuntimeFailure):
    """The container, or its name, is in a state that does not allow what was asked."""


class ImageMissing(RuntimeFailure):
    """An image is neither here nor to be had."""


class DockerEngine:
    """One engine at `address`, such as unix:///var/run/docker.sock; never taken from the surroundings."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._local = threading.local()
        self._clients: list[docker.DockerClient] = []

    async def call(self, what: Callable[[docker.DockerClient], T]) -> T:
        """Run `what` in a thread. Raises RuntimeFailure, or its kinds above."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._call, what)

    async def call_apart(self, what: Callable[[docker.DockerClient], T]) -> T:
        """As `call`, in a thread and with a client of its own: for what may last long, or hang.

        Cancelled, the thread is left to end by itself; it keeps nobody from ending the program.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                with mapped(), closing(self.open()) as client:
                    result = what(client)
            except RuntimeFailure as exc:
                tell(loop, _settle, answer, partial(answer.set_exception, exc))
            else:
                tell(loop, _settle, answer, partial(answer.set_result, result))

        threading.Thread(target=run, name="docker-apart", daemon=True).start()
        return await answer

    def open(self) -> docker.DockerClient:
        """A client of the caller's own, for what reads for as long as it lives. Raises RuntimeFailure."""
        with mapped():
            return docker.DockerClient(base_url=self._address, version="auto", timeout=_TIMEOUT_SECONDS)

    async def close(self) -> None:
        """Wait for the calls under way, then let go of every connection."""
        await asyncio.to_thread(self._pool.shutdown)
        for client in self._clients:
            client.close()

    def _call(self, what: Callable[[docker.DockerClient], T]) -> T:
        with mapped():
            client = getattr(self._local, "client", None)
            if client is None:
                client = self._local.client = self.open()
                self._clients.append(client)
            return what(client)


def _settle(answer: "asyncio.Future[T]", how: Callable[[], None]) -> None:
    if not answer.done():
        how()


def tell(loop: asyncio.AbstractEventLoop, what: Callable[..., None], *arguments: object) -> None:
    """Call `what` in the loop, from a thread that may outlive it."""
    with suppress(RuntimeError):  # the loop is closed: nobody is left to hear
        loop.call_soon_threadsafe(what, *arguments)


@contextmanager
def mapped() -> Iterator[None]:
    """The SDK's exceptions, by what can be done about them."""
    try:
        yield
    except ImageNotFound as exc:
        raise ImageMissing(_said(exc)) from exc
    except NotFound as exc:
        raise ContainerMissing(_said(exc)) from exc
    except APIError as exc:
        raise (ContainerBusy if exc.status_code == HTTPStatus.CONFLICT else RuntimeFailure)(_said(exc)) from exc
    except (DockerException, requests.exceptions.RequestException, HTTPError, OSError) as exc:
        raise RuntimeFailure(
            f"the Docker engine does not answer: {exc}; see that it runs and that this user may use it"
        ) from exc


def _said(exc: APIError) -> str:
    said = str(exc.explanation or exc).strip()
    return next((f"{said}; {advice}" for words, advice in _ADVICE.items() if words in said), said)
