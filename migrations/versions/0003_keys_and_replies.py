"""API keys, and the answers that are kept for requests with an Idempotency-Key.

Revision 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

AWARE_TIME = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True)
RISING_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Adds two tables."""
    op.create_table(
        "keys",
        sa.Column("sequence", RISING_KEY, primary_key=True),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("created_at", AWARE_TIME, nullable=False),
        sa.Column("last_used_at", AWARE_TIME),
        sa.Column("revoked_at", AWARE_TIME),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("digest"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "replies",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("headers", JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", AWARE_TIME, nullable=False),
        sa.Index("ix_replies_created_at", "created_at"),
    )


def downgrade() -> None:
    """Drops them: a server that others can reach needs POSTGRAD_API_KEY again, and a repeated request is a second one."""
    op.drop_table("replies")
    op.drop_table("keys")
