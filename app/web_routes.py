"""`/` and `/web/...`: the page and its files, as they lie in app/web/."""

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
    return FileResponse(WEB / "index.html", media_type="text/html; charset=utf-8", headers={"Cache-Control": "no-cache"})


def mount(app: FastAPI) -> None:
    """Adds the page and its static files."""
    app.include_router(router)
    app.mount("/web", StaticFiles(directory=WEB, check_dir=False), name="web")
