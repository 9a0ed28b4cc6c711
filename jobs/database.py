"""Opening the database, and the only two ways to use it: `writing` and `reading`.

SQLite is told when a transaction begins, by us, every time. Left to itself the driver begins a transaction late, at the first
INSERT, and upgrades a reader's lock in the middle: under load that is "database is locked". A migration's DDL would run
outside of any transaction. So the driver's own begin is switched off and BEGIN IMMEDIATE is the default; `reading` alone
asks for a plain BEGIN, a snapshot that never waits for writers.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from jobs.errors import DatabaseUnfit
from jobs.settings import Settings

BUSY_TIMEOUT_SECONDS = 30.0  # of a command that has nothing else to do; one that serves others waits less
SERVICE_PATIENCE_SECONDS = 5.0
OLDEST_SQLITE = (3, 35, 0)  # RETURNING
SAFE_WAL_SQLITE = (3, 51, 3)  # before it a rare race at a WAL reset can corrupt the file
POOL_CONNECTIONS = 8
POOL_OVERFLOW = 56  # FastAPI runs up to 40 endpoints at once; a connection more is cheap, a request that waits for one is not


def open_engine(where: str | Path | Settings, patience_seconds: float = BUSY_TIMEOUT_SECONDS) -> sa.Engine:
    """An engine for a database URL, the path of a SQLite file, or the settings' database.

    `patience_seconds` is how long a writer waits while others write, on SQLite; then it fails as `why_away` tells. The folder
    of a SQLite file is made when missing. Raises DatabaseUnfit when the SQLite library is too old, the folder cannot be
    made, or the file cannot be switched to WAL.
    """
    url = _url(where)
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_size=POOL_CONNECTIONS, max_overflow=POOL_OVERFLOW, pool_pre_ping=True)
    _check_sqlite()
    if url.database is None or url.database == ":memory:":
        raise DatabaseUnfit("a queue needs a file: an in-memory SQLite database is seen by one connection only")
    path = Path(url.database)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseUnfit(f"the folder {path.parent} cannot be made: {error.strerror}") from error
    _switch_to_wal(path)
    return _sqlite_engine(url, patience_seconds)


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that holds SQLite's write lock from its first statement (BEGIN IMMEDIATE): commits, or rolls back on error.

    Keep it short and do nothing slow inside: every other writer waits, for as long as it has patience.
    """
    with engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A snapshot: every statement sees the same state. Waits for nobody and blocks nobody. Never write in it."""
    with engine.connect() as connection:
        yield connection.execution_options(postgrad_read_only=True)


def why_away(error: Exception) -> str | None:
    """Why the database cannot be used for now, in the driver's words: locked for longer than one's patience, full, read-only,
    gone. None when the error is none of that kind. Nothing was written, and the same may work later."""
    if isinstance(error, sa.exc.OperationalError) or (isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated):
        return str(error.orig)
    return str(error) if isinstance(error, sa.exc.TimeoutError) else None


def is_full(error: Exception) -> bool:
    """Whether it is the disk, or the bound of the database itself, that leaves no room."""
    said = why_away(error) or ""
    return "is full" in said or "No space left" in said


def data_version(connection: sa.Connection) -> int | None:
    """A number that changes when another connection has committed; None where the database has no such thing.

    For pollers: keep one `engine.connect()` for this alone and execute nothing else on it. It goes to the driver directly, so
    that no transaction is begun (inside one the number stands still); that is microseconds.
    """
    if connection.dialect.name != "sqlite":
        return None
    driver: Any = connection.connection.dbapi_connection
    (version,) = driver.execute("PRAGMA data_version").fetchone()
    return int(version)


def copy_sqlite(engine: sa.Engine, target: Path) -> None:
    """A copy of a SQLite database as it is at one moment, while others read and write it. Raises sqlite3.Error."""
    path = engine.url.database
    assert path is not None
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))


def sqlite_version() -> tuple[str, bool]:
    """The SQLite library's version, and whether its WAL is free of the reset race."""
    return sqlite3.sqlite_version, sqlite3.sqlite_version_info >= SAFE_WAL_SQLITE


def _url(where: str | Path | Settings) -> sa.URL:
    if isinstance(where, Settings):
        return sa.make_url(where.database)
    if isinstance(where, Path):
        return sa.URL.create("sqlite", database=str(where))
    return sa.make_url(where)


def _check_sqlite() -> None:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise DatabaseUnfit(f"SQLite {sqlite3.sqlite_version} is too old: postgrad needs {oldest} or newer")


def _switch_to_wal(path: Path) -> None:
    # The mode is a property of the file, so this is done once, not per connection. Processes that start together contend for
    # it, and this one pragma does not wait by busy_timeout: hence the loop.
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)) as connection:
        while True:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise DatabaseUnfit(f"{path} cannot be opened as a WAL database: {error}") from error
                time.sleep(0.01)
    if mode != "wal":
        raise DatabaseUnfit(f"{path} stays in journal mode {mode!r}: a network file system cannot hold the queue")


def _sqlite_engine(url: sa.URL, patience_seconds: float) -> sa.Engine:
    engine = sa.create_engine(url, pool_size=POOL_CONNECTIONS, max_overflow=POOL_OVERFLOW)

    def prepare(driver: sqlite3.Connection, _record: object) -> None:
        _prepare_connection(driver, patience_seconds)

    sa.event.listen(engine, "connect", prepare)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _prepare_connection(driver: sqlite3.Connection, patience_seconds: float) -> None:
    driver.isolation_level = None  # the driver begins nothing by itself; _begin does
    driver.execute(f"PRAGMA busy_timeout = {int(patience_seconds * 1000)}")
    driver.execute("PRAGMA foreign_keys = ON")
    # FULL, not NORMAL: a checkpoint is fsynced once its points are "stored", and must not be ahead of them after a power cut.
    driver.execute("PRAGMA synchronous = FULL")


def _begin(connection: sa.Connection) -> None:
    read_only = connection.get_execution_options().get("postgrad_read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
