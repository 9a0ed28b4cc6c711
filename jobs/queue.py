"""The worker's side of the store: taking jobs, holding them by leases, and letting go of them.

A claim makes a new attempt. Everything written later for it is fenced by job id and attempt in the UPDATE itself, so a worker
that lost its lease without noticing changes nothing and learns of it: LostLease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from jobs import tables as t
from jobs.database import reading, writing
from jobs.errors import ForbiddenTransition, LostLease
from jobs.moves import Row, add_event, change, close_attempt, fence, held, move, now
from jobs.profiles import PLAIN
from jobs.reading import to_jobs, wants_met_by
from jobs.records import Claim, Failure, Held, Job, Lease
from jobs.registry import Registry
from jobs.states import CANCELLED, FAILED, PAUSED, QUEUED, REASONS_OF_AN_ATTEMPT, RUNNING, SUCCEEDED, ended, transition


class Queue(Registry):
    """Jobs as a worker sees them."""

    def claim(
        self, worker_id: str, devices: Sequence[str], lease_seconds: float, profiles: Sequence[str] = (PLAIN,)
    ) -> Claim | None:
        """Takes the oldest queued job that wants one of `devices` ("cpu", "cuda:0": those with a free slot) and one of the
        offers (jobs.profiles) that the worker makes; None if there is none. The lease runs lease_seconds from now unless
        renewed."""
        next_in_line = _next_in_line(devices, profiles)
        with reading(self.engine) as connection:  # an idle poller must not take the write lock
            if connection.scalar(next_in_line) is None:
                return None
        with writing(self.engine) as connection:
            guard = t.jobs.c.id == next_in_line.with_for_update(skip_locked=True).scalar_subquery()
            step = transition(QUEUED, RUNNING)
            row = move(connection, guard, step, f"taken by worker {worker_id}", attempt=t.jobs.c.attempt + 1, device=None)
            if row is None:
                return None
            _open_attempt(connection, row, worker_id, lease_seconds)
            return _to_claim(connection, row)

    def renew(self, worker_id: str, lease_seconds: float) -> list[Held]:
        """Extends all leases of a worker to lease_seconds from now and says what it still holds; what is missing was lost.
        Counts as a sign of life."""
        mine = sa.and_(t.attempts.c.worker_id == worker_id, t.attempts.c.ended_at.is_(None))
        with writing(self.engine) as connection:
            connection.execute(
                sa.update(t.attempts).where(mine).values(lease_expires_at=now() + timedelta(seconds=lease_seconds))
            )
            connection.execute(sa.update(t.workers).where(t.workers.c.id == worker_id).values(seen_at=now()))
            joined = sa.and_(t.jobs.c.id == t.attempts.c.job_id, t.jobs.c.attempt == t.attempts.c.number)
            query = sa.select(t.jobs.c.id, t.jobs.c.attempt, t.jobs.c.cancel_requested_at).join(t.attempts, joined)
            rows = connection.execute(query.where(mine, t.jobs.c.state == RUNNING).order_by(t.jobs.c.sequence)).all()
        return [Held(job_id, attempt, requested is not None) for job_id, attempt, requested in rows]

    def check_held(self, job_id: str, attempt: int) -> None:
        """Raises LostLease unless this attempt holds the job at this moment."""
        with reading(self.engine) as connection:
            query = sa.select(t.jobs.c.id).where(fence(job_id, attempt))
            held(connection.execute(query).mappings().one_or_none(), job_id, attempt)

    def started(
        self,
        job_id: str,
        attempt: int,
        *,
        environment: Mapping[str, Any],
        effective_spec: Mapping[str, Any],
        parameters: Mapping[str, int],
        iterations: int,
        samples: int,
        device: str,
        resumed_from: int = 0,
        notes: Sequence[str] = (),
    ) -> Job:
        """The first iteration is next. The job keeps the environment in which its curve began. Raises LostLease."""
        built: dict[str, Any] = {"effective_spec": dict(effective_spec), "parameters": dict(parameters)}
        built |= {"iterations": iterations, "samples": samples}
        with writing(self.engine) as connection:
            began = {"environment": dict(environment), "epoch": 0} if resumed_from == 0 else {}
            first_start = sa.func.coalesce(t.jobs.c.started_at, sa.literal(now(), t.UtcDateTime()))
            values = {**built, **began, "device": device, "iteration": resumed_from, "started_at": first_start}
            row = held(change(connection, fence(job_id, attempt), **values), job_id, attempt)
            _mark_started(connection, job_id, attempt, resumed_from, environment)
            where = f"resumed from iteration {resumed_from}" if resumed_from else "started at the beginning"
            detail = {"device": device, "resumed_from": resumed_from}
            add_event(connection, job_id, "started", f"{where} on {device}", attempt=attempt, detail=detail)
            for note in notes:
                add_event(connection, job_id, "note", note, attempt=attempt)
            return to_jobs(connection, [row])[0]

    def progressed(
        self, job_id: str, attempt: int, *, epoch: int, iteration: int, samples_per_second: float | None = None
    ) -> None:
        """Where the run stands. Raises LostLease."""
        with writing(self.engine) as connection:
            values = {"epoch": epoch, "iteration": iteration, "samples_per_second": samples_per_second}
            held(change(connection, fence(job_id, attempt), **values), job_id, attempt)

    def noted(self, job_id: str, attempt: int, kind: str, message: str, detail: Mapping[str, Any]) -> None:
        """An event that is no change of state, told by the attempt that holds the job. Raises LostLease."""
        with writing(self.engine) as connection:
            _locked(connection, job_id, attempt)
            add_event(connection, job_id, kind, message, attempt=attempt, detail=detail)

    def finish(self, job_id: str, attempt: int, state: str, failure: Failure | None = None, message: str = "") -> Job:
        """The trainer's last word: succeeded, cancelled, or failed with its failure; `message` is for the event.

        Raises LostLease and ForbiddenTransition.
        """
        if (state == FAILED) != (failure is not None):
            raise ValueError(f"a job that is {state} {'needs a' if state == FAILED else 'has no'} failure")
        if not ended(state):
            raise ForbiddenTransition(RUNNING, state)
        usual = {SUCCEEDED: "every epoch is done", CANCELLED: "stopped as asked"}.get(state, "")
        with writing(self.engine) as connection:
            return _leave(connection, job_id, attempt, state, "" if failure else message or usual, failure)

    def end_attempt(self, job_id: str, attempt: int, reason: str, message: str) -> Job:
        """The attempt ended by no decision of the trainer: `crashed`, `worker_lost` or `out_of_memory`. Back to the queue, or
        paused if that was asked for, while attempts are left, else failed; cancelled if that was asked for.

        Raises LostLease.
        """
        if reason not in REASONS_OF_AN_ATTEMPT:
            raise ValueError(f"{reason!r} ends a job, not an attempt")
        with writing(self.engine) as connection:
            return _end_attempt(connection, job_id, attempt, Failure(reason, message))

    def give_back(self, job_id: str, attempt: int, message: str = "the worker was told to stop") -> Job:
        """The process was asked to stop and has: cancelled or paused if that is what the job's row asks for by now, else back
        to the queue. Uses up no attempt. Raises LostLease."""
        with writing(self.engine) as connection:
            row = _locked(connection, job_id, attempt)
            if row["cancel_requested_at"] is not None:
                return _leave(connection, job_id, attempt, CANCELLED, "stopped as asked", None)
            if row["pause_requested_at"] is not None:
                return _leave(connection, job_id, attempt, PAUSED, message, None)
            return _leave(connection, job_id, attempt, QUEUED, message, None, name="given_back")

    def expire_leases(self, gone: Callable[[Sequence[Lease]], Iterable[Lease]] | None = None) -> list[Job]:
        """Ends attempts as `worker_lost`. Any process may call it at any time.

        `gone` says which of the open leases are those of workers that do not live any more. Without it every lease is ended
        that has run out by this machine's clock, which takes a live worker's jobs when that clock jumps.
        """
        found = self._open_leases()
        lost = [lease for lease in found if lease.expires_at < now()] if gone is None else gone(found)
        expired = (self._expire(lease) for lease in lost)
        return [job for job in expired if job is not None]

    def _open_leases(self) -> list[Lease]:
        columns = (t.attempts.c.job_id, t.attempts.c.number, t.attempts.c.worker_id, t.attempts.c.lease_expires_at)
        joined = t.attempts.outerjoin(t.workers, t.workers.c.id == t.attempts.c.worker_id)
        query = sa.select(*columns, t.workers.c.lease_seconds).select_from(joined).where(t.attempts.c.ended_at.is_(None))
        with reading(self.engine) as connection:
            return [Lease(*row) for row in connection.execute(query)]

    def _expire(self, lease: Lease) -> Job | None:
        lost = Failure("worker_lost", f"worker {lease.worker_id} has not been heard of and its lease ran out")
        key = (lease.job_id, lease.attempt)
        with writing(self.engine) as connection:
            same = sa.and_(t.attempts.c.job_id == lease.job_id, t.attempts.c.number == lease.attempt)
            still_open = sa.and_(same, t.attempts.c.ended_at.is_(None))
            expires_at = connection.scalar(sa.select(t.attempts.c.lease_expires_at).where(still_open).with_for_update())
            if expires_at != lease.expires_at:  # renewed or ended since we looked
                return None
            try:
                return _end_attempt(connection, *key, lost)
            except LostLease:
                return None


def _next_in_line(devices: Sequence[str], profiles: Sequence[str]) -> sa.Select[tuple[str]]:
    met = (t.jobs.c.device_wanted.in_(wants_met_by(devices)), t.jobs.c.profile.in_(profiles))
    fitting = sa.and_(t.jobs.c.state == QUEUED, *met)
    return sa.select(t.jobs.c.id).where(fitting).order_by(t.jobs.c.sequence).limit(1)


def _open_attempt(connection: sa.Connection, row: Row, worker_id: str, lease_seconds: float) -> None:
    taken = now()
    values = {"claimed_at": taken, "lease_expires_at": taken + timedelta(seconds=lease_seconds), "worker_id": worker_id}
    connection.execute(sa.insert(t.attempts).values(job_id=row["id"], number=row["attempt"], **values))


def _to_claim(connection: sa.Connection, row: Row) -> Claim:
    files = connection.scalars(sa.select(t.job_files.c.file_id).where(t.job_files.c.job_id == row["id"])).all()
    plain = ("attempt", "spec", "device_wanted", "profile", "environment", "threads", "timeout_seconds")
    return Claim(job_id=row["id"], files=sorted(files), **{name: row[name] for name in plain})


def _mark_started(
    connection: sa.Connection, job_id: str, attempt: int, resumed_from: int, environment: Mapping[str, Any]
) -> None:
    statement = sa.update(t.attempts).where(t.attempts.c.job_id == job_id, t.attempts.c.number == attempt)
    connection.execute(statement.values(started_at=now(), resumed_from=resumed_from, environment=dict(environment)))


def _locked(connection: sa.Connection, job_id: str, attempt: int) -> Row:
    # FOR UPDATE is for PostgreSQL; on SQLite the transaction holds the only write lock already and nothing is rendered.
    query = sa.select(t.jobs).where(fence(job_id, attempt)).with_for_update()
    return held(connection.execute(query).mappings().one_or_none(), job_id, attempt)


def _end_attempt(connection: sa.Connection, job_id: str, attempt: int, failure: Failure) -> Job:
    row = _locked(connection, job_id, attempt)
    spent, most = row["attempts_spent"] + 1, row["max_attempts"]
    message = f"{failure.reason}: {failure.message} (attempt {spent} of {most})"
    if row["cancel_requested_at"] is not None:
        return _leave(connection, job_id, attempt, CANCELLED, message, None, spent=1)
    if spent < most and row["pause_requested_at"] is not None:
        return _leave(connection, job_id, attempt, PAUSED, message, None, spent=1)
    if spent < most:
        return _leave(connection, job_id, attempt, QUEUED, message, None, name="requeued", spent=1)
    return _leave(connection, job_id, attempt, FAILED, message, failure, spent=1)


def _leave(
    connection: sa.Connection,
    job_id: str,
    attempt: int,
    state: str,
    message: str,
    failure: Failure | None,
    *,
    name: str | None = None,
    spent: int = 0,
) -> Job:
    step = transition(RUNNING, state, name)
    values: dict[str, Any] = {"finished_at": now() if ended(state) else None, "samples_per_second": None}
    if state != PAUSED:
        values["pause_requested_at"] = None  # it stands as long as the job is paused or will be
    if failure is not None:
        values |= {"failure_reason": failure.reason, "failure_message": failure.message, "failure_pointer": failure.pointer}
        message = message or f"{failure.reason}: {failure.message}"
    values["attempts_spent"] = t.jobs.c.attempts_spent + spent
    row = held(move(connection, fence(job_id, attempt), step, message, **values), job_id, attempt)
    close_attempt(connection, job_id, attempt, f"{step.name}: {message}")
    return to_jobs(connection, [row])[0]
