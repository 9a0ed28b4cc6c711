"""Has anyone written to the database? The cheap question behind both new work and requests to stop."""

from __future__ import annotations

import sqlalchemy as sa

from jobs.database import data_version

POLL_SECONDS = 0.25


class News:
    """On SQLite one PRAGMA of microseconds on a connection kept for it; elsewhere simply a new look every POLL_SECONDS."""

    def __init__(self, engine: sa.Engine) -> None:
        self._connection = engine.connect()
        self._seen: int | None = None
        self._look_at = 0.0

    def arrived(self, now: float) -> bool:
        """Whether another look is worth it. `now` is time.monotonic()."""
        if self._connection.dialect.name == "sqlite":
            before, self._seen = self._seen, data_version(self._connection)
            return self._seen != before
        due = now >= self._look_at
        if due:
            self._look_at = now + POLL_SECONDS
        return due

    def close(self) -> None:
        self._connection.close()
