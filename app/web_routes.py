"""`/`, `/docs` and `/web/...`: the pages and their files, as they lie in app/web/."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

WEB = Path(__file__).parent / "web"

router = APIRouter(include_in_schema=False)


@router.get("/", response_class=FileResponse)
async def page() -> FileResponse:
    """The dashboard. Always revalidated, so that a new version of the server is a new version of the page."""
    return _page("index.html")


@router.get("/docs", response_class=FileResponse)
async def docs() -> FileResponse:
    """The API's documentation, drawn by Swagger UI from /openapi.json."""
    return _page("docs.html")


def _page(name: str) -> FileResponse:
    return FileResponse(WEB / name, media_type="text/html; charset=utf-8", headers={"Cache-Control": "no-cache"})


def mount(app: FastAPI) -> None:
    """Adds the page and its static files."""
    app.include_router(router)
    app.mount("/web", StaticFiles(directory=WEB, check_dir=False), name="web")
