"""/v1/files: uploads, stored once by content, read once into arrays."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.responses import JSONResponse

from app.answers import answer
from app.ingest import agrees, prepare, preview
from app.job_json import timestamp
from app.limits import need_room
from app.lists import After, Limit, Order, envelope
from app.once import Once
from app.problems import unavailable
from app.state import Parts, Service
from app.upload import Upload, receive
from jobs.deleting import delete_file
from jobs.replies import Answered
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
        507: {"description": "The disk is nearly full"},
    },
)
async def upload_file(request: Request, parts: Parts, once: Once, format: Format = "auto") -> JSONResponse:
    """Takes a data file or a model as the part `file`, reads it once and answers with a preview of what it holds."""
    announced = request.headers.get("content-length", "0")
    need_room(parts, min(int(announced), parts.settings.max_upload_bytes) if announced.isdigit() else 0)
    async with contextmanager_in_threadpool(parts.folder.incoming()) as incoming:
        upload = await receive(request, incoming, parts.settings.max_upload_bytes)
        await run_in_threadpool(once.look, [upload.sha256, upload.name, upload.media_type, format])
        # The upload is read before it is kept: a file that no job could use leaves nothing behind.
        prepared = parts.folder.prepared(upload.sha256)
        if (prepared / "schema.json").exists():
            agrees(prepared, format)
        else:
            await prepare(upload.path, prepared, format)
        return _answer(await run_in_threadpool(_keep, parts, upload, once.keeping(_answer)))


def _answer(added: tuple[File, bool]) -> JSONResponse:
    file, new = added
    return JSONResponse(file_body(file), 201 if new else 200, {"Location": f"/v1/files/{file.id}"})


def _keep(parts: Service, upload: Upload, answered: Answered[tuple[File, bool]] | None) -> tuple[File, bool]:
    prepared = parts.folder.prepared(upload.sha256)
    with parts.folder.exclusively():
        if not (prepared / "schema.json").exists():
            raise unavailable("file-being-deleted", "these very bytes were being deleted: send them again")
        parts.folder.keep(upload.path, upload.sha256)
        return parts.store.add_file(
            sha256=upload.sha256,
            name=upload.name,
            size_bytes=upload.size_bytes,
            preview=preview(prepared),
            media_type=upload.media_type,
            answered=answered,
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


@router.delete(
    "/v1/files/{file_id}",
    status_code=204,
    summary="Delete a file",
    response_class=Response,
    responses={409: {"description": "A job that has not ended names it"}},
)
def remove_file(parts: Parts, file_id: str) -> Response:
    """With what was read from it. Jobs that have ended keep their results, and need it again only for a retry."""
    delete_file(parts.store, parts.folder, file_id)
    return Response(status_code=204)


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
