"""`python -m workers`: one worker, with its settings from POSTGRAD_* variables."""

from __future__ import annotations

import logging
import signal
import sys
import time
from types import FrameType

import sqlalchemy as sa

from jobs.curves import Curves
from jobs.database import SERVICE_PATIENCE_SECONDS, open_engine
from jobs.errors import DatabaseUnfit
from jobs.files import DataFolder
from jobs.room import Room
from jobs.settings import Settings
from jobs.store import Store
from jobs.tables import metadata
from workers.assigning import Bounds
from workers.devices import discover
from workers.launcher import best_launcher
from workers.supervisor import Supervisor

log = logging.getLogger("workers")

SCHEMA_POLL_SECONDS = 0.2
SCHEMA_REMINDER_SECONDS = 30.0


def schema_missing(engine: sa.Engine) -> list[str]:
    """The tables and columns that this code needs and the database lacks: "jobs", "jobs.version"."""
    inspector = sa.inspect(engine)
    present = set(inspector.get_table_names())
    missing = sorted(metadata.tables.keys() - present)
    for name in sorted(metadata.tables.keys() & present):
        columns = {column["name"] for column in inspector.get_columns(name)}
        missing += [f"{name}.{column.name}" for column in metadata.tables[name].columns if column.name not in columns]
    return missing


def wait_for_schema(engine: sa.Engine) -> None:
    """Returns once `postgrad migrate` (or the API, which migrates first) has made every table."""
    remind_at = 0.0
    while missing := _missing_or_error(engine):
        if time.monotonic() >= remind_at:
            log.info("waiting for the database schema (run `postgrad migrate`); missing: %s", ", ".join(missing))
            remind_at = time.monotonic() + SCHEMA_REMINDER_SECONDS
        time.sleep(SCHEMA_POLL_SECONDS)


def _missing_or_error(engine: sa.Engine) -> list[str]:
    try:
        return schema_missing(engine)
    except sa.exc.OperationalError as error:  # the database server may start after us
        return [str(error.orig)]


def _quit(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def main() -> None:
    settings = Settings()
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, _quit)  # until the supervisor listens itself there is nothing to give back
    launcher = best_launcher()  # first: it warms up while we look around
    try:
        engine = open_engine(settings, SERVICE_PATIENCE_SECONDS)
        wait_for_schema(engine)
        supervisor = Supervisor(
            Store(engine),
            Curves(engine, settings.max_curve_points),
            DataFolder.of(settings),
            launcher,
            discover(),
            cpu_slots=settings.cpu_slots,
            lease_seconds=settings.lease_seconds,
            bounds=Bounds(
                settings.python_memory_bytes, settings.python_disk_bytes, settings.allow_python, settings.max_log_bytes
            ),
            room=Room.of(settings),
        )
        supervisor.run()
    except KeyboardInterrupt:
        log.info("stopped before it began")
    except DatabaseUnfit as problem:
        sys.exit(f"postgrad: {problem}")
    finally:
        launcher.close()


if __name__ == "__main__":
    main()
