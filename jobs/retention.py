"""What is old enough to go: the questions that jobs/pruning.py asks."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from jobs import tables as t
from jobs.database import reading
from jobs.states import ENDED


class Retention:
    """The part of the store that knows what nobody needs any more."""

    engine: sa.Engine

    def ended_before(self, before: datetime, limit: int) -> list[tuple[str, int]]:
        """(id, version) of jobs that ended before then, the oldest first."""
        query = sa.select(t.jobs.c.id, t.jobs.c.version).where(_over(before)).order_by(t.jobs.c.finished_at).limit(limit)
        with reading(self.engine) as connection:
            return [(job_id, version) for job_id, version in connection.execute(query)]

    def unnamed_before(self, before: datetime, limit: int) -> list[tuple[str, str]]:
        """(id, SHA-256) of uploads from before then that no job names but such as ended before then."""
        users = sa.select(t.job_files.c.job_id).join(t.jobs, t.jobs.c.id == t.job_files.c.job_id)
        named = users.where(t.job_files.c.file_id == t.files.c.id, sa.not_(_over(before))).exists()
        query = sa.select(t.files.c.id, t.files.c.sha256).where(t.files.c.created_at < before, sa.not_(named))
        with reading(self.engine) as connection:
            return [
                (file_id, sha256) for file_id, sha256 in connection.execute(query.order_by(t.files.c.sequence).limit(limit))
            ]

    def starts_from(self, sha256: str, before: datetime) -> bool:
        """Whether a job, but for such as ended before then, starts from the pinned weights with this content."""
        query = sa.select(t.jobs.c.id).where(sa.not_(_over(before)), t.jobs.c.spec.contains(f'"sha256": "{sha256}"')).limit(1)
        with reading(self.engine) as connection:
            return connection.scalar(query) is not None


def _over(before: datetime) -> sa.ColumnElement[bool]:
    # coalesce: NOT of an unknown is unknown, and a job that has not ended would then be found by neither.
    past = sa.and_(t.jobs.c.state.in_(ENDED), t.jobs.c.finished_at < before)
    return sa.func.coalesce(past, sa.false())
