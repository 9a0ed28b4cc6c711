"""/v1/files: uploads, stored once by content, read once into arrays."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from app.answers import answer
from app.ingest import agrees, prepare, preview
from app.job_json import timestamp
from app.lists import After, Limit, Order, envelope
from app.state import Parts, Service
from app.upload import Upload, receive
from jobs.store import File

router = APIRouter(tags=["files"])

FORMATS = (
    "CSV with a header line, Parquet, NPZ, a ZIP of images in class folders or with a label CSV, or plain text; "
    "or a model: what postgrad.export wrote (.pt2), or Python source that defines a class."
)
Format = Annotated[
    Literal["auto", "csv", "text", "python"],
    Query(
        description="What the file is; `auto` tells by its content. CSV, plain text and Python can be taken for one another."
    ),
]
MULTIPART = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {"file": {"type": "string", "format": "binary", "description": FORMATS}},
                }
            }
        },
    }
}


@router.post(
    "/v1/files",
    status_code=201,
    summary="Upload a file",
    openapi_extra=MULTIPART,
    responses={
        200: {"description": "These very bytes are here already, under the same id", **answer("File")},
        201: answer("File"),
    },
)
async def upload_file(request: Request, parts: Parts, format: Format = "auto") -> JSONResponse:
    """Takes a data file or a model as the part `file`, reads it once and answers with a preview of what it holds."""
    incoming = await run_in_threadpool(parts.folder.incoming)
    try:
        upload = await receive(request, incoming, parts.settings.max_upload_bytes)
        # The upload is read before it is kept: a file that no job could use leaves nothing behind.
        prepared = parts.folder.prepared(upload.sha256)
        if (prepared / "schema.json").exists():
            agrees(prepared, format)
        else:
            await prepare(upload.path, prepared, format)
        file, new = await run_in_threadpool(_keep, parts, upload)
    finally:
        incoming.unlink(missing_ok=True)
    return JSONResponse(file_body(file), 201 if new else 200, {"Location": f"/v1/files/{file.id}"})


def _keep(parts: Service, upload: Upload) -> tuple[File, bool]:
    parts.folder.keep(upload.path, upload.sha256)
    return parts.store.add_file(
        sha256=upload.sha256,
        name=upload.name,
        size_bytes=upload.size_bytes,
        preview=preview(parts.folder.prepared(upload.sha256)),
        media_type=upload.media_type,
    )


@router.get("/v1/files", summary="List files", responses={200: answer("Files")})
def list_files(parts: Parts, after: After = None, limit: Limit = 20, order: Order = "desc") -> JSONResponse:
    """One page of uploads, without their previews."""
    page = parts.store.files(after=after, limit=limit, order=order)
    bodies = [{k: v for k, v in file_body(file).items() if k != "preview"} for file in page.data]
    return JSONResponse(envelope(bodies, has_more=page.has_more))


@router.get("/v1/files/{file_id}", summary="Read about a file", responses={200: answer("File")})
def read_file(parts: Parts, file_id: str) -> JSONResponse:
    """The file with a preview of its columns and first rows."""
    return JSONResponse(file_body(parts.store.file(file_id)))


def file_body(file: File) -> dict[str, Any]:
    """A file as JSON values."""
    return {
        "object": "file",
        "id": file.id,
        "name": file.name,
        "bytes": file.size_bytes,
        "sha256": file.sha256,
        "media_type": file.media_type,
        "created_at": timestamp(file.created_at),
        "preview": file.preview,
        "links": {"self": f"/v1/files/{file.id}"},
    }
