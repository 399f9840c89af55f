"""Brings a database to this version's schema, or says why it may not.

The steps themselves are in migrations/versions.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect

from controlplane.errors import StoreFailure

SCRIPTS = Path(__file__).parent / "migrations"


def upgrade(engine: Engine, place: str) -> None:
    """Run the steps that are missing, all in one transaction: a cut leaves the old schema whole."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    with engine.begin() as connection:
        if not _needs_upgrade(connection, ScriptDirectory.from_config(config), place):
            return
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _needs_upgrade(connection: Connection, scripts: ScriptDirectory, place: str) -> bool:
    current = MigrationContext.configure(connection).get_current_revision()
    if current is None and inspect(connection).get_table_names():
        raise StoreFailure(f"cannot open the store {place}: it is another program's database; name another one")
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise StoreFailure(
            f"cannot open the store {place}: its schema {current} is newer than this version's "
            f"{scripts.get_current_head()}; install the version that wrote it, or restore an older backup"
        )
    return current != scripts.get_current_head()
