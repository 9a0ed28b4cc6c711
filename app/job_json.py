"""A job as the API shows it: the shape that API.md fixes, made in one place for GET, lists and streams."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from jobs.states import RUNNING
from jobs.store import Job

ENTITY_TAG = re.compile(r'(?:W/)?"([0-9]{1,18})-[0-9]{1,18}"')
LONGEST_ESTIMATE_SECONDS = 10 * 365 * 86_400


def timestamp(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC with milliseconds, or None."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def job_body(job: Job, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The job as JSON values. `summary` is {series: {"last", "min", "max"}} as Curves.summary gives it."""
    return {
        "object": "job",
        "id": job.id,
        "name": job.name,
        "status": job.state,
        "failure": _failure(job),
        "progress": _progress(job),
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "cancel_requested": job.cancel_requested_at is not None,
        "pause_requested": job.pause_requested_at is not None,
        "device": job.device,
        "environment": job.environment,
        "spec": json.loads(job.spec),
        "effective_spec": job.effective_spec,
        "parameters": job.parameters,
        "summary": summary,
        "created_at": timestamp(job.created_at),
        "started_at": timestamp(job.started_at),
        "finished_at": timestamp(job.finished_at),
        "waiting": job.waiting,
        "metadata": job.metadata,
        "links": links(job.id),
    }


def links(job_id: str) -> dict[str, str]:
    """Where the rest of a job is."""
    root = f"/v1/jobs/{job_id}"
    parts = ("metrics", "stream", "events", "logs", "artifacts", "cancel", "pause", "resume", "retry")
    return {"self": root} | {part: f"{root}/{part}" for part in parts}


def entity_tag(job: Job) -> str:
    """Weak: the same state of the job may be written with another estimate of its end."""
    return f'W/"{job.version}-{sum((job.waiting or "").encode())}"'


def versions_in(if_match: str | None) -> frozenset[int] | None:
    """The versions that If-Match lets pass; None is any. The tag is weak because of what is worked out at each read; what is
    stored is compared strictly, so `waiting` may have changed."""
    if if_match is None or if_match.strip() == "*":
        return None
    return frozenset(int(match[1]) for tag in if_match.split(",") if (match := ENTITY_TAG.fullmatch(tag.strip())))


def _failure(job: Job) -> dict[str, str] | None:
    if job.failure is None:
        return None
    found = {"reason": job.failure.reason, "message": job.failure.message}
    return found if job.failure.pointer is None else found | {"pointer": job.failure.pointer}


def _progress(job: Job) -> dict[str, Any]:
    return {
        "epoch": job.epoch,
        "epochs": job.epochs,
        "iteration": job.iteration,
        "iterations": job.iterations,
        "samples_per_second": job.samples_per_second,
        "estimated_finish_at": timestamp(_estimated_finish(job)),
    }


def _estimated_finish(job: Job) -> datetime | None:
    """Now, and the time that the samples left take at the latest speed; None when that is beyond any calendar."""
    if job.state != RUNNING or not job.iterations or job.samples is None or not job.samples_per_second:
        return None
    seconds = job.samples * (1 - job.iteration / job.iterations) / job.samples_per_second
    return datetime.now(UTC) + timedelta(seconds=seconds) if seconds < LONGEST_ESTIMATE_SECONDS else None
