"""The private network of engines that listen on TCP: made when it is missing, and left to whoever has one already."""

import asyncio
import contextlib

from controlplane.runtime.docker_container import DockerSettings
from controlplane.runtime.docker_engine import ContainerBusy, DockerEngine
from controlplane.runtime.docker_label import MANAGED, STORE

# Every engine has these, and lets nobody make them.
_PREDEFINED = frozenset({"bridge", "host", "none"})


class PrivateNetwork:
    """`settings.network`. Without a way out where engines need no published ports, for those need one."""

    def __init__(self, settings: DockerSettings, engine: DockerEngine) -> None:
        self._settings = settings
        self._engine = engine
        self._one_at_a_time = asyncio.Lock()  # engines refuse a second one of a name, older ones not at the same moment

    async def ensure(self) -> None:
        """Raises RuntimeFailure."""
        name = self._settings.network
        if name in _PREDEFINED:
            return
        labels = {MANAGED: "1", STORE: self._settings.store_id}
        async with self._one_at_a_time:
            with contextlib.suppress(ContainerBusy):  # its name is taken: it is there
                await self._engine.call(
                    lambda client: client.api.create_network(
                        name, "bridge", check_duplicate=True, internal=self._settings.on_network, labels=labels
                    )
                )
