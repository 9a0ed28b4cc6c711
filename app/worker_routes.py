"""/v1/workers: who can run what, and what they run."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from app.answers import answer
from app.job_json import timestamp
from app.lists import envelope
from app.state import Parts
from jobs.store import Worker

router = APIRouter(tags=["workers"])


@router.get("/v1/workers", summary="List workers", responses={200: answer("Workers")})
def list_workers(parts: Parts) -> JSONResponse:
    """Every registered worker, with its sandbox profiles: the layers of each and why it is not offered, if it is not.

    One that is not `alive` has given no sign for longer than its lease.
    """
    return JSONResponse(envelope(_body(worker) for worker in parts.store.workers()))


def _body(worker: Worker) -> dict[str, Any]:
    slots = sum(int(device["slots"]) for device in worker.devices)
    return {
        "object": "worker",
        "id": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "devices": worker.devices,
        "profiles": worker.profiles,
        "slots": slots,
        "free_slots": max(0, slots - len(worker.running)) if worker.alive else 0,
        "running": worker.running,
        "alive": worker.alive,
        "started_at": timestamp(worker.started_at),
        "seen_at": timestamp(worker.seen_at),
    }
