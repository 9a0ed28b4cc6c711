"""The tables, in SQLAlchemy Core, in a dialect that SQLite and PostgreSQL share."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from jobs import profiles, states

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# ---- jobs, attempts, events, workers, files (owner: store) ----


class UtcDateTime(sa.TypeDecorator[datetime]):
    """Aware datetimes in UTC. SQLite keeps no zone, so it is put back on the way out."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# A 64-bit key that SQLite still takes for its rowid.
RisingKey = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Json = sa.JSON(none_as_null=True)

jobs = sa.Table(
    "jobs",
    metadata,
    # The order of arrival: the queue's and every list's. Ids sort by time too, but only to the millisecond.
    sa.Column("sequence", RisingKey, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False),
    sa.Column("name", sa.Text),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("device_wanted", sa.String(32), nullable=False),
    sa.Column("profile", sa.String(16), nullable=False, server_default=profiles.PLAIN),
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
    sa.Column("cancel_requested_at", UtcDateTime),
    sa.Column("pause_requested_at", UtcDateTime),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("started_at", UtcDateTime),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("parameters", Json, nullable=False),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("environment", Json),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("effective_spec", Json, nullable=False),
    sa.UniqueConstraint("id"),
    *(sa.CheckConstraint(text, name=name) for name, text in states.checks().items()),
    # The queue, and lists by status: in order of arrival, without touching the wide rows that do not fit.
    sa.Index("ix_jobs_state_sequence", "state", "sequence", "device_wanted"),
    sa.Index("ix_jobs_name_sequence", "name", "sequence"),
    sqlite_autoincrement=True,
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("job_id", sa.ForeignKey(jobs.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("worker_id", sa.String(64), nullable=False),
    sa.Column("lease_expires_at", UtcDateTime, nullable=False),
    sa.Column("claimed_at", UtcDateTime, nullable=False),
    sa.Column("started_at", UtcDateTime),
    sa.Column("resumed_from", sa.BigInteger),
    sa.Column("environment", Json),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("outcome", sa.Text),
    # Open attempts are few and asked for all the time (renewals, expiry); ended ones are many and never.
    sa.Index(
        "ix_attempts_open",
        "worker_id",
        "lease_expires_at",
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    ),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("sequence", RisingKey, primary_key=True),
    sa.Column("job_id", sa.ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False),
    sa.Column("attempt", sa.Integer),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("detail", Json, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Index("ix_events_job_id_sequence", "job_id", "sequence"),
    sqlite_autoincrement=True,
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("devices", Json, nullable=False),
    sa.Column("profiles", Json, nullable=False, server_default="{}"),  # by name: its layers, or why it is refused
    sa.Column("lease_seconds", sa.Double, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("seen_at", UtcDateTime, nullable=False),
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("sequence", RisingKey, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("media_type", sa.Text),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("preview", Json, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("id"),
    sa.UniqueConstraint("sha256"),
    sqlite_autoincrement=True,
)

job_files = sa.Table(
    "job_files",
    metadata,
    sa.Column("job_id", sa.ForeignKey(jobs.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("file_id", sa.ForeignKey(files.c.id), primary_key=True),
    sa.Index("ix_job_files_file_id", "file_id"),
)

# ---- who may ask, and what they were answered (owner: store) ----

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("sequence", RisingKey, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),  # SHA-256 of the key in hex; the key itself is kept nowhere
    sa.Column("scopes", Json, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("last_used_at", UtcDateTime),
    sa.Column("revoked_at", UtcDateTime),
    sa.UniqueConstraint("id"),
    sa.UniqueConstraint("digest"),
    sqlite_autoincrement=True,
)

replies = sa.Table(
    "replies",
    metadata,
    sa.Column("owner", sa.String(64), primary_key=True),  # whose idempotency key it is: two callers may choose the same one
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),  # SHA-256 of what was asked, in hex
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("headers", Json, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Index("ix_replies_created_at", "created_at"),
)

# ---- the curve (owner: curves) ----
# Points live in chunks of a fixed count; every chunk but a series' last is full. Above them stands a pyramid of min/max
# cells, in a table of its own so that an overview never touches the points. Non-finite values are data: only their bits in
# a BLOB are trusted, because SQLite turns a NaN that is bound to a REAL into NULL.


def _of_job() -> sa.Column[str]:
    return sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, primary_key=True, autoincrement=False)


curves = sa.Table(
    "curves",
    metadata,
    _of_job(),
    sa.Column("revision", sa.Integer, nullable=False),  # rises when points were dropped
    sa.Column("written", sa.BigInteger, nullable=False),  # rises at every write
)

curve_truncations = sa.Table(
    "curve_truncations",
    metadata,
    _of_job(),
    _number("revision"),  # the revision that this truncation began
    sa.Column("after_step", sa.BigInteger, nullable=False),
)

curve_series = sa.Table(
    "curve_series",
    metadata,
    _of_job(),
    _number("ordinal"),  # order of first appearance; a cursor holds one step per ordinal
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("last_step", sa.BigInteger),
    sa.Column("last_value", sa.LargeBinary),  # float64 bits: the last value may be NaN
    sa.Column("min_step", sa.BigInteger),
    sa.Column("min_value", sa.Double),
    sa.Column("max_step", sa.BigInteger),
    sa.Column("max_value", sa.Double),
    sa.UniqueConstraint("job_id", "name"),
)

curve_chunks = sa.Table(
    "curve_chunks",
    metadata,
    _of_job(),
    _number("ordinal"),
    _number("seq"),
    sa.Column("first_step", sa.BigInteger, nullable=False),
    sa.Column("last_step", sa.BigInteger, nullable=False),
    sa.Column("steps", sa.LargeBinary, nullable=False),  # int64; empty when the steps are evenly spaced
    sa.Column("points", sa.LargeBinary, nullable=False),  # float64
)

curve_pyramid = sa.Table(
    "curve_pyramid",
    metadata,
    _of_job(),
    _number("ordinal"),
    _number("level"),
    _number("seq"),
    sa.Column("cells", sa.LargeBinary, nullable=False),  # low_step, low, high_step, high of each cell
    sa.Column("odd", sa.LargeBinary, nullable=False),  # step, value of each non-finite point
)
