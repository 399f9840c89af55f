"""What only a server can do to a store: be restarted, lose our connection, or be wrongly named."""

from pathlib import Path

import pytest
from store_rows import ManualClock, create, engine_of, replica

from controlplane.errors import ConfigError, StoreFailure, StoreHeld
from controlplane.store.errors import Unavailable
from controlplane.store.records import ReplicaChange
from controlplane.store.store import Store
from tests.fakes.postgres_server import Server

_END_ALL = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def _end_connections(url: str) -> None:
    engine = engine_of(url)
    with engine.connect() as connection:
        connection.exec_driver_sql(_END_ALL)
    engine.dispose()


async def test_lost_connections_are_made_anew(server: Server, clock: ManualClock) -> None:
    """After the server has ended them all, reads and writes go on, and the store is held again."""
    with server.database() as url:
        store = await Store.open(url, holder="the first", clock=clock)
        await store.commit_replicas([create(replica())])
        _end_connections(url)
        await store.commit_replicas([ReplicaChange(replica(generation=2), 1)])
        assert [row.generation for row in await store.replicas()] == [2]
        with pytest.raises(StoreHeld, match="held by the first"):
            await Store.open(url, holder="the second", clock=clock)
        await store.close()


async def test_who_lost_the_store_cannot_write_to_it(server: Server, clock: ManualClock) -> None:
    """With its connection went its lock: when another one has taken the store, each write is refused by name."""
    with server.database() as url:
        first = await Store.open(url, holder="the first", clock=clock)
        await first.commit_replicas([create(replica())])
        _end_connections(url)
        second = await Store.open(url, holder="the second", clock=clock)
        with pytest.raises(Unavailable, match="held by the second"):
            await first.commit_replicas([ReplicaChange(replica(generation=2), 1)])
        assert not first.healthy
        assert [row.generation for row in await second.replicas()] == [1]
        await second.close()
        await first.commit_replicas([ReplicaChange(replica(generation=2), 1)])
        assert first.healthy
        await first.close()


async def test_a_server_that_is_not_there_is_a_failure(tmp_path: Path, clock: ManualClock) -> None:
    """The message names the store, without its password."""
    url = f"postgresql://me:secret@/db?host={tmp_path}"
    with pytest.raises(StoreFailure, match="cannot open the store postgresql://me") as failed:
        await Store.open(url, holder="me", clock=clock)
    assert "secret" not in str(failed.value)


async def test_what_is_no_address_is_a_mistake(clock: ManualClock) -> None:
    """Told in the words of the configuration."""
    with pytest.raises(ConfigError, match=r"store\.url is no address"):
        await Store.open("somewhere", holder="me", clock=clock)
