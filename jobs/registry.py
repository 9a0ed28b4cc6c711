"""Who can run jobs, and the uploads that jobs are made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from jobs import tables as t
from jobs.database import reading, writing
from jobs.errors import FileInUse, UnknownFile, UnknownWorker
from jobs.moves import now
from jobs.reading import to_file, to_worker
from jobs.records import File, Page, Worker
from jobs.replies import Answered
from jobs.states import ENDED

FORGET_WORKERS_AFTER = timedelta(days=1)
FILE_ID_HEX = 24


class Registry:
    """The workers and files side of the store."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def worker_started(
        self,
        worker_id: str,
        *,
        host: str,
        pid: int,
        devices: Sequence[Mapping[str, Any]],
        lease_seconds: float,
        profiles: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Registers a worker; one that was forgotten may register again. Each device is at least {"device": "cpu" | "cuda:<n>",
        "slots": int}; what else it holds (name, memory) is given out as it is. A profile is {"layers", "refusal"}: what its
        sandbox is made of here, and None or the sentence that says why it is not offered."""
        values = {"host": host, "pid": pid, "devices": [dict(device) for device in devices], "lease_seconds": lease_seconds}
        values["profiles"] = {name: dict(profile) for name, profile in (profiles or {}).items()}
        with writing(self.engine) as connection:
            stale = sa.or_(t.workers.c.id == worker_id, t.workers.c.seen_at < now() - FORGET_WORKERS_AFTER)
            connection.execute(sa.delete(t.workers).where(stale))
            connection.execute(sa.insert(t.workers).values(id=worker_id, started_at=now(), seen_at=now(), **values))

    def worker_seen(self, worker_id: str) -> None:
        """A sign of life from a worker that holds nothing (renew() is one too). Raises UnknownWorker when it was forgotten."""
        with writing(self.engine) as connection:
            seen = connection.execute(sa.update(t.workers).where(t.workers.c.id == worker_id).values(seen_at=now()))
        if not seen.rowcount:
            raise UnknownWorker(worker_id)

    def worker_offers(self, worker_id: str, profiles: Mapping[str, Mapping[str, Any]]) -> None:
        """What a worker offers from now on, as in `worker_started`. A worker that was forgotten is left alone."""
        values = {name: dict(profile) for name, profile in profiles.items()}
        with writing(self.engine) as connection:
            connection.execute(sa.update(t.workers).where(t.workers.c.id == worker_id).values(profiles=values))

    def worker_stopped(self, worker_id: str) -> None:
        """Takes a worker off the list; safe to repeat. What it still holds goes back when the lease runs out."""
        with writing(self.engine) as connection:
            connection.execute(sa.delete(t.workers).where(t.workers.c.id == worker_id))

    def workers(self) -> list[Worker]:
        """Every registered worker, the silent ones too, in order of their start."""
        held = sa.select(t.attempts.c.worker_id, t.attempts.c.job_id).where(t.attempts.c.ended_at.is_(None))
        with reading(self.engine) as connection:
            rows = connection.execute(sa.select(t.workers).order_by(t.workers.c.started_at, t.workers.c.id)).mappings().all()
            running: dict[str, list[str]] = defaultdict(list)
            for worker_id, job_id in connection.execute(held.order_by(t.attempts.c.claimed_at)):
                running[worker_id].append(job_id)
        return [to_worker(row, running[row["id"]]) for row in rows]

    def add_file(
        self,
        *,
        sha256: str,
        name: str,
        size_bytes: int,
        preview: Mapping[str, Any],
        media_type: str | None = None,
        answered: Answered[tuple[File, bool]] | None = None,
    ) -> tuple[File, bool]:
        """The file of these bytes and whether it is new: the same bytes keep the id, name and preview of their first upload.
        Raises AnsweredMeanwhile."""
        values = {"sha256": sha256, "name": name, "size_bytes": size_bytes, "preview": dict(preview), "media_type": media_type}
        with writing(self.engine) as connection:
            known = connection.execute(sa.select(t.files).where(t.files.c.sha256 == sha256)).mappings().one_or_none()
            insert = sa.insert(t.files).values(id=file_id(sha256), created_at=now(), **values).returning(*t.files.c)
            row = known if known is not None else connection.execute(insert).mappings().one()
            added = to_file(row), known is None
            if answered is not None:
                answered.keep(connection, added)
            return added

    def file(self, file_id: str) -> File:
        """Raises UnknownFile."""
        with reading(self.engine) as connection:
            row = connection.execute(sa.select(t.files).where(t.files.c.id == file_id)).mappings().one_or_none()
        if row is None:
            raise UnknownFile(file_id)
        return to_file(row)

    def delete_file(self, file_id: str) -> None:
        """Forgets an upload, and that jobs which have ended named it; its content is jobs/deleting.py's to remove.

        Raises UnknownFile, and FileInUse while a job that has not ended names it.
        """
        named = t.job_files.c.file_id == file_id
        with writing(self.engine) as connection:
            if connection.scalar(sa.select(t.files.c.id).where(t.files.c.id == file_id).with_for_update()) is None:
                raise UnknownFile(file_id)
            users = sa.select(t.jobs.c.id).join(t.job_files, t.job_files.c.job_id == t.jobs.c.id)
            user = connection.scalar(users.where(named, t.jobs.c.state.not_in(ENDED)).order_by(t.jobs.c.sequence).limit(1))
            if user is not None:
                raise FileInUse(file_id, user)
            connection.execute(sa.delete(t.job_files).where(named))
            connection.execute(sa.delete(t.files).where(t.files.c.id == file_id))

    def has_content(self, sha256: str) -> bool:
        """Whether an upload with this content is known."""
        with reading(self.engine) as connection:
            return connection.scalar(sa.select(t.files.c.id).where(t.files.c.sha256 == sha256)) is not None

    def files(self, after: str | None = None, limit: int = 20, order: str = "desc") -> Page[File]:
        """Files in order of upload, "desc" newest first. Raises UnknownFile when there is no file `after`."""
        sequence, rising = t.files.c.sequence, order == "asc"
        query = sa.select(t.files).order_by(sequence if rising else sequence.desc()).limit(limit + 1)
        with reading(self.engine) as connection:
            if after is not None:
                start = connection.scalar(sa.select(sequence).where(t.files.c.id == after))
                if start is None:
                    raise UnknownFile(after)
                query = query.where(sequence > start if rising else sequence < start)
            rows = connection.execute(query).mappings().all()
        return Page([to_file(row) for row in rows[:limit]], len(rows) > limit)


def file_id(sha256: str) -> str:
    """The public id of an upload, from its content's SHA-256 in hex."""
    return f"file_{sha256[:FILE_ID_HEX]}"
