"""What is old goes, with everything that is its own; what somebody needs stays."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobs import tables as t
from jobs.database import writing
from jobs.files import DataFolder
from jobs.pruning import Pruned, prune
from jobs.store import Job, UnknownFile, UnknownJob
from tests.jobs.queue_of_jobs import add_job, open_store

NOW = datetime.now(UTC)
OLD, CUT, YOUNG = NOW - timedelta(days=40), NOW - timedelta(days=30), NOW - timedelta(days=20)


class Place:
    """A store with its folder, and a past."""

    def __init__(self, root: Path) -> None:
        self.store, self.folder = open_store(root), DataFolder(root, root / "sets")

    def prune(self, **options: bool) -> Pruned:
        return prune(self.store, self.folder, CUT, **options)

    def job(self, ended_at: datetime | None, files: tuple[str, ...] = (), spec: str | None = None) -> Job:
        """One that was cancelled at that time, or waits; with a checkpoint of some size."""
        job = add_job(self.store, files=files, **({} if spec is None else {"spec": spec}))
        folder = self.folder.make_job(job.id)
        (folder / "checkpoints" / "1.pt").write_bytes(os.urandom(50_000))
        if ended_at is not None:
            self.store.request_cancel(job.id)
            with writing(self.store.engine) as connection:
                connection.execute(sa.update(t.jobs).where(t.jobs.c.id == job.id).values(finished_at=ended_at))
        return job

    def upload(self, content: bytes, at: datetime) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        with self.folder.incoming() as incoming:
            incoming.write_bytes(content)
            self.folder.keep(incoming, sha256)
        self.folder.prepared(sha256).mkdir()
        file, _ = self.store.add_file(sha256=sha256, name="f", size_bytes=len(content), preview={})
        with writing(self.store.engine) as connection:
            connection.execute(sa.update(t.files).where(t.files.c.id == file.id).values(created_at=at))
        return file.id

    def pin(self, content: bytes, at: datetime) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        with self.folder.incoming() as incoming:
            incoming.write_bytes(content)
            self.folder.keep_weights(incoming, sha256)
        os.utime(self.folder.weights(sha256), (at.timestamp(), at.timestamp()))
        return sha256

    def has(self, job: Job) -> bool:
        try:
            self.store.job(job.id)
        except UnknownJob:
            assert not self.folder.job(job.id).exists()
            return False
        assert self.folder.job(job.id).exists()
        return True


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def starting_from(sha256: str) -> str:
    return json.dumps({"dataset": {}, "model": {"init_from": {"job": "job_x", "artifact": "a", "sha256": sha256}}})


def test_jobs_that_ended_long_ago_go_and_others_stay(place: Place) -> None:
    old, young, waiting, paused = place.job(OLD), place.job(YOUNG), place.job(None), place.job(None)
    place.store.request_pause(paused.id)
    found = place.prune()
    assert (found.jobs, found.files, found.weights, found.has_more) == (1, 0, 0, False)
    assert found.freed_bytes >= 50_000
    assert [place.has(job) for job in (old, young, waiting, paused)] == [False, True, True, True]
    assert place.prune() == Pruned()


def test_a_dry_run_counts_the_same_and_removes_nothing(place: Place) -> None:
    file_id = place.upload(b"data" * 10_000, OLD)
    job = place.job(OLD, (file_id,))
    sha256 = place.pin(b"weights" * 10_000, OLD)
    would = place.prune(dry_run=True)
    assert (would.jobs, would.files, would.weights) == (1, 1, 1)
    assert place.has(job)
    assert place.store.file(file_id)
    assert place.folder.weights(sha256).exists()
    assert place.prune() == would


def test_an_upload_goes_when_no_job_is_left_that_names_it(place: Place) -> None:
    lone, of_old, of_young, of_waiting = (place.upload(bytes([n]) * 100, OLD) for n in range(4))
    recent = place.upload(b"recent", YOUNG)
    place.job(OLD, (of_old,))
    place.job(OLD, (of_young,))
    place.job(YOUNG, (of_young,))
    place.job(None, (of_waiting,))
    assert place.prune().files == 2
    for file_id in (lone, of_old):
        with pytest.raises(UnknownFile):
            place.store.file(file_id)
    for file_id in (of_young, of_waiting, recent):
        file = place.store.file(file_id)
        assert place.folder.file(file.sha256).exists()
    assert len(list((place.folder.root / "files").glob("*.prepared"))) == 3


def test_pinned_weights_go_with_the_last_job_that_starts_from_them(place: Place) -> None:
    lone, of_old, of_waiting = (place.pin(bytes([n]) * 100, OLD) for n in range(3))
    recent = place.pin(b"recent", NOW)
    place.job(OLD, spec=starting_from(of_old))
    place.job(None, spec=starting_from(of_waiting))
    assert place.prune().weights == 2
    assert place.folder.pinned() == sorted([of_waiting, recent])
    assert not place.folder.weights(lone).exists()


def test_weights_pinned_a_moment_ago_stay_even_when_everything_is_old(place: Place) -> None:
    """Their job is about to be made."""
    sha256 = place.pin(b"weights", NOW)
    assert prune(place.store, place.folder, datetime.now(UTC) + timedelta(days=1)).weights == 0
    assert place.folder.pinned() == [sha256]


def test_a_job_that_is_retried_meanwhile_stays(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    job = place.job(OLD)
    before = DataFolder.size_of

    def retry_first(folder: DataFolder, name: str) -> int:
        place.store.retry(job.id, from_checkpoint=False)
        return before(folder, name)

    monkeypatch.setattr(DataFolder, "size_of", retry_first)
    assert place.prune().jobs == 0
    assert place.has(job)
    assert place.store.job(job.id).state == "queued"


def test_a_file_that_a_new_job_names_meanwhile_stays(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    file_id = place.upload(b"data", OLD)
    before = DataFolder.size_of

    def name_it_first(folder: DataFolder, name: str) -> int:
        place.job(None, (file_id,))
        return before(folder, name)

    monkeypatch.setattr(DataFolder, "size_of", name_it_first)
    assert place.prune().files == 0
    assert place.store.file(file_id)


def test_so_many_at_once_and_the_oldest_first(place: Place) -> None:
    jobs = [place.job(OLD - timedelta(days=n)) for n in range(5)]
    counts = [prune(place.store, place.folder, CUT, limit=2) for _ in range(3)]
    assert [(found.jobs, found.has_more) for found in counts] == [(2, True), (2, True), (1, False)]
    assert not any(place.has(job) for job in jobs)


def test_a_job_without_a_folder_goes_too(place: Place) -> None:
    job = place.job(OLD)
    place.folder.remove(job.id)
    assert (place.prune().jobs, place.has(job)) == (1, False)


def test_it_does_not_follow_a_link_out_of_a_jobs_folder(place: Place, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(bytes(100_000))
    job = place.job(OLD)
    (place.folder.job(job.id) / "artifacts" / "link").symlink_to(outside)
    assert place.prune().freed_bytes < 100_000
    assert (outside / "kept").exists()
