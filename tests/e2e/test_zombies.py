"""A worker that was stopped past its lease and goes on changes nothing: no state, no event, no point, no file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import Service, mlp, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LEASE_SECONDS = 1.0
# A checkpoint every epoch of 15 iterations: the trainer is writing files most of the time.
SPEC = mlp(name="zombie", epochs=150, checkpoint={"every_n_epochs": 1, "every_seconds": None, "keep": 3})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The API, and two workers that share its data folder."""
    running = Service(tmp_path_factory.mktemp("zombies") / "data")
    running.start("--no-worker")
    settings = {"POSTGRAD_DATA_DIR": str(running.folder), "POSTGRAD_LEASE_SECONDS": str(LEASE_SECONDS)}
    environment = {**os.environ, **settings, "POSTGRAD_CPU_SLOTS": "1"}
    with (running.folder.parent / "workers.log").open("ab") as log:
        command = [sys.executable, "-m", "workers"]
        workers = [subprocess.Popen(command, env=environment, stdout=log, stderr=log) for _ in range(2)]
    try:
        wait_for(lambda: len(alive(running)) == 2, 90)
        yield running
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        running.stop()


def alive(place: Service) -> list[dict[str, Any]]:
    return [worker for worker in place.client.get("/v1/workers").json()["data"] if worker["alive"]]


class Zombie:
    """The worker that holds a job, with its processes from the supervisor down."""

    def __init__(self, place: Service, job_id: str) -> None:
        [self.row] = [worker for worker in alive(place) if job_id in worker["running"]]
        self._place = place
        self.supervisor = psutil.Process(self.row["pid"])
        [self.zygote] = self.supervisor.children()
        [self.trainer] = self.zygote.children()

    def stop(self, *, whole: bool) -> None:
        """Its lease then runs out: with all of its processes, or with the trainer still at work."""
        self.supervisor.suspend()
        # In the middle of a write it holds SQLite's only lock: nobody can take the job then, and so it is no zombie.
        while not writable(self._place.folder / "postgrad.db"):
            self.supervisor.resume()
            time.sleep(0.01)
            self.supervisor.suspend()
        for process in (self.zygote, self.trainer) if whole else ():
            process.suspend()

    def let_the_trainer_go_on(self) -> None:
        """Alone, for as long as it finds something to do: nobody is there to kill it."""
        self.trainer.resume()
        wait_for(self._idle, 30)

    def _idle(self) -> bool:
        # It waits for a word from its supervisor, or has ended and waits for its zygote to notice.
        with contextlib.suppress(psutil.NoSuchProcess):
            before = self.trainer.cpu_times()
            time.sleep(0.3)
            return self.trainer.status() != psutil.STATUS_RUNNING and self.trainer.cpu_times() == before
        return True

    def go_on(self) -> None:
        """Returns once the supervisor has seen what happened, and ended its trainer."""
        for process in (self.supervisor, self.zygote):
            process.resume()
        wait_for(lambda: not self.trainer.is_running() or self.trainer.status() == psutil.STATUS_ZOMBIE, 30)
        wait_for(lambda: self.row["id"] in [worker["id"] for worker in alive(self._place)], 30)


def writable(database: Path) -> bool:
    with contextlib.closing(sqlite3.connect(database, timeout=0.5, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        return True


def everything(place: Service, job_id: str) -> dict[str, Any]:
    """All that a user can read of a job, and every file in its folder but the log of the lost attempt, which is its own."""
    root = f"/v1/jobs/{job_id}"
    found = {part: place.client.get(root + part).text for part in ("", "/events", "/artifacts", "/logs")}
    found["/metrics"] = place.client.get(f"{root}/metrics", params={"max_points": 0}).text
    folder = place.folder / "jobs" / job_id
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "attempt-1.log"]
    return found | {str(path.relative_to(folder)): (path.stat().st_mtime_ns, digest(path)) for path in files}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("round_", range(3))
@pytest.mark.parametrize("whole", [True, False], ids=["all of its processes", "the supervisor only"])
def test_a_worker_that_was_stopped_past_its_lease_changes_nothing(place: Service, whole: bool, round_: int) -> None:
    wait_for(lambda: len(alive(place)) == 2, 30)
    job_id = place.submit(SPEC)
    first_stop = random.Random(round_).randrange(100, 1000)
    wait_for(lambda: place.job(job_id)["progress"]["iteration"] >= first_stop, 60)
    zombie = Zombie(place, job_id)
    zombie.stop(whole=whole)
    job = place.finished(job_id, 120)
    before = everything(place, job_id)
    assert (job["status"], job["attempt"], job["progress"]["iteration"]) == ("succeeded", 2, 2250)
    assert [event["kind"] for event in place.client.get(f"/v1/jobs/{job_id}/events").json()["data"]].count("requeued") == 1
    assert place.series(job_id)[0] == list(range(1, 2251))
    zombie.let_the_trainer_go_on()
    assert everything(place, job_id) == before
    zombie.go_on()
    assert everything(place, job_id) == before
    assert sorted(name for name in before if name.startswith("artifacts/")) == [
        "artifacts/model.best.safetensors",
        "artifacts/model.safetensors",
        "artifacts/spec.json",
    ]
