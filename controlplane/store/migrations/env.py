"""Alembic's entry: runs the steps on the connection that migration.py put into the config."""

from alembic import context

from controlplane.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can roll a schema change back; Alembic assumes it cannot.
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
