"""The database under the store, whichever it is: what the store needs of it, and which one a place names.

The modules with the SQL do not know which database they speak to; what is particular to one lives in its own module.
"""

import asyncio
from pathlib import Path
from typing import Protocol

from sqlalchemy import Engine

from controlplane.store.postgres import PostgresDatabase
from controlplane.store.sqlite import SqliteDatabase

Place = Path | str
"""A SQLite file, or the postgresql:// address of a database of our own."""


class Database(Protocol):
    """Two engines: `writing` for the single writer, `reading` for everybody else. Ours alone until `close`."""

    @property
    def writing(self) -> Engine: ...

    @property
    def reading(self) -> Engine: ...

    def close(self) -> None:
        """Let go of the connections, and of the right to be the only one here."""
        ...

    def checkpoint(self) -> None:
        """Bring the file up to date with its log, where there are such. Only between two transactions of the writer."""
        ...

    def backup(self, target: Path) -> None:
        """Copy one consistent state to a new file. Raises StoreFailure."""
        ...


async def opened(place: Place, holder: str, at: float, wait_seconds: float) -> Database:
    """Take the database for `holder` and bring its schema up to date.

    Raises StoreHeld naming the other holder once `wait_seconds` have passed, and StoreFailure when it is not ours.
    """
    if isinstance(place, Path):
        return await SqliteDatabase.open(place, holder, at, wait_seconds)
    return await asyncio.to_thread(PostgresDatabase.open, place, holder, wait_seconds)
