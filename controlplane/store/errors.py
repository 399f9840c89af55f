"""The store's own failures, and the one place where the database's errors become ours."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, ProgrammingError, SQLAlchemyError, StatementError

from controlplane.errors import StoreFailure


class StaleWrite(StoreFailure):
    """A row was not at the generation the writer expected; nothing of its commit took effect."""


class RowRefused(StoreFailure):
    """The database is well but will never take this row; trying again cannot help."""


_REFUSALS = (IntegrityError, DataError, ProgrammingError, InterfaceError)


@contextmanager
def mapped(action: str) -> Iterator[None]:
    """Turn the database's errors into RowRefused or StoreFailure, worded "cannot <action>: …"."""
    try:
        yield
    except _REFUSALS as exc:
        raise RowRefused(f"cannot {action}: {exc.orig}") from exc
    except SQLAlchemyError as exc:
        reason = exc.orig if isinstance(exc, StatementError) and exc.orig is not None else exc
        raise StoreFailure(f"cannot {action}: {reason}") from exc
    except (UnicodeEncodeError, OverflowError) as exc:
        raise RowRefused(f"cannot {action}: {exc}") from exc
