"""Who asks, and what they may. The gate finds it out once a request; endpoints that want more than it asked for say so here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from app.problems import Problem, error
from jobs.keyring import ADMIN, SCOPES
from jobs.store import Key, Store

LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Caller:
    """`owner` tells callers apart: the id of a key, or one of the two names below."""

    owner: str
    scopes: tuple[str, ...]
    key: Key | None = None

    def needs(self, scope: str, why: str) -> None:
        """Raises Problem 403 that names the scope; `why` ends the sentence "... needs the scope code: "."""
        if scope in self.scopes or ADMIN in self.scopes:
            return
        has = f"has the scope {self.scopes[0]}" if len(self.scopes) == 1 else f"has the scopes {', '.join(self.scopes)}"
        detail = f"this key {has}; {why} needs {scope}"
        challenge = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'}
        raise Problem(403, "missing-scope", "Not allowed", detail, [error("", "missing_scope", detail)], challenge)


class Pass:
    """Whether who began a long answer may still have the rest of it: not once the key was revoked."""

    def __init__(self, caller: Caller, store: Store) -> None:
        self._key, self._store = caller.key, store
        self._looked_at = time.monotonic()

    def holds(self) -> bool:
        """Looks at most once in LOOK_SECONDS."""
        if self._key is None or time.monotonic() < self._looked_at + LOOK_SECONDS:
            return True
        self._looked_at = time.monotonic()
        return self._store.is_live(self._key.id)


ANYONE = Caller("anyone", SCOPES)  # where no key is asked for
OPERATOR = Caller("operator", SCOPES)  # who knows POSTGRAD_API_KEY


def from_key(key: Key) -> Caller:
    return Caller(key.id, key.scopes, key)


def _caller(request: Request) -> Caller:
    found: Caller = request.state.caller
    return found


Asking = Annotated[Caller, Depends(_caller)]


def only(scope: str, why: str) -> Callable[[Caller], None]:
    """A dependency for a router: every endpoint of it needs this scope."""

    def check(caller: Asking) -> None:
        caller.needs(scope, why)

    return check
