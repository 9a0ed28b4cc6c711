"""Rows into records, and why a queued job waits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import timedelta

import sqlalchemy as sa

from jobs import tables as t
from jobs.moves import Row, now
from jobs.profiles import PLAIN
from jobs.records import Event, Failure, File, Job, Worker
from jobs.states import QUEUED, RUNNING

_COMPUTED = ("failure", "waiting")
_PLAIN = tuple(field.name for field in dataclasses.fields(Job) if field.name not in _COMPUTED)


def fits(wanted: str, device: str) -> bool:
    """Whether a job that wants "auto", "cpu", "cuda" or "cuda:<n>" may run on the device "cpu" or "cuda:<n>"."""
    return wanted in ("auto", device) or (wanted == "cuda" and device.startswith("cuda:"))


def wants_met_by(devices: Iterable[str]) -> list[str]:
    """Every value of `device_wanted` that one of these devices fits: `fits`, turned round for SQL."""
    offered = sorted(set(devices))
    generic = ["cuda"] if any(device.startswith("cuda:") for device in offered) else []
    return ["auto", *generic, *offered] if offered else []


def to_jobs(connection: sa.Connection, rows: Sequence[Row]) -> list[Job]:
    """The rows of the jobs table as records. Looks at the workers only when one of them is queued."""
    queued = any(row["state"] == QUEUED for row in rows)
    workers, busy = (_workers(connection), _busy(connection)) if queued else ([], [])
    return [_to_job(row, _waiting(row, workers, busy) if row["state"] == QUEUED else None) for row in rows]


def to_event(row: Row) -> Event:
    """A row of the events table."""
    return Event(**row)


def to_file(row: Row) -> File:
    """A row of the files table."""
    return File(**{field.name: row[field.name] for field in dataclasses.fields(File)})


def to_worker(row: Row, running: list[str]) -> Worker:
    """A row of the workers table, with the jobs it holds."""
    known = {name: row[name] for name in ("id", "host", "pid", "devices", "profiles", "started_at", "seen_at")}
    return Worker(**known, alive=_alive(row), running=running)


def _to_job(row: Row, waiting: str | None) -> Job:
    failure = None
    if row["failure_reason"] is not None:
        failure = Failure(row["failure_reason"], row["failure_message"], row["failure_pointer"])
    return Job(**{name: row[name] for name in _PLAIN}, failure=failure, waiting=waiting)


def _alive(row: Row) -> bool:
    return bool(row["seen_at"] + timedelta(seconds=row["lease_seconds"]) > now())


def _workers(connection: sa.Connection) -> list[Row]:
    return [row for row in connection.execute(sa.select(t.workers)).mappings() if _alive(row)]


def _busy(connection: sa.Connection) -> list[str | None]:
    # None is a job that was claimed a moment ago: its device is not known yet.
    return list(connection.scalars(sa.select(t.jobs.c.device).where(t.jobs.c.state == RUNNING)))


def _waiting(job: Row, workers: Sequence[Row], busy: Sequence[str | None]) -> str:
    wanted = job["device_wanted"]
    able = [worker for worker in workers if _refusal(worker, job["profile"]) is None]
    if workers and not able:
        what = "takes jobs now" if job["profile"] == PLAIN else "offers the sandbox that this job needs"
        return f"no worker {what}: {_refusal(workers[0], job['profile'])}"
    slots = [(offer["device"], offer["slots"]) for worker in able for offer in worker["devices"]]
    if not slots:
        return "no worker is registered"
    fitting = [(device, number) for device, number in slots if fits(wanted, device)]
    if not fitting:
        return f"no worker offers {wanted}"
    taken = sum(1 for device in busy if device is None or fits(wanted, device))
    if taken < sum(number for _, number in fitting):
        return "a worker is about to take it"
    return "all slots are busy" if wanted == "auto" else f"all {wanted} slots are busy"


def _refusal(worker: Row, profile: str) -> str | None:
    """Why a worker does not take jobs that need this profile, or None."""
    offered = worker["profiles"].get(profile)
    if offered is None:
        if profile == PLAIN:  # a worker of an earlier release, which says nothing
            return None
        return f"worker {worker['id']} does not have the profile {profile}"
    refusal: str | None = offered["refusal"]
    return refusal
