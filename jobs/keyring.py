"""API keys: made, listed, revoked, and found again by what a request carries.

A key is 256 random bits, so one pass of SHA-256 is enough to store it by: there is no dictionary to try, and a slow hash
would only slow every request down. Whoever reads the database can open nothing with what lies there.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from jobs import tables as t
from jobs.database import reading, writing
from jobs.errors import UnknownKey
from jobs.moves import Row, now
from jobs.records import Key

READ, WRITE, CODE, ADMIN = SCOPES = ("read", "write", "code", "admin")
PREFIX = "pg_"
KEY_BYTES = 32
ID_BYTES = 8
USE_NOTED_EVERY = timedelta(minutes=1)


class Keyring:
    """The keys side of the store. Every lookup reads the database, so a revoked key opens nothing any more."""

    engine: sa.Engine

    def add_key(self, name: str, scopes: Iterable[str]) -> tuple[Key, str]:
        """A new key, and the text that opens the door: it is given out here and never again."""
        secret = PREFIX + secrets.token_urlsafe(KEY_BYTES)
        values: dict[str, Any] = {"id": f"key_{secrets.token_hex(ID_BYTES)}", "name": name, "created_at": now()}
        values |= {"scopes": sorted(set(scopes), key=SCOPES.index), "digest": digest(secret.encode())}
        with writing(self.engine) as connection:
            row = connection.execute(sa.insert(t.keys).values(values).returning(*t.keys.c)).mappings().one()
        return _to_key(row), secret

    def api_keys(self) -> list[Key]:
        """Every key, the revoked ones too, in the order they were made."""
        with reading(self.engine) as connection:
            return [_to_key(row) for row in connection.execute(sa.select(t.keys).order_by(t.keys.c.sequence)).mappings()]

    def revoke_key(self, key_id: str) -> Key:
        """From now on it opens nothing. Safe to repeat. Raises UnknownKey."""
        revoked = sa.func.coalesce(t.keys.c.revoked_at, sa.literal(now(), t.UtcDateTime()))
        update = sa.update(t.keys).where(t.keys.c.id == key_id).values(revoked_at=revoked).returning(*t.keys.c)
        with writing(self.engine) as connection:
            row = connection.execute(update).mappings().one_or_none()
        if row is None:
            raise UnknownKey(key_id)
        return _to_key(row)

    def key_of(self, secret: bytes) -> Key | None:
        """The key that this opens the door as; None if there is none, or none any more."""
        sought = digest(secret)
        query = sa.select(t.keys).where(t.keys.c.digest == sought, t.keys.c.revoked_at.is_(None))
        with reading(self.engine) as connection:
            row = connection.execute(query).mappings().one_or_none()
        # The index has compared digests, of which a stranger can choose no part; this is for the rest of the path.
        return _to_key(row) if row is not None and hmac.compare_digest(row["digest"], sought) else None

    def is_live(self, key_id: str) -> bool:
        """Whether this key still opens the door."""
        query = sa.select(t.keys.c.id).where(t.keys.c.id == key_id, t.keys.c.revoked_at.is_(None))
        with reading(self.engine) as connection:
            return connection.scalar(query) is not None

    def key_used(self, key_id: str) -> None:
        """Notes the time, unless that was done within the last minute."""
        stale = sa.or_(t.keys.c.last_used_at.is_(None), t.keys.c.last_used_at < now() - USE_NOTED_EVERY)
        with writing(self.engine) as connection:
            connection.execute(sa.update(t.keys).where(t.keys.c.id == key_id, stale).values(last_used_at=now()))

    def has_admin_key(self) -> bool:
        """Whether there is a key that can make others."""
        return any(ADMIN in key.scopes and key.revoked_at is None for key in self.api_keys())


def digest(secret: bytes) -> str:
    """What a key is stored and found by: its SHA-256 in hex."""
    return hashlib.sha256(secret).hexdigest()


def use_is_noted(key: Key) -> bool:
    """Whether `key_used` would do nothing."""
    return key.last_used_at is not None and now() - key.last_used_at < USE_NOTED_EVERY


def _to_key(row: Row) -> Key:
    times = {name: row[name] for name in ("created_at", "last_used_at", "revoked_at")}
    return Key(id=row["id"], name=row["name"], scopes=tuple(row["scopes"]), **times)
