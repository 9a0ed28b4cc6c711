"""`Idempotency-Key`: a request that is sent again is answered again and done once, as in
draft-ietf-httpapi-idempotency-key-header-07.

An endpoint takes `Once`, calls `look` with what it was asked, and hands `keeping` to the store's method that makes the change.
Only changes are remembered: a request that was refused has changed nothing and may be mended under the same key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Annotated, TypeVar

from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse, Response

from app.callers import Asking
from app.problems import Problem, idempotency_conflict
from app.state import Parts
from jobs.records import Reply
from jobs.replies import Answered, Repeatable
from jobs.store import Store

Made = TypeVar("Made")

REPLAYED = "Idempotency-Replayed"
MAX_KEY_CHARACTERS = 255
QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')  # a String of RFC 9651, as the draft wants it
BARE = re.compile(r"[!#-~][!-~]*")  # what most clients send
# For the document; what is sent is checked below, where the answer can say more. A quoted one may be longer by its quotes.
FORM: dict[str, str | int] = {
    "minLength": 1,
    "maxLength": MAX_KEY_CHARACTERS,
    "pattern": r'^([!#-~][!-~]*|"([ !#-\[\]-~]|\\["\\])+")$',
}
MEANING = (
    "A key of your own, at most 255 characters, such as a UUID: the same request with the same key is done once, and answered "
    "the same for 24 hours."
)


class Replay(Exception):
    """This request was answered before."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


class Answering:
    """One request, with or without a key."""

    def __init__(self, request: Request, store: Store, owner: str, key: str | None) -> None:
        self._place = f"{request.method} {request.url.path}"
        self._store, self._owner, self._key = store, owner, key
        self._request: Repeatable | None = None

    def look(self, asked: object) -> None:
        """Ends the request when it was answered before. `asked` is all that decides what it does, as JSON values. Reads the
        database. Raises Replay, and KeyReused when the key came with another request."""
        if self._key is None:
            return
        text = json.dumps([self._place, asked], ensure_ascii=False)
        self._request = Repeatable(self._owner, self._key, hashlib.sha256(text.encode()).hexdigest())
        reply = self._store.reply(self._request)
        if reply is not None:
            raise Replay(reply)

    def keeping(self, answer: Callable[[Made], JSONResponse]) -> Answered[Made] | None:
        """For the store: `answer` makes the response from what was made. Call `look` before."""
        return None if self._request is None else Answered(self._request, lambda made: _reply(answer(made)))


def _reply(response: JSONResponse) -> Reply:
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    return Reply(response.status_code, headers, bytes(response.body))


async def _once(
    request: Request,
    parts: Parts,
    caller: Asking,
    idempotency_key: Annotated[str | None, Header(description=MEANING, json_schema_extra=FORM)] = None,
) -> AsyncIterator[Answering]:
    """Raises Problem: 400 for a key that is none, 409 while the first request with it is being answered."""
    if idempotency_key is None:
        yield Answering(request, parts.store, caller.owner, None)
        return
    key = _checked(request.headers.getlist("idempotency-key"))
    mark = (caller.owner, key)
    # Of this process: it dies with it, so a killed server leaves no key behind that waits for ever. Two servers on one
    # database are told apart by the database.
    answering: set[tuple[str, str]] = request.app.state.answering
    if mark in answering:
        raise idempotency_conflict()
    answering.add(mark)
    try:
        yield Answering(request, parts.store, caller.owner, key)
    finally:
        answering.discard(mark)


# "function": the key is free again before the answer goes out, so that a client may ask again as soon as it has it.
Once = Annotated[Answering, Depends(_once, scope="function")]


def _checked(sent: list[str]) -> str:
    if len(sent) == 1:
        quoted = QUOTED.fullmatch(sent[0])
        key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else sent[0]
        if (quoted or BARE.fullmatch(key)) and 0 < len(key) <= MAX_KEY_CHARACTERS:
            return key
    detail = (
        f"Idempotency-Key wants one string of 1 to {MAX_KEY_CHARACTERS} printable ASCII characters, quoted if it has spaces"
    )
    errors = [{"pointer": "", "parameter": "Idempotency-Key", "code": "invalid_idempotency_key", "detail": detail}]
    raise Problem(400, "invalid-idempotency-key", "The idempotency key is not valid", detail, errors)


def install(app: FastAPI) -> None:
    """Answers a repeat with what is kept."""
    app.state.answering = set()

    def replay(_request: Request, exception: Exception) -> Response:
        assert isinstance(exception, Replay)
        reply = exception.reply
        return Response(reply.body, reply.status, {**reply.headers, REPLAYED: "true"})

    app.add_exception_handler(Replay, replay)
