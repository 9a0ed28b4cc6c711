"""What changes in the jobs that somebody is watching: one task looks, and wakes the listeners of each job.

SQLite's data_version tells in microseconds whether anything was committed since the last look, so an idle stream costs next to
nothing however many there are. Reads are done on the event loop: one of a few rows is quicker than handing it to a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from app.curve_json import dumps
from app.job_json import job_body
from app.log_follow import log_size
from app.state import Service
from jobs.curves import CurveView
from jobs.database import data_version
from jobs.store import Job, UnknownJob

LOOK_SECONDS = 0.02
LOOK_SECONDS_WITHOUT_DATA_VERSION = 0.25
READ_POINTS = 2000  # of each series in one event: a long replay is cut so that it never holds the event loop for long

log = logging.getLogger(__name__)


class Feed:
    """One watched job. `job` is never newer than `version`: whoever sees an ended job here can read its whole curve."""

    def __init__(self, parts: Service, job_id: str) -> None:
        self._parts = parts
        self.job: Job = parts.store.job(job_id)
        self.version = parts.curves.version(job_id)
        self.gone = False
        self.listeners = 0
        self._log_bytes = 0
        self._changed = asyncio.Event()
        self._reads: dict[str | None, CurveView] = {}
        self._body: bytes | None = None

    def change(self) -> asyncio.Event:
        """Set at the next change. Take it before looking, so that nothing falls between."""
        return self._changed

    def news(self, cursor: str | None) -> CurveView:
        """The next points behind a cursor. Listeners at the same place share one read."""
        if cursor not in self._reads:
            self._reads[cursor] = self._parts.curves.read(self.job.id, cursor=cursor, limit=READ_POINTS)
        return self._reads[cursor]

    def body(self) -> bytes:
        """The job as JSON."""
        if self._body is None:
            self._body = dumps(job_body(self.job, self._parts.curves.summary(self.job.id)))
        return self._body

    def look(self) -> None:
        """Reads where the job stands, and wakes the listeners if that is news."""
        try:
            job = self._parts.store.job(self.job.id)
        except UnknownJob:
            self.gone = True
            return self.wake()
        version = self._parts.curves.version(job.id)
        if (job, version) != (self.job, self.version):
            self.job, self.version = job, version
            self.wake()
        return None

    def look_at_log(self) -> None:
        size = log_size(self._parts.folder, self.job.id, self.job.attempt)
        if size != self._log_bytes:
            self._log_bytes = size
            self.wake()

    def wake(self) -> None:
        self._reads.clear()
        self._body = None
        self._changed.set()
        self._changed = asyncio.Event()


class Feeds:
    """All watched jobs of one API process. Used on the event loop only."""

    def __init__(self, parts: Service) -> None:
        self._parts = parts
        self._feeds: dict[str, Feed] = {}
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def watching(self, job_id: str) -> Iterator[Feed]:
        """The feed of a job, kept up to date inside the block. Raises UnknownJob."""
        feed = self._feeds.get(job_id) or self._feeds.setdefault(job_id, Feed(self._parts, job_id))
        feed.listeners += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())
        try:
            yield feed
        finally:
            feed.listeners -= 1
            if not feed.listeners:
                del self._feeds[job_id]

    async def _follow(self) -> None:
        with self._parts.engine.connect() as connection:
            changed, pause = _watch(connection)
            while self._feeds:
                self._look(changed)
                await asyncio.sleep(pause)

    def _look(self, changed: Callable[[], bool]) -> None:
        news, stopping = changed(), self._parts.stopping.is_set()
        for feed in list(self._feeds.values()):
            try:
                if news:
                    feed.look()
                feed.look_at_log()
            except OperationalError as error:
                log.warning("a stream could not be brought up to date: %s", error.orig)
            if stopping:
                feed.wake()


def _watch(connection: sa.Connection) -> tuple[Callable[[], bool], float]:
    seen: list[int | None] = [-1]

    def changed() -> bool:
        before, seen[0] = seen[0], data_version(connection)
        return seen[0] is None or seen[0] != before

    return changed, LOOK_SECONDS if data_version(connection) is not None else LOOK_SECONDS_WITHOUT_DATA_VERSION
