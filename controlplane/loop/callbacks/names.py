"""Looks names up in threads of its own: a name server that hangs holds up neither the process nor its end."""

import asyncio
import socket
from collections.abc import Sequence
from threading import Thread


class NameLookups:
    """A `Resolve`. At most `limit` names are being looked up; who comes on top of that is told to come again."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._under_way = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        if self._under_way >= self._limit:
            raise OSError(f"{self._under_way} names are being looked up already")
        self._under_way += 1
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Sequence[str]] = loop.create_future()

        def settle(addresses: Sequence[str] | OSError) -> None:
            self._under_way -= 1
            if found.done():
                return
            if isinstance(addresses, OSError):
                found.set_exception(addresses)
            else:
                found.set_result(addresses)

        def look_up() -> None:
            answer = _addresses(host, port)
            # The loop may have ended before a slow name server answered; then nobody is left to be told.
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, answer)

        # The system's look-up cannot be cancelled: only a daemon thread lets the process go meanwhile.
        Thread(target=look_up, name=f"look-up {host}", daemon=True).start()
        return await found


def _addresses(host: str, port: int) -> Sequence[str] | OSError:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        return exc
    except UnicodeError as exc:
        return OSError(str(exc))
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))
