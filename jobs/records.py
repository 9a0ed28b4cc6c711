"""What the store gives out: plain frozen records, no live rows. Times are aware datetimes in UTC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

Row = TypeVar("Row")


@dataclass(frozen=True)
class Failure:
    """Why a job failed: a reason of the closed list in jobs/states.py, a sentence, and where in the spec if it is to blame."""

    reason: str
    message: str
    pointer: str | None = None


@dataclass(frozen=True)
class Job:
    """A job as it stands. `version` rises at every change of what is stored; `waiting` is worked out at each read, so an ETag
    needs both."""

    id: str
    name: str | None
    state: str
    failure: Failure | None
    epoch: int
    epochs: int
    iteration: int
    iterations: int | None
    samples: int | None  # rows that the whole run trains on, each as often as it is used
    samples_per_second: float | None
    attempt: int  # claims so far: 0 before the first; the fencing number of the present or last one
    attempts_spent: int  # attempts that count against max_attempts; a give-back does not
    max_attempts: int
    cancel_requested_at: datetime | None
    pause_requested_at: datetime | None
    device_wanted: str
    profile: str
    device: str | None
    threads: int
    environment: dict[str, Any] | None
    spec: str
    effective_spec: dict[str, Any]
    parameters: dict[str, int]
    timeout_seconds: float | None
    created_at: datetime
    started_at: datetime | None  # of the first attempt that got as far as its first iteration
    finished_at: datetime | None
    metadata: dict[str, str]
    version: int
    waiting: str | None  # why a queued job is not running yet


@dataclass(frozen=True)
class Page(Generic[Row]):
    """One page of a list, in the order asked for."""

    data: Sequence[Row]
    has_more: bool


@dataclass(frozen=True)
class Claim:
    """One attempt at one job, just taken. Everything that is written for it later carries job_id and attempt."""

    job_id: str
    attempt: int
    spec: str
    device_wanted: str
    profile: str  # "plain", "strict" or "python": what the worker must offer
    environment: dict[str, Any] | None  # of the attempt that began the curve; None before there is one
    threads: int
    timeout_seconds: float | None
    files: list[str]  # ids of the uploads that the spec names


@dataclass(frozen=True)
class Held:
    """A job that a worker still holds after renewing its lease."""

    job_id: str
    attempt: int
    cancel_requested: bool


@dataclass(frozen=True)
class Lease:
    """An attempt that has not ended, and until when its worker has claimed it, by that worker's wall clock."""

    job_id: str
    attempt: int
    worker_id: str
    expires_at: datetime
    seconds: float | None  # its worker renews it for so long each time; None when that worker is not on the list any more


@dataclass(frozen=True)
class Event:
    """Something that happened to a job, and why. `sequence` rises over all jobs."""

    sequence: int
    job_id: str
    attempt: int | None
    kind: str
    message: str
    detail: dict[str, Any]
    at: datetime


@dataclass(frozen=True)
class Worker:
    """A registered worker. It is alive while it was seen within its own lease."""

    id: str
    host: str
    pid: int
    devices: list[dict[str, Any]]  # each at least {"device": "cpu" | "cuda:<n>", "slots": int}
    profiles: dict[str, dict[str, Any]]  # by name {"layers": [...], "refusal": None | why it is not offered}
    started_at: datetime
    seen_at: datetime
    alive: bool
    running: list[str]  # ids of the jobs it holds


@dataclass(frozen=True)
class Key:
    """An API key, without what opens the door: only its digest is stored, and not given out."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    last_used_at: datetime | None  # to the minute
    revoked_at: datetime | None


@dataclass(frozen=True)
class Reply:
    """What a request was answered over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class File:
    """An upload, stored once by content."""

    id: str
    sha256: str
    name: str
    media_type: str | None
    size_bytes: int
    preview: dict[str, Any]
    created_at: datetime
