"""/v1/jobs: create, list, read, and what happened to a job and why. What may be asked of one is in app/request_routes.py."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from app.answers import TEXT, answer
from app.body import read_json
from app.callers import Asking
from app.checker import Answer, CheckerUnavailable
from app.init_from import pinned
from app.job_json import entity_tag, job_body, timestamp
from app.limits import check_timeout, need_room, with_timeout
from app.lists import After, Limit, Order, envelope
from app.log_tail import tail
from app.once import Once
from app.problems import error, invalid_spec, not_found, unavailable
from app.state import Parts, Service
from app.uploads import Named, named
from jobs.errors import UnsafeName
from jobs.keyring import CODE
from jobs.profiles import STRICT
from jobs.spec import SpecProblem, offer_for, parse, posted, profile_of, threads_for
from jobs.states import ended
from jobs.store import Event, Job

router = APIRouter(tags=["jobs"])

POLL_AFTER_SECONDS = 1
LONGEST_WAIT_SECONDS = 60
WAIT_STEP_SECONDS = 0.02
WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*(\d{1,4})(?:$|[,;\s])")
WAIT_MEANING = "`wait=N`: answer once the job has ended (with If-None-Match: has changed), or after N seconds."

Status = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]


@router.post(
    "/v1/jobs",
    status_code=201,
    summary="Create and queue a job",
    responses={
        200: {"description": "With validate_only: what the spec would build; nothing was queued", **answer("Preflight")},
        201: answer("Job"),
        429: {"description": "As many jobs wait as may"},
        507: {"description": "The disk is nearly full"},
    },
)
def create_job(
    parts: Parts,
    caller: Asking,
    once: Once,
    body: Annotated[Any, Depends(read_json)],
    validate_only: Annotated[bool, Query(description="Build and describe it, and queue nothing.")] = False,
) -> JSONResponse:
    """Checks the spec by building it, and queues the job. Nothing is queued unchecked."""
    if not validate_only:
        once.look(body)
        need_room(parts)
    spec = parse(with_timeout(body, parts.settings))
    check_timeout(spec, parts.settings)
    if (profile := profile_of(spec)) == STRICT:
        caller.needs(CODE, "a job that brings its own program")
    canonical = spec.canonical()
    uploads = named(parts, spec)
    with pinned(parts, spec) as pin:
        canonical = canonical if pin is None else pin.noted(canonical)
        weights = None if pin is None else str(pin.path)
        answer = _checked(parts, canonical, uploads, body, preflight=validate_only, init_from=weights)
        if validate_only:
            return JSONResponse(_preflight_body(canonical, answer))
        if pin is not None:
            pin.keep()
    job = parts.store.create_job(
        spec=canonical,
        name=spec.name,
        metadata=spec.metadata,
        effective_spec=answer.effective_spec,
        parameters=answer.parameters,
        epochs=spec.epochs,
        # The sandbox of profile strict has no GPU.
        device="cpu" if profile == STRICT else spec.device,
        max_attempts=spec.max_attempts,
        timeout_seconds=spec.timeout_seconds,
        threads=threads_for(spec),
        files=uploads.files,
        profile=offer_for(spec),
        max_queued=parts.settings.max_queued_jobs,
        answered=once.keeping(_created),
    )
    return _created(job)


def _created(job: Job) -> JSONResponse:
    return JSONResponse(job_body(job, {}), 201, {"Location": f"/v1/jobs/{job.id}", "ETag": entity_tag(job)})


def _preflight_body(canonical: str, answer: Answer) -> dict[str, Any]:
    return {
        "object": "preflight",
        "parameters": answer.parameters,
        **answer.preflight,
        "spec": json.loads(canonical),
        "effective_spec": answer.effective_spec,
    }


def _checked(parts: Service, canonical: str, uploads: Named, body: object, *, preflight: bool, init_from: str | None) -> Answer:
    """What the checker found, its problems pointing into `body`, where a short form may stand. Raises Problem."""
    try:
        files = {"init_from": init_from, "model": uploads.model, "source": uploads.source}
        answer = parts.checker.ask(json.loads(canonical), uploads.dataset, preflight=preflight, **files)
    except CheckerUnavailable as reason:
        raise unavailable("checker-unavailable", f"{reason}; nothing was queued") from reason
    if answer.problems:
        found = [posted(SpecProblem(**problem), body) for problem in answer.problems]
        raise invalid_spec([error(p.pointer, p.code, p.detail) for p in found])
    return answer


@router.get("/v1/jobs", summary="List jobs", responses={200: answer("Jobs")})
def list_jobs(
    parts: Parts,
    after: After = None,
    limit: Limit = 20,
    order: Order = "desc",
    status: Annotated[Status | None, Query(description="Only jobs in this state.")] = None,
    name: Annotated[str | None, Query(max_length=256, description="Only jobs of exactly this name.")] = None,
) -> JSONResponse:
    """One page of jobs."""
    page = parts.store.jobs(after=after, limit=limit, order=order, status=status, name=name)
    summaries = parts.curves.summaries(job.id for job in page.data)
    bodies = [job_body(job, summaries[job.id]) for job in page.data]
    return JSONResponse(envelope(bodies, has_more=page.has_more))


@router.get(
    "/v1/jobs/{job_id}",
    summary="Read a job",
    responses={200: answer("Job"), 304: {"description": "Not changed since If-None-Match"}},
)
async def read_job(
    request: Request,
    parts: Parts,
    job_id: str,
    prefer: Annotated[str | None, Header(description=WAIT_MEANING)] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The job. Read on the event loop: a SQLite read of one row is quicker than handing it to a thread."""
    seconds = _wait_seconds(prefer)
    job = await _wait(request, parts, job_id, seconds, if_none_match) if seconds else parts.store.job(job_id)
    headers = {"ETag": entity_tag(job), "Cache-Control": "no-cache", "Vary": "Prefer"}
    if not ended(job.state):
        headers["Retry-After"] = str(POLL_AFTER_SECONDS)
    if seconds:
        headers["Preference-Applied"] = f"wait={seconds}"
    if not _changed(job, if_none_match):
        return Response(status_code=304, headers=headers)
    return JSONResponse(job_body(job, parts.curves.summary(job.id)), headers=headers)


def _wait_seconds(prefer: str | None) -> int:
    match = WAIT.search((prefer or "").lower())
    return min(int(match[1]), LONGEST_WAIT_SECONDS) if match else 0


def _changed(job: Job, if_none_match: str | None) -> bool:
    if if_none_match is None:
        return True
    known = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" not in known and entity_tag(job).removeprefix("W/") not in known


async def _wait(request: Request, parts: Service, job_id: str, seconds: int, if_none_match: str | None) -> Job:
    """The job once it differs from If-None-Match, or without that header once it has ended; or as it is after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        job = parts.store.job(job_id)
        done = ended(job.state) if if_none_match is None else _changed(job, if_none_match)
        if done or ended(job.state) or time.monotonic() >= deadline or parts.stopping.is_set():
            return job
        if await request.is_disconnected():
            return job
        await asyncio.sleep(WAIT_STEP_SECONDS)


@router.get("/v1/jobs/{job_id}/events", summary="What happened to a job, and why", responses={200: answer("Events")})
def list_events(
    parts: Parts,
    job_id: str,
    after: Annotated[int | None, Query(ge=0, le=2**62, description="The `last_id` of the page before.")] = None,
    limit: Limit = 100,
) -> JSONResponse:
    """Oldest first."""
    page = parts.store.events(job_id, after=after, limit=limit)
    return JSONResponse(envelope([_event_body(event) for event in page.data], has_more=page.has_more))


def _event_body(event: Event) -> dict[str, Any]:
    return {
        "object": "event",
        "id": event.sequence,
        "job_id": event.job_id,
        "attempt": event.attempt,
        "kind": event.kind,
        "message": event.message,
        "detail": event.detail,
        "at": timestamp(event.at),
    }


@router.get(
    "/v1/jobs/{job_id}/logs",
    summary="What the trainer printed",
    responses={200: {"content": answer("Logs")["content"] | {TEXT: {"schema": {"type": "string"}}}}},
)
def read_logs(
    request: Request,
    parts: Parts,
    job_id: str,
    attempt: Annotated[int | None, Query(ge=1, le=10**6, description="Which attempt; the latest when left out.")] = None,
    lines: Annotated[int, Query(ge=1, le=10_000, description="The most lines, counted from the end.")] = 1000,
) -> Response:
    """JSON, or the bare text with `Accept: text/plain`."""
    job = parts.store.job(job_id)
    wanted = attempt or job.attempt
    found = _log(parts, job.id, wanted)
    if found is None and attempt is not None:
        raise not_found(f"a log of attempt {attempt}")
    text, truncated = tail(found, lines) if found is not None else ([], False)
    if "text/plain" in request.headers.get("accept", ""):
        return PlainTextResponse("".join(f"{line}\n" for line in text))
    body = {"object": "logs", "job_id": job.id, "attempt": wanted or None, "lines": text, "truncated": truncated}
    return JSONResponse(body)


def _log(parts: Service, job_id: str, attempt: int) -> Any:
    try:
        return dict(parts.folder.logs(job_id)).get(attempt)
    except UnsafeName:
        return None
