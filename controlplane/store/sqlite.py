"""A store in a SQLite file: its connections, their settings, the lock beside it, and copies of it.

WAL mode, every commit on disk before it returns.
"""

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import Self

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from controlplane.errors import StoreFailure
from controlplane.store.errors import mapped
from controlplane.store.lock import StoreLock
from controlplane.store.migration import upgrade

# Only foreign tools (a shell, a copy) can make us wait: this process has one writer.
_BUSY_SECONDS = 5.0


class SqliteDatabase:
    """Two engines over one file: `writing` for the single writer, `reading` for everybody else."""

    def __init__(self, path: Path, lock: StoreLock) -> None:
        self._lock = lock
        self.writing = _engine(path, "BEGIN IMMEDIATE", connections=1)
        self.reading = _engine(path, "BEGIN", connections=2)

    @classmethod
    async def open(cls, path: Path, holder: str, at: float, wait_seconds: float) -> Self:
        """Lock the file, create or upgrade it. Raises StoreHeld, and StoreFailure when it is not ours to use."""
        lock = await StoreLock.take(path.with_name(path.name + ".lock"), holder, at, wait_seconds)
        try:
            return await asyncio.to_thread(cls._upgraded, path, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _upgraded(cls, path: Path, lock: StoreLock) -> Self:
        database = cls(path, lock)
        try:
            with mapped(f"open the store {path}"):
                upgrade(database.writing, str(path))
        except BaseException:
            database.disconnect()
            raise
        return database

    def close(self) -> None:
        self.disconnect()
        self._lock.release()

    def disconnect(self) -> None:
        self.reading.dispose()
        self.writing.dispose()

    def checkpoint(self) -> None:
        """Fold the log into the file. Not in a transaction, so only between two of the writer's."""
        with mapped("checkpoint the store"):
            connection = self.writing.raw_connection()
            try:
                _driver(connection.driver_connection).execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
            except sqlite3.Error as exc:
                raise StoreFailure(f"cannot checkpoint the store: {exc}") from exc
            finally:
                connection.close()

    def backup(self, target: Path) -> None:
        """Copy one consistent state to `target`; a copy cut short leaves nothing under that name."""
        if target.exists():
            raise StoreFailure(f"cannot back up to {target}: it exists; name a new file")
        partial = target.with_name(target.name + ".partial")
        try:
            self._copy(partial)
            _sync(partial)
            # link, not rename: rename would replace a target that appeared meanwhile.
            os.link(partial, target)
        except (OSError, sqlite3.Error) as exc:
            raise StoreFailure(f"cannot back up to {target}: {exc}") from exc
        finally:
            partial.unlink(missing_ok=True)

    def _copy(self, target: Path) -> None:
        target.unlink(missing_ok=True)
        connection = self.reading.raw_connection()
        copy = sqlite3.connect(target)
        try:
            _driver(connection.driver_connection).backup(copy)
            # One file that can be moved about: without this the copy would open in WAL mode.
            copy.execute("PRAGMA journal_mode=DELETE").close()
        finally:
            copy.close()
            connection.close()


def _engine(path: Path, begin: str, connections: int) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        pool_size=connections,
        max_overflow=0,
        # What callers sent must not turn up in tracebacks.
        hide_parameters=True,
        connect_args={"timeout": _BUSY_SECONDS, "isolation_level": None, "check_same_thread": False},
    )

    def configure(driver: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        cursor = driver.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", configure)
    # The driver would begin late and only before writes; the store wants its reads in one snapshot too.
    event.listen(engine, "begin", begin_transaction)
    return engine


def _driver(connection: object) -> sqlite3.Connection:
    assert isinstance(connection, sqlite3.Connection)
    return connection


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
