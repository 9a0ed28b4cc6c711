"""What may be asked of a job: cancel, pause, resume, retry, delete. 200: it is so now; 202: it was asked, and will be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Response
from fastapi.responses import JSONResponse

from app.answers import answer
from app.body import read_json
from app.job_json import entity_tag, job_body, versions_in
from app.limits import need_room
from app.once import Once
from app.problems import Problem, error
from app.state import Parts, Service
from jobs.arguments import did_you_mean, escape
from jobs.deleting import delete_job
from jobs.requests import FROM_CHECKPOINT, NO_CHECKPOINT
from jobs.spec import uploads_in
from jobs.states import CANCELLED, FAILED, RUNNING
from jobs.store import Job, UnknownFile, WrongState

router = APIRouter(tags=["jobs"])

Responses = dict[int | str, dict[str, Any]]

ORIGINS = ("start", "checkpoint")
CHANGED: Responses = {
    412: {"description": "The job has changed since the read that gave the tag in If-Match; nothing was done"}
}
WRONG_STATE: Responses = {409: {"description": "Not in this state of the job; the answer says what would be right"}}
DONE: Responses = {200: answer("Job")}
ASKED: Responses = {202: {"description": "Asked; the job runs until its process has stopped", **answer("Job")}}
IfMatch = Annotated[str | None, Header(description="Do it only if the job still has this `ETag`.")]
RETRY_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["from"],
                    "additionalProperties": False,
                    "properties": {
                        "from": {
                            "enum": list(ORIGINS),
                            "description": "`start` empties the curve; `checkpoint` goes on from the last one.",
                        }
                    },
                }
            }
        },
    }
}


@router.post("/v1/jobs/{job_id}/cancel", summary="Ask a job to stop", responses=DONE | ASKED | CHANGED)
def cancel_job(parts: Parts, job_id: str, if_match: IfMatch = None) -> JSONResponse:
    """Safe to repeat; a job that has ended stays as it ended."""
    return _answer(parts, parts.store.request_cancel(job_id, versions_in(if_match)))


@router.post("/v1/jobs/{job_id}/pause", summary="Ask a job to pause", responses=DONE | ASKED | WRONG_STATE | CHANGED)
def pause_job(parts: Parts, job_id: str, if_match: IfMatch = None) -> JSONResponse:
    """A running job saves its place and frees its device. Safe to repeat."""
    return _answer(parts, parts.store.request_pause(job_id, versions_in(if_match)))


@router.post("/v1/jobs/{job_id}/resume", summary="Let a paused job go on", responses=DONE | WRONG_STATE | CHANGED)
def resume_job(parts: Parts, job_id: str, if_match: IfMatch = None) -> JSONResponse:
    """It goes back to the queue, and on from where it stood. Takes back a pause that has not come about yet. Safe to repeat."""
    return _shown(parts, parts.store.resume(job_id, versions_in(if_match)), 200)


@router.post(
    "/v1/jobs/{job_id}/retry",
    summary="Run an ended job again",
    responses=DONE | WRONG_STATE | CHANGED,
    openapi_extra=RETRY_BODY,
)
def retry_job(
    parts: Parts, job_id: str, body: Annotated[Any, Depends(read_json)], once: Once, if_match: IfMatch = None
) -> JSONResponse:
    """Under the same id, as a new attempt with `max_attempts` before it: from the start with an empty curve, or from the last
    checkpoint. What the run before left can be downloaded until the new attempt begins."""
    from_checkpoint = _origin(body) == "checkpoint"
    once.look(body)
    need_room(parts)
    job = parts.store.job(job_id)
    if from_checkpoint and job.state in (FAILED, CANCELLED) and not parts.folder.has_checkpoint(job.id):
        raise WrongState(FROM_CHECKPOINT, job.state, NO_CHECKPOINT)
    summary = parts.curves.summary(job.id) if from_checkpoint else {}

    def retried(job: Job) -> JSONResponse:
        return JSONResponse(job_body(job, summary), headers={"ETag": entity_tag(job)})

    try:
        job = parts.store.retry(
            job.id,
            from_checkpoint=from_checkpoint,
            files=uploads_in(json.loads(job.spec)),
            versions=versions_in(if_match),
            answered=once.keeping(retried),
        )
    except UnknownFile as gone:
        detail = f"its file {gone.file_id} was deleted: upload the same bytes again, which gives the same id, and then retry"
        raise Problem(409, "file-deleted", "A file of the job was deleted", detail) from gone
    return retried(job)


@router.delete(
    "/v1/jobs/{job_id}", status_code=204, summary="Delete a job", response_class=Response, responses=WRONG_STATE | CHANGED
)
def remove_job(parts: Parts, job_id: str, if_match: IfMatch = None) -> Response:
    """With its events, curve, checkpoints, results and logs. Not while it runs."""
    delete_job(parts.store, parts.folder, job_id, versions_in(if_match))
    return Response(status_code=204)


def _answer(parts: Service, job: Job) -> JSONResponse:
    return _shown(parts, job, 202 if job.state == RUNNING else 200)


def _shown(parts: Service, job: Job, status: int) -> JSONResponse:
    return JSONResponse(job_body(job, parts.curves.summary(job.id)), status, {"ETag": entity_tag(job)})


def _origin(body: Any) -> str:
    """ "start" or "checkpoint". Raises Problem with everything that is wrong with the body."""
    problems = list(_problems(body))
    if problems:
        detail = "the body says where the retry begins"
        raise Problem(422, "invalid-retry", "The retry is not valid", detail, problems)
    return str(body["from"])


def _problems(body: Any) -> Iterator[dict[str, str]]:
    if not isinstance(body, dict):
        yield error("", "wrong_type", 'the body is an object: {"from": "start"} or {"from": "checkpoint"}')
        return
    for key in body.keys() - {"from"}:
        yield error(f"/{escape(key)}", "unknown_field", f"there is no such field{did_you_mean(key, ['from'])}")
    if "from" not in body:
        yield error("/from", "missing", "from is missing: start or checkpoint")
    elif body["from"] not in ORIGINS:
        yield error("/from", "unknown_choice", "from is start or checkpoint")
