"""The first schema: the queue and the curve. A frozen copy: later changes to jobs/tables.py are later migrations.

Revision 0001, the first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

OPEN = sa.text("ended_at IS NULL")
AWARE_TIME = sa.DateTime(timezone=True)
RISING_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    """Makes every table, those that others point to first."""
    _create_jobs()
    _create_attempts()
    _create_events()
    _create_workers()
    _create_files()
    _create_job_files()
    _create_curves()
    _create_curve_truncations()
    _create_curve_series()
    _create_curve_chunks()
    _create_curve_pyramid()


def downgrade() -> None:
    """Drops them all, and with them every job. Indexes go with their tables."""
    for table in (
        "curve_pyramid",
        "curve_chunks",
        "curve_series",
        "curve_truncations",
        "curves",
        "job_files",
        "files",
        "workers",
        "events",
        "attempts",
        "jobs",
    ):
        op.drop_table(table)


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("sequence", RISING_KEY, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("device_wanted", sa.String(32), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("attempts_spent", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("failure_reason", sa.String(32)),
        sa.Column("failure_message", sa.Text),
        sa.Column("failure_pointer", sa.Text),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("epochs", sa.Integer, nullable=False),
        sa.Column("iteration", sa.BigInteger, nullable=False),
        sa.Column("iterations", sa.BigInteger),
        sa.Column("samples", sa.BigInteger),
        sa.Column("samples_per_second", sa.Double),
        sa.Column("device", sa.String(32)),
        sa.Column("threads", sa.Integer, nullable=False),
        sa.Column("timeout_seconds", sa.Double),
        sa.Column("cancel_requested_at", AWARE_TIME),
        sa.Column("pause_requested_at", AWARE_TIME),
        sa.Column("created_at", AWARE_TIME, nullable=False),
        sa.Column("started_at", AWARE_TIME),
        sa.Column("finished_at", AWARE_TIME),
        sa.Column("parameters", JSON, nullable=False),
        sa.Column("metadata", JSON, nullable=False),
        sa.Column("environment", JSON),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("effective_spec", JSON, nullable=False),
        *_checks_of_jobs(),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_jobs")),
        sa.UniqueConstraint("id", name=op.f("uq_jobs_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_name_sequence", "jobs", ["name", "sequence"])
    op.create_index("ix_jobs_state_sequence", "jobs", ["state", "sequence", "device_wanted"])


def _checks_of_jobs() -> list[sa.CheckConstraint]:
    return [
        sa.CheckConstraint("(state = 'failed') = (failure_reason IS NOT NULL)", name=op.f("ck_jobs_failed_has_reason")),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name=op.f("ck_jobs_ended_has_time")
        ),
        sa.CheckConstraint(
            "failure_reason IS NULL OR failure_reason IN ('error', 'diverged', 'invalid_spec', "
            "'invalid_data', 'out_of_memory', 'timeout', 'crashed', 'worker_lost')",
            name=op.f("ck_jobs_reason"),
        ),
        sa.CheckConstraint("state <> 'running' OR attempt > 0", name=op.f("ck_jobs_running_has_attempt")),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_jobs_state")
        ),
        sa.CheckConstraint(
            "attempts_spent >= 0 AND attempts_spent <= attempt AND max_attempts > 0", name=op.f("ck_jobs_attempts")
        ),
    ]


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("worker_id", sa.String(64), nullable=False),
        sa.Column("lease_expires_at", AWARE_TIME, nullable=False),
        sa.Column("claimed_at", AWARE_TIME, nullable=False),
        sa.Column("started_at", AWARE_TIME),
        sa.Column("resumed_from", sa.BigInteger),
        sa.Column("environment", JSON),
        sa.Column("ended_at", AWARE_TIME),
        sa.Column("outcome", sa.Text),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_attempts_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_attempts")),
    )
    op.create_index("ix_attempts_open", "attempts", ["worker_id", "lease_expires_at"], sqlite_where=OPEN, postgresql_where=OPEN)


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("sequence", RISING_KEY, nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("attempt", sa.Integer),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("detail", JSON, nullable=False),
        sa.Column("at", AWARE_TIME, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_events_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_job_id_sequence", "events", ["job_id", "sequence"])


def _create_workers() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("devices", JSON, nullable=False),
        sa.Column("lease_seconds", sa.Double, nullable=False),
        sa.Column("started_at", AWARE_TIME, nullable=False),
        sa.Column("seen_at", AWARE_TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )


def _create_files() -> None:
    op.create_table(
        "files",
        sa.Column("sequence", RISING_KEY, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("media_type", sa.Text),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("preview", JSON, nullable=False),
        sa.Column("created_at", AWARE_TIME, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_files")),
        sa.UniqueConstraint("id", name=op.f("uq_files_id")),
        sa.UniqueConstraint("sha256", name=op.f("uq_files_sha256")),
        sqlite_autoincrement=True,
    )


def _create_job_files() -> None:
    op.create_table(
        "job_files",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("file_id", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name=op.f("fk_job_files_file_id_files")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_files_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "file_id", name=op.f("pk_job_files")),
    )
    op.create_index("ix_job_files_file_id", "job_files", ["file_id"])


def _create_curves() -> None:
    op.create_table(
        "curves",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("written", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_curves_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_curves")),
    )


def _create_curve_truncations() -> None:
    op.create_table(
        "curve_truncations",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("revision", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("after_step", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_curve_truncations_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "revision", name=op.f("pk_curve_truncations")),
    )


def _create_curve_series() -> None:
    op.create_table(
        "curve_series",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("ordinal", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("last_step", sa.BigInteger),
        sa.Column("last_value", sa.LargeBinary),
        sa.Column("min_step", sa.BigInteger),
        sa.Column("min_value", sa.Double),
        sa.Column("max_step", sa.BigInteger),
        sa.Column("max_value", sa.Double),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_curve_series_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "ordinal", name=op.f("pk_curve_series")),
        sa.UniqueConstraint("job_id", "name", name=op.f("uq_curve_series_job_id")),
    )


def _create_curve_chunks() -> None:
    op.create_table(
        "curve_chunks",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("ordinal", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("seq", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("first_step", sa.BigInteger, nullable=False),
        sa.Column("last_step", sa.BigInteger, nullable=False),
        sa.Column("steps", sa.LargeBinary, nullable=False),
        sa.Column("points", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_curve_chunks_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "ordinal", "seq", name=op.f("pk_curve_chunks")),
    )


def _create_curve_pyramid() -> None:
    op.create_table(
        "curve_pyramid",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("ordinal", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("level", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("seq", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("cells", sa.LargeBinary, nullable=False),
        sa.Column("odd", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_curve_pyramid_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "ordinal", "level", "seq", name=op.f("pk_curve_pyramid")),
    )
