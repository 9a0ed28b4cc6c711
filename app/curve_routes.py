"""/v1/jobs/{id}/metrics: the curve, whole, thinned, or what is new since a cursor."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response, StreamingResponse

from app.answers import answer
from app.curve_json import curve_body, curve_csv, dumps
from app.problems import Problem
from app.state import Parts
from jobs.cursors import FORM, InvalidCursor
from jobs.curves import DEFAULT_MAX_POINTS, CurveView

router = APIRouter(tags=["curves"])

MAX_CURSOR_CHARACTERS = 20_000
MOST_POINTS = 100_000_000

CursorText = Annotated[
    str | None,
    Query(
        max_length=MAX_CURSOR_CHARACTERS,
        description="What was written since this cursor.",
        json_schema_extra={"pattern": f"^{FORM.pattern}$"},  # said, not enforced: the reader has a better sentence
    ),
]


def invalid_cursor(parameter: str, reason: InvalidCursor) -> Problem:
    """422: a cursor that no answer about this job gave."""
    errors = [{"pointer": "", "parameter": parameter, "code": "invalid_cursor", "detail": str(reason)}]
    return Problem(422, "invalid-parameter", "A parameter is not valid", f"check the parameter {parameter}", errors)


@router.get(
    "/v1/jobs/{job_id}/metrics",
    summary="Read the curve",
    responses={
        200: {"content": answer("Metrics")["content"] | {"text/csv": {"schema": {"type": "string"}}}},
        304: {"description": "Not changed since If-None-Match"},
    },
)
def read_metrics(
    parts: Parts,
    job_id: str,
    name: Annotated[list[str] | None, Query(max_length=1000, description="Only series of this name; repeatable.")] = None,
    after: Annotated[int | None, Query(ge=0, le=2**62, description="Only steps greater than this.")] = None,
    cursor: CursorText = None,
    max_points: Annotated[
        int, Query(ge=0, le=MOST_POINTS, description="The most points of each series; 0 gives every point.")
    ] = DEFAULT_MAX_POINTS,
    accept: Annotated[str, Header()] = "application/json",
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Thinning keeps the first and the last point, each bucket's lowest and highest, and non-finite ones."""
    job = parts.store.job(job_id)
    as_csv = prefers_csv(accept)
    revision, writes = parts.curves.version(job_id)
    tag = f'"{job.state}-{revision}-{writes}-{"csv" if as_csv else "json"}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Accept"}
    if _known(tag, if_none_match):
        return Response(status_code=304, headers=headers)
    try:
        view = parts.curves.read(job_id, names=name, after=after, cursor=cursor, max_points=max_points)
    except InvalidCursor as reason:
        raise invalid_cursor("cursor", reason) from reason
    return _answer(view, job.state, as_csv, headers)


def _answer(view: CurveView, status: str, as_csv: bool, headers: dict[str, str]) -> Response:
    if as_csv:
        return StreamingResponse(curve_csv(view), media_type="text/csv; charset=utf-8", headers=headers)
    return Response(dumps(curve_body(view, status)), media_type="application/json", headers=headers)


def prefers_csv(accept: str) -> bool:
    """Whether an Accept header ranks text/csv above JSON; a tie is JSON."""
    ranges = dict(_media_range(part) for part in accept.split(","))
    return _quality(ranges, "text/csv") > _quality(ranges, "application/json")


def _media_range(part: str) -> tuple[str, float]:
    media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
    weights = [parameter[2:] for parameter in parameters if parameter.startswith("q=")]
    try:
        return media_type, float(weights[0]) if weights else 1.0
    except ValueError:
        return media_type, 0.0


def _quality(ranges: dict[str, float], media_type: str) -> float:
    wider = (media_type, media_type.partition("/")[0] + "/*", "*/*")
    return next((ranges[each] for each in wider if each in ranges), 0.0)


def _known(tag: str, if_none_match: str | None) -> bool:
    known = {each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")}
    return tag in known or "*" in known
