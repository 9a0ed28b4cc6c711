"""A real queue in a real SQLite file, and a worker that is driven turn by turn."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from jobs.curves import Curves
from jobs.database import open_engine
from jobs.files import DataFolder
from jobs.profiles import PLAIN, Offer
from jobs.records import Job
from jobs.store import Store
from jobs.tables import metadata
from tests.workers.stub import StubLauncher
from workers.assigning import Bounds
from workers.devices import Device
from workers.launcher import Launcher
from workers.supervisor import Supervisor

PATIENCE_SECONDS = 20.0
TINY_SET = {"type": "builtin", "name": "tiny"}


@dataclasses.dataclass
class Place:
    """A data folder with its database."""

    root: Path
    engine: sa.Engine

    @property
    def folder(self) -> DataFolder:
        return DataFolder(self.root, self.root / "sets")

    @property
    def store(self) -> Store:
        return Store(self.engine)

    @property
    def curves(self) -> Curves:
        return Curves(self.engine)

    def submit(
        self, dataset: dict[str, Any] = TINY_SET, timeout_seconds: float | None = None, profile: Offer = PLAIN, **plan: Any
    ) -> str:
        spec = {"dataset": dataset, "model": {}, "stub": {"iterations": 20, **plan}}
        return self.store.create_job(
            spec=json.dumps(spec),
            name=None,
            metadata={},
            effective_spec={},
            parameters={"total": 1, "trainable": 1},
            epochs=1,
            device="auto",
            max_attempts=3,
            threads=1,
            timeout_seconds=timeout_seconds,
            profile=profile,
        ).id

    def losses(self, job_id: str) -> list[int]:
        """The steps of train/loss, in order."""
        view = self.curves.read(job_id, ["train/loss"], max_points=0)
        return [int(step) for series in view.series for step in series.steps]

    def kinds(self, job_id: str) -> list[str]:
        return [event.kind for event in self.store.events(job_id).data]

    def supervisor(
        self, launcher: Launcher | None = None, cpu_slots: int = 1, lease_seconds: float = 30.0, bounds: Bounds | None = None
    ) -> Supervisor:
        parts = (self.store, self.curves, self.folder, launcher or StubLauncher(), [Device("cpu", "test")])
        return Supervisor(*parts, cpu_slots=cpu_slots, lease_seconds=lease_seconds, bounds=bounds)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "sets" / "tiny").mkdir(parents=True)
    engine = open_engine(tmp_path / "postgrad.db")
    metadata.create_all(engine)
    yield Place(tmp_path, engine)
    engine.dispose()


class Driver:
    """Turns a supervisor until something is so."""

    def __init__(self, place: Place, supervisor: Supervisor) -> None:
        self.place, self.supervisor = place, supervisor
        supervisor.register()

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "it did not come to pass"
            self.supervisor.turn()

    def until_ended(self, job_id: str) -> Job:
        self.until(lambda: self.place.store.job(job_id).finished_at)
        return self.place.store.job(job_id)

    def until_iteration(self, job_id: str, iteration: int) -> None:
        self.until(lambda: self.place.store.job(job_id).iteration >= iteration)


@pytest.fixture
def driver(place: Place) -> Iterator[Driver]:
    driver = Driver(place, place.supervisor())
    yield driver
    driver.supervisor.close()
