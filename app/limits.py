"""What the operator bounds: room on the disk, and how long a job may run."""

from __future__ import annotations

from typing import Any

from app.problems import error, invalid_spec, no_room
from app.state import Service
from jobs.settings import Settings
from jobs.spec import JobSpec


def need_room(parts: Service, wanted_bytes: int = 0) -> None:
    """Raises Problem (507) when the disk is so full that nothing new is taken, or would be with `wanted_bytes` more."""
    if (why := parts.room.shortage(wanted_bytes)) is not None:
        raise no_room(f"{why}: nothing new is taken until jobs or files are deleted, or `postgrad prune` removes old ones")


def with_timeout(body: Any, settings: Settings) -> Any:
    """The spec as sent, with the longest time that a job may run where it gives none."""
    if settings.max_job_seconds is None or not isinstance(body, dict) or body.get("timeout_seconds") is not None:
        return body
    return {**body, "timeout_seconds": settings.max_job_seconds}


def check_timeout(spec: JobSpec, settings: Settings) -> None:
    """Raises Problem (422) when the job asks for more time than this server gives."""
    if settings.max_job_seconds is not None and (spec.timeout_seconds or 0.0) > settings.max_job_seconds:
        detail = f"jobs may run for at most {settings.max_job_seconds:g} seconds on this server"
        raise invalid_spec([error("/timeout_seconds", "out_of_range", detail)])
