"""The moves of jobs/states.py as guarded UPDATEs, each with its event, inside a transaction that the caller holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from jobs import tables as t
from jobs.errors import LostLease, UnknownFile, UnknownJob
from jobs.states import RUNNING, Transition

Row = sa.RowMapping


def now() -> datetime:
    """The present as an aware datetime in UTC."""
    return datetime.now(UTC)


def add_event(
    connection: sa.Connection,
    job_id: str,
    kind: str,
    message: str,
    *,
    attempt: int | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Writes down what happened. Raises IntegrityError when there is no such job."""
    values = {"job_id": job_id, "attempt": attempt, "kind": kind, "message": message, "detail": dict(detail or {}), "at": now()}
    connection.execute(sa.insert(t.events).values(values))


def move(connection: sa.Connection, guard: sa.ColumnElement[bool], step: Transition, message: str, **values: Any) -> Row | None:
    """The transition is the UPDATE: None if the row was not in `step.before` or the guard did not hold."""
    row = change(connection, sa.and_(guard, t.jobs.c.state == step.before), state=step.after, **values)
    if row is not None:
        detail = {"before": step.before, "after": step.after}
        add_event(connection, row["id"], step.name, message, attempt=row["attempt"] or None, detail=detail)
    return row


def change(connection: sa.Connection, guard: sa.ColumnElement[bool], **values: Any) -> Row | None:
    """Updates the one row that the guard lets through and raises its version; None when there is none."""
    statement = sa.update(t.jobs).where(guard).values(version=t.jobs.c.version + 1, **values).returning(*t.jobs.c)
    return connection.execute(statement).mappings().one_or_none()


def fence(job_id: str, attempt: int) -> sa.ColumnElement[bool]:
    """True for the job's row as long as this attempt holds it."""
    return sa.and_(t.jobs.c.id == job_id, t.jobs.c.attempt == attempt, t.jobs.c.state == RUNNING)


def held(row: Row | None, job_id: str, attempt: int) -> Row:
    """The row of a fenced write. Raises LostLease when the fence let nothing through."""
    if row is None:
        raise LostLease(job_id, attempt)
    return row


def locked(connection: sa.Connection, job_id: str) -> Row:
    """The job's row, held against other writers until the transaction ends. Raises UnknownJob."""
    # FOR UPDATE is for PostgreSQL; on SQLite the transaction holds the only write lock already and nothing is rendered.
    row = connection.execute(sa.select(t.jobs).where(t.jobs.c.id == job_id).with_for_update()).mappings().one_or_none()
    if row is None:
        raise UnknownJob(job_id)
    return row


def name_files(connection: sa.Connection, job_id: str, files: Sequence[str]) -> None:
    """Writes down which uploads the job needs, so that they stay. Raises UnknownFile."""
    named = set(connection.scalars(sa.select(t.job_files.c.file_id).where(t.job_files.c.job_id == job_id)))
    for file_id in sorted(set(files) - named):
        if connection.scalar(sa.select(t.files.c.id).where(t.files.c.id == file_id).with_for_update()) is None:
            raise UnknownFile(file_id)
        connection.execute(sa.insert(t.job_files).values(job_id=job_id, file_id=file_id))


def close_attempt(connection: sa.Connection, job_id: str, attempt: int, outcome: str) -> None:
    """Ends the attempt's lease and keeps how it ended."""
    statement = sa.update(t.attempts).where(t.attempts.c.job_id == job_id, t.attempts.c.number == attempt)
    connection.execute(statement.values(ended_at=now(), outcome=outcome))
