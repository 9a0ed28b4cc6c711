"""What requests with an idempotency key were answered, kept so that a repeat is answered the same and changes nothing.

The answer is written in the transaction that makes the change, so there is no moment at which one exists without the other: a
server that is killed in between has either done nothing, or will give the same answer to the next try.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from jobs import tables as t
from jobs.database import reading
from jobs.errors import AnsweredMeanwhile, KeyReused
from jobs.moves import now
from jobs.records import Reply

KEPT_FOR = timedelta(hours=24)
PRUNED_AT_ONCE = 100  # each change removes so many of the old ones, so that none of them takes long

Made = TypeVar("Made")


@dataclass(frozen=True)
class Repeatable:
    """A request that may be sent again: whose it is, the key it carries, and the SHA-256 in hex of what it asks."""

    owner: str
    key: str
    fingerprint: str


@dataclass(frozen=True)
class Answered(Generic[Made]):
    """How a change will be answered once it is made. A method of the store that takes one keeps the answer with the change."""

    request: Repeatable
    reply: Callable[[Made], Reply]

    def keep(self, connection: sa.Connection, made: Made) -> None:
        """In the transaction of the change. Raises AnsweredMeanwhile, which must end it."""
        _prune(connection, self.request)
        reply = self.reply(made)
        values: dict[str, Any] = {"owner": self.request.owner, "key": self.request.key, "fingerprint": self.request.fingerprint}
        values |= {"status": reply.status, "headers": reply.headers, "body": reply.body, "created_at": now()}
        try:
            connection.execute(sa.insert(t.replies).values(values))
        except sa.exc.IntegrityError as taken:
            raise AnsweredMeanwhile from taken


class Replies:
    """The answers side of the store."""

    engine: sa.Engine

    def reply(self, request: Repeatable) -> Reply | None:
        """What the request was answered within the last KEPT_FOR. Raises KeyReused when its key came with another request."""
        table = t.replies.c
        query = sa.select(t.replies).where(table.owner == request.owner, table.key == request.key)
        with reading(self.engine) as connection:
            row = connection.execute(query.where(table.created_at >= now() - KEPT_FOR)).mappings().one_or_none()
        if row is None:
            return None
        if row["fingerprint"] != request.fingerprint:
            raise KeyReused
        return Reply(row["status"], row["headers"], row["body"])


def _prune(connection: sa.Connection, request: Repeatable) -> None:
    """Removes what is too old: some of it, and in any case what stands in this request's place."""
    table, oldest = t.replies.c, now() - KEPT_FOR
    old = sa.select(table.owner, table.key).where(table.created_at < oldest).order_by(table.created_at).limit(PRUNED_AT_ONCE)
    for owner, key in [*connection.execute(old), (request.owner, request.key)]:
        gone = sa.and_(table.owner == owner, table.key == key, table.created_at < oldest)
        connection.execute(sa.delete(t.replies).where(gone))
