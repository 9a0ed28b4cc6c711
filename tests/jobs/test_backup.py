"""A copy of a data folder that is in use: whole, and never a checkpoint ahead of its curve."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from jobs.backup import UNDER_WAY, CannotBackUp, back_up
from jobs.curves import Curves
from jobs.database import open_engine
from jobs.files import DataFolder
from jobs.settings import Settings
from jobs.store import Store
from tests.jobs.queue_of_jobs import add_job, open_store

KEPT = 2


class Place:
    """A live data folder and where its copies go."""

    def __init__(self, root: Path) -> None:
        self.settings = Settings(data_dir=root / "data")
        self.store, self.folder = open_store(root / "data"), DataFolder.of(self.settings)
        self.curves = Curves(self.store.engine)
        self.target = root / "copy"

    def back_up(self) -> tuple[Store, DataFolder]:
        back_up(self.settings, self.target)
        return Store(open_engine(self.target / "postgrad.db")), DataFolder(self.target, self.settings.builtin_dir)

    def running_job(self) -> str:
        job = add_job(self.store)
        assert self.store.claim("w", ["cpu"], 1000) is not None
        self.folder.open_attempt(job.id, 1)
        return job.id

    def iterate(self, job_id: str, iteration: int) -> None:
        """What a worker and its trainer do: the point is stored, then the checkpoint is published, then an old one goes."""
        self.curves.append(job_id, 1, {"train/loss": (np.array([iteration]), np.array([0.5]))})
        folder = self.folder.checkpoints(job_id)
        for suffix, text in ((".pt", f"state {iteration}" * 10_000), (".json", json.dumps({"iteration": iteration}))):
            (folder / f"{iteration:012d}{suffix}.tmp").write_text(text)
            (folder / f"{iteration:012d}{suffix}.tmp").rename(folder / f"{iteration:012d}{suffix}")
        for suffix in (".json", ".pt"):
            (folder / f"{iteration - KEPT:012d}{suffix}").unlink(missing_ok=True)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def whole_checkpoints(folder: DataFolder, job_id: str) -> list[int]:
    manifests = folder.checkpoints(job_id).glob("*.json")
    return sorted(int(path.stem) for path in manifests if path.with_suffix(".pt").exists())


def test_no_checkpoint_is_ahead_of_its_curve_whenever_the_copy_is_made(place: Place, tmp_path: Path) -> None:
    job_id = place.running_job()
    stop = threading.Event()
    place.iterate(job_id, 1)

    def train() -> None:
        iteration = 2
        while not stop.is_set():
            place.iterate(job_id, iteration)
            iteration += 1

    trainer = threading.Thread(target=train)
    trainer.start()
    seen = set()
    try:
        for n in range(15):
            place.target = tmp_path / f"copy-{n}"
            store, folder = place.back_up()
            saved = whole_checkpoints(folder, job_id)
            (series,) = Curves(store.engine).read(job_id, max_points=0).series
            assert saved, "nothing to go on from"
            assert saved[-1] <= series.steps[-1]
            assert (folder.checkpoints(job_id) / f"{saved[-1]:012d}.pt").read_text() == f"state {saved[-1]}" * 10_000
            assert list(series.steps) == list(range(1, series.total + 1))
            seen.add(saved[-1])
            store.engine.dispose()
    finally:
        stop.set()
        trainer.join()
    assert len(seen) > 1, "it did not run meanwhile"


def test_what_runs_goes_back_to_the_queue_in_the_copy_and_runs_on_in_the_original(place: Place) -> None:
    job_id = place.running_job()
    place.iterate(job_id, 1)
    store, folder = place.back_up()
    copied = store.job(job_id)
    assert (copied.state, copied.attempts_spent) == ("queued", 0)
    assert store.events(job_id).data[-1].message == UNDER_WAY
    assert store.workers() == []
    assert place.store.job(job_id).state == "running"
    assert not [path for path in folder.job(job_id).rglob("*") if path.is_symlink()]  # the attempt's door


def test_an_ended_job_has_its_results_and_uploads_are_there(place: Place) -> None:
    content = b"a,b\n1,2\n"
    sha256 = hashlib.sha256(content).hexdigest()
    with place.folder.incoming() as incoming:
        incoming.write_bytes(content)
        place.folder.keep(incoming, sha256)
    place.folder.prepared(sha256).mkdir()
    (place.folder.prepared(sha256) / "schema.json").write_text("{}")
    file, _ = place.store.add_file(sha256=sha256, name="a.csv", size_bytes=len(content), preview={})
    with place.folder.incoming() as incoming:
        incoming.write_bytes(b"weights")
        place.folder.keep_weights(incoming, sha256)
    job_id = place.running_job()
    place.folder.artifact(job_id, "model.safetensors").write_bytes(b"learned")
    place.store.finish(job_id, 1, "succeeded")
    store, folder = place.back_up()
    assert store.job(job_id) == place.store.job(job_id)
    assert folder.artifact(job_id, "model.safetensors").read_bytes() == b"learned"
    assert folder.file(store.file(file.id).sha256).read_bytes() == content
    assert (folder.prepared(sha256) / "schema.json").exists()
    assert folder.weights(sha256).read_bytes() == b"weights"


def test_a_job_that_ends_after_its_folder_was_copied_has_its_last_results(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = place.running_job()
    result = place.folder.artifact(job_id, "model.safetensors")
    result.write_bytes(b"early")
    before = DataFolder.exclusively

    def end_first(folder: DataFolder) -> object:
        result.write_bytes(b"at the end")
        place.store.finish(job_id, 1, "succeeded")
        return before(folder)

    monkeypatch.setattr(DataFolder, "exclusively", end_first)
    store, folder = place.back_up()
    assert store.job(job_id).state == "succeeded"
    assert folder.artifact(job_id, "model.safetensors").read_bytes() == b"at the end"


def test_a_job_that_is_retried_while_its_results_are_copied_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = place.running_job()
    place.store.finish(job_id, 1, "succeeded")

    def copy_and_retry(_engine: object, target: Path) -> None:
        place.store.engine.dispose()
        subprocess.run([sys.executable, "-c", COPY, str(place.folder.database), str(target)], check=True)
        place.store.retry(job_id, from_checkpoint=False)

    monkeypatch.setattr("jobs.backup.copy_sqlite", copy_and_retry)
    assert back_up(place.settings, place.target).changed == [job_id]


COPY = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('VACUUM INTO ?', sys.argv[2:])"


def test_a_target_that_holds_something_is_left_alone(place: Place) -> None:
    place.target.mkdir()
    (place.target / "mine").touch()
    with pytest.raises(CannotBackUp, match="is not empty"):
        place.back_up()
    assert os.listdir(place.target) == ["mine"]


def test_a_copy_that_is_cut_short_is_no_data_folder(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    add_job(place.store)

    def cut(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jobs.backup._complete", cut)
    with pytest.raises(OSError, match="No space"):
        place.back_up()
    assert not (place.target / "postgrad.db").exists()


def test_another_database_is_told_to_be_copied_by_its_own_means(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place.store.engine.dialect, "name", "postgresql")
    monkeypatch.setattr("jobs.backup.open_engine", lambda _: place.store.engine)
    with pytest.raises(CannotBackUp, match="the database is postgresql"):
        back_up(place.settings, place.target)
