"""The jobs: made, read and listed here; asked and worked on through the parts of the store that this class joins.

Only this and jobs/curves.py speak SQL to anyone outside. Every state change writes its event in the same transaction.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from jobs import tables as t
from jobs.database import reading, writing
from jobs.errors import (
    FileInUse,
    ForbiddenTransition,
    JobsError,
    LostLease,
    QueueFull,
    UnknownFile,
    UnknownJob,
    UnknownWorker,
    VersionDiffers,
    WrongState,
)
from jobs.keyring import Keyring
from jobs.moves import Row, add_event, name_files, now
from jobs.profiles import PLAIN, Offer
from jobs.reading import to_event, to_jobs
from jobs.records import Claim, Event, Failure, File, Held, Job, Key, Page, Reply, Worker
from jobs.replies import Answered, Replies
from jobs.requests import Requests
from jobs.retention import Retention
from jobs.states import QUEUED

__all__ = [
    "Claim",
    "Event",
    "Failure",
    "File",
    "FileInUse",
    "ForbiddenTransition",
    "Held",
    "Job",
    "JobsError",
    "Key",
    "LostLease",
    "Page",
    "QueueFull",
    "Reply",
    "Store",
    "UnknownFile",
    "UnknownJob",
    "UnknownWorker",
    "VersionDiffers",
    "Worker",
    "WrongState",
    "new_job_id",
]

CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
ID_CHARACTERS = 26
FRESH = {"state": QUEUED, "attempt": 0, "attempts_spent": 0, "version": 1, "epoch": 0, "iteration": 0}
ID_RANDOM_BITS = 80


class Store(Requests, Keyring, Replies, Retention):
    """All of the queue. One per process; safe to use from many threads."""

    def create_job(
        self,
        *,
        spec: str,
        name: str | None,
        metadata: Mapping[str, str],
        effective_spec: Mapping[str, Any],
        parameters: Mapping[str, int],
        epochs: int,
        device: str,
        max_attempts: int,
        threads: int,
        timeout_seconds: float | None = None,
        files: Sequence[str] = (),
        profile: Offer = PLAIN,
        max_queued: int | None = None,
        answered: Answered[Job] | None = None,
    ) -> Job:
        """Queues a job; `device` is what the spec asks for, `files` the ids of the uploads it names, `profile` what a worker
        must offer for it. Raises UnknownFile, QueueFull when `max_queued` jobs wait already, and AnsweredMeanwhile."""
        told: dict[str, Any] = {"spec": spec, "name": name, "metadata": dict(metadata), "effective_spec": dict(effective_spec)}
        told |= {"parameters": dict(parameters), "epochs": epochs, "device_wanted": device, "max_attempts": max_attempts}
        told |= {"threads": threads, "timeout_seconds": timeout_seconds, "profile": profile}
        values = {**told, **FRESH, "id": new_job_id(), "created_at": now()}
        with writing(self.engine) as connection:
            _check_line(connection, max_queued)
            row = connection.execute(sa.insert(t.jobs).values(values).returning(*t.jobs.c)).mappings().one()
            name_files(connection, row["id"], files)
            add_event(connection, row["id"], "queued", "the job was accepted", detail={"before": None, "after": QUEUED})
            job = to_jobs(connection, [row])[0]
            if answered is not None:
                answered.keep(connection, job)
            return job

    def job(self, job_id: str) -> Job:
        """Raises UnknownJob."""
        with reading(self.engine) as connection:
            return to_jobs(connection, [_row(connection, job_id)])[0]

    def jobs(
        self,
        after: str | None = None,
        limit: int = 20,
        order: str = "desc",
        status: str | None = None,
        name: str | None = None,
    ) -> Page[Job]:
        """Jobs in order of arrival, "desc" newest first, those beyond the job `after`. Raises UnknownJob if that is none."""
        sequence, rising = t.jobs.c.sequence, order == "asc"
        query = sa.select(t.jobs).order_by(sequence if rising else sequence.desc()).limit(limit + 1)
        wanted = {t.jobs.c.state: status, t.jobs.c.name: name}
        query = query.where(*(column == value for column, value in wanted.items() if value is not None))
        with reading(self.engine) as connection:
            if after is not None:
                start = _sequence(connection, after)
                query = query.where(sequence > start if rising else sequence < start)
            rows = connection.execute(query).mappings().all()
            return Page(to_jobs(connection, rows[:limit]), len(rows) > limit)

    def event(
        self, job_id: str, kind: str, message: str, attempt: int | None = None, detail: Mapping[str, Any] | None = None
    ) -> None:
        """Writes down something that is not a change of state. Raises UnknownJob."""
        try:
            with writing(self.engine) as connection:
                add_event(connection, job_id, kind, message, attempt=attempt, detail=detail)
        except sa.exc.IntegrityError as error:
            raise UnknownJob(job_id) from error

    def events(self, job_id: str, after: int | None = None, limit: int = 100) -> Page[Event]:
        """A job's events, oldest first, those with a sequence greater than `after`. Raises UnknownJob."""
        query = sa.select(t.events).where(t.events.c.job_id == job_id, t.events.c.sequence > (after or 0))
        with reading(self.engine) as connection:
            rows = connection.execute(query.order_by(t.events.c.sequence).limit(limit + 1)).mappings().all()
            if not rows:
                _sequence(connection, job_id)
        return Page([to_event(row) for row in rows[:limit]], len(rows) > limit)


def new_job_id() -> str:
    """A new id, "job_" and 26 characters that sort by time: 48 bits of milliseconds, then 80 random ones."""
    number = (time.time_ns() // 1_000_000 << ID_RANDOM_BITS) | secrets.randbits(ID_RANDOM_BITS)
    digits = (number >> 5 * place & 31 for place in reversed(range(ID_CHARACTERS)))
    return "job_" + "".join(CROCKFORD[digit] for digit in digits)


def _row(connection: sa.Connection, job_id: str) -> Row:
    row = connection.execute(sa.select(t.jobs).where(t.jobs.c.id == job_id)).mappings().one_or_none()
    if row is None:
        raise UnknownJob(job_id)
    return row


def _check_line(connection: sa.Connection, most: int | None) -> None:
    if most is None:
        return
    waiting = sa.select(t.jobs.c.id).where(t.jobs.c.state == QUEUED).limit(most).subquery()
    if (connection.scalar(sa.select(sa.func.count()).select_from(waiting)) or 0) >= most:
        raise QueueFull(most)


def _sequence(connection: sa.Connection, job_id: str) -> int:
    sequence: int | None = connection.scalar(sa.select(t.jobs.c.sequence).where(t.jobs.c.id == job_id))
    if sequence is None:
        raise UnknownJob(job_id)
    return sequence
