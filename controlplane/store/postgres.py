"""A store in a PostgreSQL database of its own: its connections, their settings, and the lock on it.

The lock is an advisory one that the writer's own connection holds: who has lost it has lost the means to write.
"""

import contextlib
import json
import time
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from controlplane.errors import ConfigError, StoreFailure, StoreHeld
from controlplane.store.errors import RowRefused, Unavailable, mapped
from controlplane.store.migration import upgrade

_LOCK = (0x494D, 0x53544F52)
_LOOK_AGAIN_SECONDS = 0.1
_LONGEST_NAME = 63
_SERVER_SETTINGS = {
    # Whatever the server's own default: a commit that returned is on disk.
    "synchronous_commit": "on",
    # Foreign sessions that hold a table must not hold us for ever.
    "lock_timeout": "5s",
    # A host that died silently gives the lock back within a minute.
    "tcp_keepalives_idle": "20",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_TRY_LOCK = "SELECT pg_try_advisory_lock(%s, %s)"
_UNLOCK = "SELECT pg_advisory_unlock(%s, %s)"
_HOLDER = """
SELECT activity.application_name, coalesce(host(activity.client_addr), 'this machine'), activity.backend_start
FROM pg_locks AS held JOIN pg_stat_activity AS activity USING (pid)
WHERE held.locktype = 'advisory' AND held.granted AND held.classid = %s AND held.objid = %s AND held.objsubid = 2
AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class _Taken(Unavailable):
    """Another session holds the lock; the message names it."""


class PostgresDatabase:
    """`writing` is one connection, which holds the lock; a new one takes it again before anything is written."""

    def __init__(self, url: str, holder: str) -> None:
        self._place = shown(url)
        self.writing = _engine(url, holder, connections=1, isolation_level="READ COMMITTED")
        self.reading = _engine(url, f"{holder}, reading", connections=2, isolation_level="REPEATABLE READ")
        event.listen(self.writing, "connect", self._take_lock)

    @classmethod
    def open(cls, url: str, holder: str, wait_seconds: float) -> Self:
        """Create or upgrade the schema. Raises StoreHeld, and StoreFailure when it is not ours to use."""
        database = cls(url, holder)
        try:
            with mapped(f"open the store {database._place}"):
                database._wait_for_lock(wait_seconds)
                upgrade(database.writing, database._place)
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        self.reading.dispose()
        # The server notices a closed connection in its own time; the next one may be waiting.
        with contextlib.suppress(StoreFailure, SQLAlchemyError), self.writing.connect() as connection:
            connection.exec_driver_sql(_UNLOCK, _LOCK)
        self.writing.dispose()

    def checkpoint(self) -> None:
        """The server does so by itself."""

    def backup(self, target: Path) -> None:
        raise StoreFailure(f"cannot back up to {target}: the store is {self._place}; use pg_dump, which takes it whole")

    def _wait_for_lock(self, wait_seconds: float) -> None:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                self.writing.connect().close()
            except _Taken as exc:
                # The server could wait for us, but not for a limited time and with the holder's name at the end.
                if time.monotonic() >= deadline:
                    raise StoreHeld(f"{exc}; stop that control plane, or give this one a store of its own") from exc
                time.sleep(_LOOK_AGAIN_SECONDS)
            else:
                return

    def _take_lock(self, driver: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        cursor = driver.cursor()
        try:
            cursor.execute(_TRY_LOCK, _LOCK)
            if cursor.fetchone() != (True,):
                cursor.execute(_HOLDER, _LOCK)
                raise _Taken(f"cannot open the store {self._place}: held by {_holder(cursor.fetchone())}")
            driver.commit()
        finally:
            cursor.close()


def shown(url: str) -> str:
    """The address without its password. Raises ConfigError when it is none."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError as exc:
        raise ConfigError("store.url is no address; write postgresql://user@host/database") from exc


def _holder(row: Any) -> str:
    # The holder may have gone between the two questions.
    return (
        "another session, just gone" if row is None else f"{row[0]} (on {row[1]}, since {row[2]:%Y-%m-%dT%H:%M:%S%z})"
    )


def _json(value: object) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as exc:
        # Raised within the driver, where nobody else would map it.
        raise RowRefused(f"cannot commit to the store: {exc}") from exc


def _engine(url: str, name: str, connections: int, isolation_level: str) -> Engine:
    try:
        return create_engine(
            make_url(url).set(drivername="postgresql+psycopg"),
            pool_size=connections,
            max_overflow=0,
            # A server that was restarted is met with new connections, not with errors.
            pool_pre_ping=True,
            isolation_level=isolation_level,
            # Rows of the journal go to the driver as plain tuples.
            paramstyle="format",
            json_serializer=_json,
            # What callers sent must not turn up in tracebacks.
            hide_parameters=True,
            connect_args={
                "application_name": name[:_LONGEST_NAME],
                "connect_timeout": 5,
                "options": " ".join(f"-c {key}={value}" for key, value in _SERVER_SETTINGS.items()),
            },
        )
    except ModuleNotFoundError as exc:
        raise ConfigError("a store on PostgreSQL needs psycopg: pip install 'inference-manager[postgres]'") from exc
