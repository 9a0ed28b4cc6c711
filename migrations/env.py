"""What Alembic runs for every command: the migrations, on the connection that migrations/schema.py hands over."""

from __future__ import annotations

from alembic import context

from jobs import tables

# Batch mode: SQLite alters a table by making a new one. One transaction around the whole way: all of an upgrade or nothing.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    render_as_batch=True,
    transaction_per_migration=False,
)
context.run_migrations()
