"""Every error answer of the API, as RFC 9457 problem+json. Exceptions become answers here and nowhere else.

An answer never repeats what was sent: it names the place (a JSON pointer into the body, or a parameter) and says what is wrong.
"""

from __future__ import annotations

import errno
import http
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.methods import allowed
from jobs.arguments import escape
from jobs.database import is_full, why_away
from jobs.errors import (
    AnsweredMeanwhile,
    FileInUse,
    KeyReused,
    QueueFull,
    UnknownFile,
    UnknownJob,
    UnknownKey,
    VersionDiffers,
    WrongState,
)
from jobs.spec import InvalidSpec

Errors = Sequence[Mapping[str, str]]
RETRY_AFTER_SECONDS = 2
QUEUE_AFTER_SECONDS = 10
ROOM_AFTER_SECONDS = 60  # somebody has to make it
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
CHANGED = "the job has changed since the read that gave the tag in If-Match: read it again, and then decide"

log = logging.getLogger(__name__)


class Problem(Exception):
    """A request that cannot be answered as asked. `slug` names the kind for ever; `detail` is a sentence for this case."""

    def __init__(
        self, status: int, slug: str, title: str, detail: str, errors: Errors = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.slug, self.title, self.detail = status, slug, title, detail
        self.errors, self.headers = list(errors), dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The members of the problem document."""
        return {
            "type": f"/problems/{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "errors": self.errors,
        }


def error(pointer: str, code: str, detail: str) -> dict[str, str]:
    """One entry of a problem's `errors`; `pointer` is an RFC 6901 pointer into the body that was sent."""
    return {"pointer": pointer, "code": code, "detail": detail}


def model_errors(invalid: ValidationError) -> list[dict[str, str]]:
    """The entries for a body that is not what its model says."""
    places = ["".join(f"/{escape(str(part))}" for part in found["loc"]) for found in invalid.errors()]
    places = ["".join(f"/{escape(str(part))}" for part in found["loc"]) for found in invalid.errors()]
    return [error(place, str(e["type"]), str(e["msg"])) for place, e in zip(places, invalid.errors(), strict=True)]


def not_found(what: str) -> Problem:
    return Problem(404, "not-found", "Not found", f"{what} does not exist")


def not_understood(detail: str, errors: Errors = ()) -> Problem:
    """400: the body is not what its content type says."""
    return Problem(400, "malformed-body", "The body could not be read", detail, errors)


def too_large(limit_bytes: int) -> Problem:
    detail = f"the body is larger than {limit_bytes} bytes"
    return Problem(413, "too-large", "The body is too large", detail)


def too_slow(detail: str) -> Problem:
    """408: the body did not come in time."""
    return Problem(408, "too-slow", "The body came too slowly", detail, headers={"Connection": "close"})


def wrong_media_type(wanted: str) -> Problem:
    return Problem(415, "unsupported-media-type", "Unsupported media type", f"send this as {wanted}")


def invalid_spec(errors: Errors) -> Problem:
    """422: the spec was understood and cannot be run as written."""
    count = len(errors)
    detail = "the spec has one problem" if count == 1 else f"the spec has {count} problems"
    return Problem(422, "invalid-spec", "The job spec is not valid", detail, errors)


def idempotency_conflict() -> Problem:
    """409: the first request with this key is not answered yet, or was just now."""
    detail = "a request with this Idempotency-Key is being answered; ask again in a moment"
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return Problem(409, "idempotency-key-in-use", "The first request is still running", detail, headers=headers)


def _idempotency_key_reused() -> Problem:
    detail = "this Idempotency-Key came with another request before; send a new request under a new key"
    return Problem(422, "idempotency-key-reused", "The idempotency key is used", detail)


def unavailable(slug: str, detail: str) -> Problem:
    """503: nothing was done, and the same request may work in a moment."""
    return Problem(503, slug, "Not available now", detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def response(problem: Problem) -> JSONResponse:
    """The answer for a problem; used by the exception handlers and by middleware, which stands outside them."""
    return JSONResponse(
        problem.body(), status_code=problem.status, headers=problem.headers, media_type="application/problem+json"
    )


def install(app: FastAPI) -> None:
    """The one table from exception to answer."""
    for kind, translate in TRANSLATIONS.items():
        app.add_exception_handler(kind, _handler(translate))
    app.add_exception_handler(HTTPException, _handle_http)


def _handler(translate: Any) -> Any:
    def handle(_request: Request, exception: Exception) -> JSONResponse:
        return response(translate(exception))

    return handle


def _handle_http(request: Request, exception: Exception) -> JSONResponse:
    assert isinstance(exception, HTTPException)
    problem = _from_http(exception)
    if problem.status == http.HTTPStatus.METHOD_NOT_ALLOWED:
        problem.headers["Allow"] = ", ".join(allowed(request))
    return response(problem)


def _from_spec(exception: InvalidSpec) -> Problem:
    return invalid_spec([error(p.pointer, p.code, p.detail) for p in exception.problems])


def _from_parameters(exception: RequestValidationError) -> Problem:
    errors = [_parameter_error(e) for e in exception.errors()]
    names = ", ".join(sorted({e["parameter"] for e in errors}))
    return Problem(422, "invalid-parameter", "A parameter is not valid", f"check the parameter {names}", errors)


def _parameter_error(found: Mapping[str, Any]) -> dict[str, str]:
    where = [str(part) for part in found["loc"][1:]] or ["body"]
    return {"pointer": "", "parameter": where[0], "code": str(found["type"]), "detail": str(found["msg"])}


def _from_http(exception: HTTPException) -> Problem:
    phrase = http.HTTPStatus(exception.status_code).phrase
    slug = phrase.lower().replace(" ", "-")
    return Problem(exception.status_code, slug, phrase, str(exception.detail), headers=exception.headers)


def _queue_full(exception: QueueFull) -> Problem:
    headers = {"Retry-After": str(QUEUE_AFTER_SECONDS)}
    return Problem(429, "queue-full", "Too many jobs wait", f"{exception}; nothing was queued", headers=headers)


def no_room(detail: str) -> Problem:
    """507: nothing was done; the same request works when there is room again."""
    return Problem(507, "no-room", "No room on the disk", detail, headers={"Retry-After": str(ROOM_AFTER_SECONDS)})


def from_database(exception: SQLAlchemyError) -> Problem:
    """503, or 507 when the disk is full. What the driver says may hold an address and stays in the log."""
    if is_full(exception):
        log.error("the database is full: %s", why_away(exception))
        return no_room("the database's disk is full; what is stored can be read, and nothing more can be stored")
    log.error("the database refused a statement: %s", why_away(exception))
    return unavailable("database-unavailable", "the database cannot be used now; /health/ready says more")


def _from_system(exception: OSError) -> Problem:
    """A volume that is full or read-only is the operator's to see to, and no fault of the request."""
    if exception.errno in FULL:
        log.error("the data folder is full: %s", exception)
        return no_room("the data folder's disk is full; what is stored can be read, and nothing more can be stored")
    if exception.errno in READ_ONLY:
        log.error("the data folder cannot be written: %s", exception)
        return unavailable("storage-unavailable", "the data folder cannot be written; what is stored can be read")
    log.error("the system refused something", exc_info=exception)
    return _from_anything(exception)


def _from_anything(_exception: Exception) -> Problem:
    return Problem(500, "internal-error", "Internal error", "the server failed; its log says why")


TRANSLATIONS: dict[type[Exception], Any] = {
    Problem: lambda problem: problem,
    InvalidSpec: _from_spec,
    UnknownJob: lambda _: not_found("this job"),
    UnknownFile: lambda _: not_found("this file"),
    UnknownKey: lambda _: not_found("this key"),
    AnsweredMeanwhile: lambda _: idempotency_conflict(),
    KeyReused: lambda _: _idempotency_key_reused(),
    QueueFull: _queue_full,
    WrongState: lambda wrong: Problem(409, "wrong-state", "Not in this state", str(wrong)),
    FileInUse: lambda used: Problem(409, "file-in-use", "The file is in use", str(used)),
    VersionDiffers: lambda _: Problem(412, "job-changed", "The job has changed", CHANGED),
    RequestValidationError: _from_parameters,
    OperationalError: from_database,
    PoolTimeout: from_database,
    OSError: _from_system,
    ClientDisconnect: lambda _: not_understood("the client went away before the body was whole"),
    Exception: _from_anything,
}
