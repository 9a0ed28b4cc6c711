"""Every setting of the service, read from POSTGRAD_* environment variables; the README lists them all (a test compares)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


def _usable_cores() -> int:
    # Not os.cpu_count(): a container or taskset may leave fewer.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Settings(BaseSettings):
    """Raises pydantic.ValidationError when a variable does not hold what its field wants. An empty variable counts as unset."""

    model_config = SettingsConfigDict(env_prefix="POSTGRAD_", env_ignore_empty=True, extra="ignore", frozen=True)

    data_dir: Path = Field(default=Path("data"), description="The one folder that holds the database, uploads and jobs.")
    database_url: str | None = Field(
        default=None, description="SQLAlchemy URL of the database; unset means postgrad.db in the data folder."
    )
    host: str = Field(default="127.0.0.1", description="Address the API binds to; anything but loopback asks for a key.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port the API listens on; 0 lets the system choose.")
    api_key: SecretStr | None = Field(
        default=None,
        description="A key for everything, sent as `Authorization: Bearer pg_...`; `postgrad keys` makes others.",
    )
    insecure: bool = Field(default=False, description="1 serves a non-loopback address without any key. Know who can reach it.")
    cpu_slots: int = Field(
        default_factory=_usable_cores,
        ge=0,
        le=1024,
        description="Jobs that one worker trains on CPU at once; 0 leaves the CPU idle.",
    )
    lease_seconds: float = Field(
        default=30.0,
        ge=0.5,
        le=3600,
        description="Seconds without a sign of life after which a worker's jobs go back to the queue.",
    )
    builtin_dir: Path = Field(
        default=Path(sys.prefix, "share", "postgrad", "datasets"), description="Folder of the prepared built-in data sets."
    )
    max_upload_bytes: int = Field(default=2**30, ge=1, description="Largest file that /v1/files takes, in bytes.")
    max_queued_jobs: int = Field(
        default=10_000, ge=1, description="Jobs that may wait at once; one more is answered with 429 until a worker takes some."
    )
    max_job_seconds: float | None = Field(
        default=None,
        gt=0,
        le=30 * 86_400,
        description="Longest `timeout_seconds` of a job, and that of a job which gives none; unset means no limit.",
    )
    max_curve_points: int = Field(
        default=50_000_000,
        ge=1,
        description="Points that one job's curve may have, all series together; one more fails the job.",
    )
    max_log_bytes: int = Field(
        default=64 * 2**20,
        ge=2**16,
        description="Size of one attempt's log, in bytes; of a longer one the beginning and the latest part are kept.",
    )
    min_free_bytes: int = Field(
        default=512 * 2**20,
        ge=0,
        description="Free bytes of the disk below which no new jobs and uploads are taken and no queued job is started.",
    )
    retention_days: float | None = Field(
        default=None,
        gt=0,
        description="Days after its end at which a job is removed, with uploads that no job names; unset keeps everything.",
    )
    allow_python: bool = Field(
        default=False,
        description="1 lets a spec name the user's own Python, run in the sandbox profile strict; see docs/sandbox.md.",
    )
    python_memory_bytes: int = Field(
        default=4 * 2**30,
        ge=2**28,
        description="Memory that a job of an exported model or of the user's own Python may take, in bytes of address space.",
    )
    python_disk_bytes: int = Field(
        default=4 * 2**30,
        ge=2**20,
        description="Disk that the folder of such a job may take, checkpoints and results included, in bytes.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least serious line that is logged."
    )

    @property
    def database(self) -> str:
        """The database's URL, with the default filled in. May hold a password: never log it."""
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'postgrad.db'}"
