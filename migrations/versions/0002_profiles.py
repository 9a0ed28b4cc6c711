"""Sandbox profiles: what a job needs and what a worker offers. Jobs from before need plain; workers say theirs when they start.

Revision 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    """Adds one column to jobs and one to workers."""
    op.add_column("jobs", sa.Column("profile", sa.String(16), nullable=False, server_default="plain"))
    op.add_column("workers", sa.Column("profiles", JSON, nullable=False, server_default="{}"))


def downgrade() -> None:
    """Drops them; a job that needs strict would then be taken by a worker that knows no profiles."""
    with op.batch_alter_table("workers") as workers:
        workers.drop_column("profiles")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("profile")
