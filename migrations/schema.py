"""Bringing the schema up to date, under a lock: Alembic, configured in code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from jobs.database import reading

POSTGRES_LOCK = 7_462_368_732  # any number, the same in every process


def head() -> str:
    """The revision that this code wants."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise LookupError("there are no migrations")
    return revision


def current(engine: sa.Engine) -> str | None:
    """The revision that the database has; None when it has no schema yet."""
    with reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(engine: sa.Engine, revision: str = "head") -> str | None:
    """Migrates in one transaction, which holds the lock: whoever comes second waits, and finds nothing left to do.

    The revision that was there before.
    """
    with _locked(engine) as connection:
        before = MigrationContext.configure(connection).get_current_revision()
        command.upgrade(_config(connection), revision)
        return before


def downgrade(engine: sa.Engine, revision: str) -> None:
    """Goes back to an older revision, or to "base": no schema and no data."""
    with _locked(engine) as connection:
        command.downgrade(_config(connection), revision)


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    # "%" would be taken for an interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@contextmanager
def _locked(engine: sa.Engine) -> Iterator[sa.Connection]:
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            # Batch mode drops tables, and with foreign keys on the rows that point to them. Has no effect inside a transaction.
            _foreign_keys(connection, on=False)
        try:
            with connection.begin():  # BEGIN IMMEDIATE (jobs/database.py) is the lock on SQLite
                if connection.dialect.name == "postgresql":
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": POSTGRES_LOCK})
                yield connection
                _check_foreign_keys(connection)
        finally:
            if connection.dialect.name == "sqlite":
                _foreign_keys(connection, on=True)


def _foreign_keys(connection: sa.Connection, *, on: bool) -> None:
    cursor = connection.connection.cursor()  # the driver's: SQLAlchemy would begin a transaction
    cursor.execute(f"PRAGMA foreign_keys = {'ON' if on else 'OFF'}")
    cursor.close()


def _check_foreign_keys(connection: sa.Connection) -> None:
    if connection.dialect.name != "sqlite":
        return
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if broken:
        raise sa.exc.IntegrityError("PRAGMA foreign_key_check", None, ValueError(f"{len(broken)} rows point to nothing"))
