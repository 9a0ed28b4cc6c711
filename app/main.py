"""The API process, put together. Importing this starts nothing and loads neither torch nor workers."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import Depends, FastAPI

from app import (
    artifact_routes,
    catalog_routes,
    curve_routes,
    file_routes,
    health,
    job_routes,
    key_routes,
    once,
    openapi,
    problems,
    prune_routes,
    request_routes,
    streams,
    web_routes,
    worker_routes,
)
from app.lists import refuse_unknown_parameters
from app.methods import HeadAsGet
from app.retention import Retention
from app.security import Gate
from app.state import Service
from jobs.settings import Settings

DESCRIPTION = "POST a spec, watch the gradient descend: trains PyTorch models that are described by one JSON document."
ROUTERS = (
    job_routes.router,
    request_routes.router,
    curve_routes.router,
    streams.router,
    artifact_routes.router,
    file_routes.router,
    catalog_routes.router,
    worker_routes.router,
    key_routes.router,
    prune_routes.router,
    health.router,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """A new API over these settings, or those of the environment. Its parts open when the server starts it."""
    chosen = settings or Settings()
    app = FastAPI(
        title="postgrad",
        version=version("postgrad"),
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,  # our own: FastAPI's page loads its script from another host
        redoc_url=None,
        dependencies=[Depends(refuse_unknown_parameters)],
    )
    app.state.settings = chosen
    app.state.stopping = threading.Event()
    problems.install(app)
    once.install(app)
    for router in ROUTERS:
        app.include_router(router)
    web_routes.mount(app)
    app.add_middleware(HeadAsGet)
    app.add_middleware(Gate, settings=chosen)
    openapi.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service = Service.open(app.state.settings, app.state.stopping)
    app.state.service = service
    app.state.store, app.state.curves, app.state.folder = service.store, service.curves, service.folder
    app.state.engine = service.engine
    if (days := service.settings.retention_days) is not None:
        Retention(service.store, service.folder, days, service.stopping).start()
    try:
        yield
    finally:
        service.close()
