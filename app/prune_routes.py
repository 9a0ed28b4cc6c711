"""/v1/prune: removing what is old."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.answers import answer
from app.body import read_json
from app.callers import only
from app.job_json import timestamp
from app.problems import Problem, model_errors
from app.state import Parts
from jobs.keyring import ADMIN
from jobs.moves import now
from jobs.pruning import prune

router = APIRouter(tags=["jobs"], dependencies=[Depends(only(ADMIN, "removing what is old"))])

LONGEST_SECONDS = 100 * 366 * 86_400


class PruneWanted(BaseModel):
    """What POST /v1/prune takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    older_than_seconds: Annotated[float, Field(ge=0, le=LONGEST_SECONDS)] = Field(
        description="Removed are jobs that ended, and uploads that came, longer ago than this."
    )
    dry_run: bool = Field(default=False, description="Count what would go, and remove nothing.")


def wanted(body: Annotated[Any, Depends(read_json)]) -> PruneWanted:
    """The body, checked. Raises Problem 422."""
    try:
        return PruneWanted.model_validate(body)
    except ValidationError as invalid:
        raise Problem(422, "invalid-prune", "Nothing was removed", "say how old is old", model_errors(invalid)) from invalid


@router.post(
    "/v1/prune",
    summary="Remove old jobs and files",
    responses={200: {"description": "What went, or would go", **answer("Prune")}},
)
def prune_old(parts: Parts, body: Annotated[PruneWanted, Depends(wanted)]) -> JSONResponse:
    """Jobs that have ended, with their curves and files; uploads that no other job names; weights that such jobs started from.
    A few hundred at once: with `has_more` there are others, and the same request goes on."""
    before = now() - timedelta(seconds=body.older_than_seconds)
    found = prune(parts.store, parts.folder, before, dry_run=body.dry_run)
    shown = {"jobs": found.jobs, "files": found.files, "weights": found.weights, "freed_bytes": found.freed_bytes}
    told = {"object": "prune", "dry_run": body.dry_run, "before": timestamp(before)}
    return JSONResponse({**told, **shown, "has_more": found.has_more})
