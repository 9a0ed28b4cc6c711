"""/health: whether the process lives, and whether it can do its work."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from app.answers import answer
from app.problems import RETRY_AFTER_SECONDS
from app.state import Parts, Service
from jobs.catalog import catalog
from jobs.database import sqlite_version

router = APIRouter(tags=["health"])

Check = dict[str, Any]  # at least {"ok": bool, "detail": sentence}


@router.get("/health/live", summary="Is the process alive", responses={200: answer("Live")})
async def live() -> JSONResponse:
    """Asks nothing of anyone."""
    return JSONResponse({"status": "ok"})


@router.get(
    "/health/ready",
    summary="Can jobs be taken",
    responses={200: answer("Ready"), 503: {"description": "Not yet, or not any more", **answer("Ready")}},
)
def ready(parts: Parts) -> JSONResponse:
    """200 when the schema is current and the checker is warm; each check says what it found. "degraded" is 200 too: all can be
    read, but new jobs and uploads are refused because the disk is nearly full."""
    checks = {name: check(parts) for name, check in CHECKS.items()}
    ok = all(check["ok"] for name, check in checks.items() if name != DISK)
    headers = {} if ok else {"Retry-After": str(RETRY_AFTER_SECONDS)}
    status = "not ready" if not ok else "ready" if checks[DISK]["ok"] else "degraded"
    return JSONResponse({"status": status, "checks": checks}, 200 if ok else 503, headers)


def _schema(parts: Service) -> Check:
    try:
        wanted, found = _wanted_schema(), _current_schema(parts)
    except Exception as error:
        # Whatever the driver raises, the answer is the same; its message may hold an address and stays in the log.
        return _check(False, f"the database does not answer ({type(error).__name__})")
    if found == wanted:
        return _check(True, f"at revision {found}")
    return _check(False, f"at revision {found}, this code needs {wanted}: run `postgrad migrate`")


@functools.cache
def _wanted_schema() -> str:
    # Here and not above: Alembic is a tenth of a second that the start of the API need not pay.
    from migrations.schema import head

    return head()


def _current_schema(parts: Service) -> str | None:
    from migrations.schema import current

    return current(parts.engine)


def _checker(parts: Service) -> Check:
    torch = parts.checker.torch_version()
    return _check(torch is not None, "warm" if torch else "starting", torch=torch)


def _torch(parts: Service) -> Check:
    running, known = parts.checker.torch_version(), catalog().torch_version
    if running is None:
        return _check(True, f"the catalog is of torch {known}; the checker has not said yet which it runs")
    # A build says what it was made for after a plus: 2.13.0+cpu is 2.13.0.
    same = running.partition("+")[0] == known.partition("+")[0]
    return _check(same, f"the catalog is of torch {known}, the checker runs {running}")


def _sqlite(parts: Service) -> Check:
    if parts.engine.dialect.name != "sqlite":
        return _check(True, f"not used: the database is {parts.engine.dialect.name}")
    version, safe = sqlite_version()
    warning = "" if safe else "; before 3.51.3 a rare race at a WAL reset can corrupt the file"
    return _check(True, f"SQLite {version}{warning}", version=version, wal_reset_safe=safe)


def _disk(parts: Service) -> Check:
    why = parts.room.shortage()
    return _check(why is None, why or f"at least {parts.room.floor_bytes} bytes are free")


def _check(ok: bool, detail: str, **more: Any) -> Check:
    return {"ok": ok, "detail": detail, **more}


DISK = "disk"
CHECKS: dict[str, Callable[[Service], Check]] = {
    "schema": _schema,
    "checker": _checker,
    "torch": _torch,
    "sqlite": _sqlite,
    DISK: _disk,
}
