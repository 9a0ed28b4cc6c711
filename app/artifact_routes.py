"""/v1/jobs/{id}/artifacts: what a job leaves behind, with digests and ranges."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from app.answers import answer
from app.job_json import timestamp
from app.lists import envelope
from app.problems import Problem, not_found
from app.state import Parts
from jobs.errors import UnsafeName

router = APIRouter(tags=["artifacts"])

# Nothing that a browser would render or run.
MEDIA_TYPES = {".json": "application/json"}
OTHER_MEDIA_TYPE = "application/octet-stream"
BYTES: dict[str, Any] = {OTHER_MEDIA_TYPE: {}, MEDIA_TYPES[".json"]: {}}
UNFINISHED = ".tmp"
RANGE = re.compile(r"bytes=(?:(\d{1,99})-(\d{0,99})|-(\d{1,99}))")


@functools.lru_cache(maxsize=1024)
def _sha256(path: str, _size: int, _modified_ns: int) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def sha256(path: Path) -> bytes:
    """The digest of a file; computed once for as long as its size and time stay the same."""
    found = path.stat()
    return _sha256(str(path), found.st_size, found.st_mtime_ns)


@router.get("/v1/jobs/{job_id}/artifacts", summary="List a job's results", responses={200: answer("Artifacts")})
def list_artifacts(parts: Parts, job_id: str) -> JSONResponse:
    """Every finished artifact."""
    job = parts.store.job(job_id)
    folder = parts.folder.artifacts(job.id)
    bodies = []
    for name in _finished(folder):
        with contextlib.suppress(FileNotFoundError):  # a retry or a deletion has just removed it
            bodies.append(_body(job.id, folder / name))
    return JSONResponse(envelope(bodies, key="name"))


def _finished(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False))
    return [name for name in names if not name.startswith(".") and not name.endswith(UNFINISHED)]


def _body(job_id: str, path: Path) -> dict[str, Any]:
    found = path.stat()
    return {
        "object": "artifact",
        "name": path.name,
        "job_id": job_id,
        "bytes": found.st_size,
        "sha256": sha256(path).hex(),
        "media_type": _media_type(path),
        "created_at": timestamp(datetime.fromtimestamp(found.st_mtime, UTC)),
        "links": {"self": f"/v1/jobs/{job_id}/artifacts/{path.name}"},
    }


def _media_type(path: Path) -> str:
    return MEDIA_TYPES.get(path.suffix, OTHER_MEDIA_TYPE)


@router.get(
    "/v1/jobs/{job_id}/artifacts/{name}",
    summary="Download a result",
    response_class=Response,
    responses={
        200: {"content": BYTES},
        206: {"description": "The part that Range asks for", "content": BYTES},
        304: {"description": "The same bytes as in If-None-Match"},
        416: {"description": "No such range"},
    },
)
def download(request: Request, parts: Parts, job_id: str, name: str) -> Response:
    """The file. `ETag` and `Repr-Digest` are its SHA-256; one byte range may be asked for."""
    path = _find(parts, parts.store.job(job_id).id, name)
    try:
        digest = sha256(path)
    except FileNotFoundError as gone:  # by a retry or a deletion, a moment ago
        raise not_found("this artifact") from gone
    tag = f'"{digest.hex()}"'
    shown = f"sha-256=:{base64.b64encode(digest).decode()}:"
    headers = {"ETag": tag, "Repr-Digest": shown, "Cache-Control": "no-cache"}
    if tag in [known.strip() for known in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    if not _keeps_range(request, path.stat().st_size):
        headers["Content-Digest"] = shown  # of the bytes in this answer, so only where it is the whole file
    return FileResponse(path, headers=headers, media_type=_media_type(path), filename=name)


def _find(parts: Parts, job_id: str, name: str) -> Path:
    try:
        path = parts.folder.artifact(job_id, name)
    except UnsafeName as unsafe:
        raise not_found("this artifact") from unsafe
    if path.is_symlink() or not path.is_file() or name.endswith(UNFINISHED):
        raise not_found("this artifact")
    return path


def _keeps_range(request: Request, size: int) -> bool:
    """Whether a single satisfiable range is asked for. One that HTTP says to ignore is taken out of the request, because
    FileResponse would answer it with a bare 400. Raises Problem 416."""
    wanted = request.headers.get("range")
    if wanted is None:
        return False
    match = RANGE.fullmatch(wanted.replace(" ", ""))
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
        return False
    if (match[1] and int(match[1]) >= size) or (match[3] and int(match[3]) == 0):
        unsatisfied = {"Content-Range": f"bytes */{size}"}
        raise Problem(416, "range-not-satisfiable", "No such range", f"the artifact has {size} bytes", headers=unsatisfied)
    return True
