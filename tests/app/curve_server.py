"""A real HTTP server over a real queue, without a checker or a worker: the tests write the curves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI

from app import curve_routes, problems, streams
from app.checker import Checker
from app.security import Gate
from app.state import Service
from jobs.curves import Curves
from jobs.files import DataFolder
from jobs.room import Room
from jobs.settings import Settings
from jobs.store import Store
from tests.jobs.queue_of_jobs import add_job, open_store

LOSS = "train/loss"
SPEC = '{"batch_size": 32}'


@dataclass
class Event:
    """One server-sent event."""

    name: str
    data: Any
    id: str | None


class CurveServer:
    """Serves the curve and stream routes from a data folder; may be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.store: Store = open_store(folder)
        self.curves = Curves(self.store.engine)
        self.folder = DataFolder(folder, folder)
        self.start()

    def start(self) -> None:
        self.stopping = threading.Event()
        settings = Settings(data_dir=self.folder.root)
        parts = (settings, self.store.engine, self.store, self.curves, self.folder, Room.of(settings), Checker(), self.stopping)
        app = FastAPI()
        app.state.service = Service(*parts)
        problems.install(app)
        app.include_router(curve_routes.router)
        app.include_router(streams.router)
        app.state.store = self.store
        app.add_middleware(Gate, settings=settings)
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10)

    def stop(self) -> float:
        """Seconds until the server was down."""
        began = time.monotonic()
        self.stopping.set()
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()
        return time.monotonic() - began

    def close(self) -> None:
        self.client.close()
        self.stop()
        self.store.engine.dispose()

    def unsent(self) -> int:
        """Bytes that the server holds because their reader does not take them, the most of any connection."""
        connections: list[Any] = list(self._server.server_state.connections)
        return max((each.transport.get_write_buffer_size() for each in connections), default=0)

    def running_job(self) -> str:
        """The id of a job in its first attempt."""
        add_job(self.store, spec=SPEC)
        claim = self.store.claim("worker", ["cpu"], lease_seconds=60)
        assert claim is not None
        return claim.job_id

    def append(self, job: str, first: int, stop: int, name: str = LOSS, attempt: int = 1) -> None:
        """Points at steps first to stop - 1 whose values are 1 / step."""
        steps = np.arange(first, stop)
        self.curves.append(job, attempt, {name: (steps, 1 / steps)})

    def write_log(self, job: str, attempt: int, text: str) -> None:
        self.folder.make_job(job)
        with self.folder.log(job, attempt).open("a") as log:
            log.write(text)

    @contextmanager
    def stream(self, job: str, **headers: str) -> Iterator[Iterator[Event]]:
        """The events of an open stream, as they come."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        with self.client.stream("GET", f"/v1/jobs/{job}/stream", headers=sent) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            yield events(response.iter_lines())


def events(lines: Iterator[str]) -> Iterator[Event]:
    """Parses server-sent events; comments and `retry` are left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        if "data" in fields:
            yield Event(fields["event"], orjson.loads(fields["data"]), fields.get("id"))
        fields = {}


def until(stream: Iterator[Event], name: str) -> list[Event]:
    """The events up to and with the first one of this name."""
    seen = []
    for event in stream:
        seen.append(event)
        if event.name == name:
            return seen
    raise AssertionError(f"the stream closed before {name!r}: {[event.name for event in seen]}")


def steps_of(seen: list[Event], series: str = LOSS) -> list[int]:
    """The steps that a client holds after these events, resets obeyed."""
    held: list[int] = []
    for event in seen:
        if event.name == "reset":
            held = [step for step in held if step <= event.data["truncate_after"]]
        if event.name == "metrics":
            held += [step for each in event.data["series"] if each["name"] == series for step in each["steps"]]
    return held
