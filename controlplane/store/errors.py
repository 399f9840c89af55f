"""The store's own failures, and the one place where the database's errors become ours.

StoreFailure
├── Unavailable     the disk or the database cannot commit now; it may recover by itself
├── RowRefused      the database is well but will never take this row
├── StaleWrite      a row was not at the generation that the writer expected
└── KeyReused       an idempotency key came again with other work
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    ProgrammingError,
    SQLAlchemyError,
    StatementError,
)

from controlplane.errors import StoreFailure


class Unavailable(StoreFailure):
    """The disk is full, the database locked or damaged: nothing was committed, later it may be."""


class RowRefused(StoreFailure):
    """The database will never take this row; trying again cannot help."""


class StaleWrite(StoreFailure):
    """A row was not at the generation the writer expected; nothing of its commit took effect."""


class KeyReused(StoreFailure):
    """The idempotency key names other work than this; nothing was accepted."""


_REFUSALS = (IntegrityError, DataError, ProgrammingError, InterfaceError)


@contextmanager
def mapped(action: str) -> Iterator[None]:
    """Turn the database's errors into RowRefused or Unavailable, worded "cannot <action>: …"."""
    try:
        yield
    except _REFUSALS as exc:
        raise RowRefused(f"cannot {action}: {exc.orig}") from exc
    except DBAPIError as exc:
        raise Unavailable(f"cannot {action}: {exc.orig}") from exc
    except (StatementError, UnicodeEncodeError, OverflowError) as exc:
        raise RowRefused(f"cannot {action}: {exc}") from exc
    except SQLAlchemyError as exc:
        raise Unavailable(f"cannot {action}: {exc}") from exc
