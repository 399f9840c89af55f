"""A few threads for what takes long with pictures: decoding, encoding, operations. The event loop only waits."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_MOST = 4  # each may hold a decoded picture of hundreds of MiB

P = ParamSpec("P")
T = TypeVar("T")


class PictureThreads:
    """Work waits for a free thread in the order in which it came."""

    def __init__(self, most: int = _MOST, name: str = "pictures") -> None:
        self._pool = ThreadPoolExecutor(min(most, os.cpu_count() or 1), thread_name_prefix=name)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: work(*args, **kwargs))

    def close(self) -> None:
        """Waits for what runs; what waits is dropped."""
        self._pool.shutdown(cancel_futures=True)
