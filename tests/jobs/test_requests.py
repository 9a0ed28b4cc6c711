"""Pause, resume, retry and delete, each alone and against the others. Random orders of them are in test_life_cycle.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from jobs import tables
from jobs.curves import Curves
from jobs.database import reading
from jobs.requests import Versions
from jobs.store import Failure, FileInUse, Job, LostLease, Store, UnknownFile, UnknownJob, VersionDiffers, WrongState
from tests.jobs.queue_of_jobs import add_job, open_store
from tests.jobs.test_leases import PAST, claim, start
from tests.jobs.test_store import kinds


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


def running(store: Store, **changes: Any) -> Job:
    """A job whose first attempt has begun and has three points."""
    job = add_job(store, **changes)
    claim(store)
    start(store, job.id, 1)
    Curves(store.engine).append(job.id, 1, {"train/loss": (np.array([1, 2, 3]), np.array([3.0, 2.0, 1.0]))})
    store.progressed(job.id, 1, epoch=1, iteration=3, samples_per_second=7.0)
    return store.job(job.id)


def ended(store: Store, state: str) -> Job:
    return store.finish(running(store).id, 1, state, Failure("error", "boom", "/loss") if state == "failed" else None)


# ---- pause and resume


def test_a_queued_job_is_paused_at_once_and_goes_back_to_its_place_in_line(store: Store) -> None:
    first, second = add_job(store), add_job(store)
    paused = store.request_pause(first.id)
    assert (paused.state, paused.finished_at, paused.waiting) == ("paused", None, None)
    assert paused.pause_requested_at is not None
    assert store.request_pause(first.id) == paused
    assert claim(store).job_id == second.id
    assert store.claim("w", ["cpu"], 30) is None
    resumed = store.resume(first.id)
    assert (resumed.state, resumed.pause_requested_at) == ("queued", None)
    assert store.resume(first.id).version == resumed.version
    assert claim(store).job_id == first.id
    assert kinds(store, first.id) == ["queued", "paused", "resumed", "claimed"]


def test_pausing_a_running_job_is_a_request_and_uses_up_no_attempt(store: Store) -> None:
    job = running(store, max_attempts=1)
    asked = store.request_pause(job.id)
    assert asked.state == "running"
    assert asked.pause_requested_at is not None
    assert store.request_pause(job.id) == asked
    paused = store.give_back(job.id, 1, "saved")
    assert (paused.state, paused.attempts_spent, paused.samples_per_second) == ("paused", 0, None)
    assert (paused.iteration, paused.environment) == (3, {"torch": "2.13"})
    with pytest.raises(LostLease):
        store.progressed(job.id, 1, epoch=1, iteration=4)
    assert store.resume(job.id).state == "queued"
    assert claim(store).attempt == 2
    assert kinds(store, job.id)[-4:] == ["pause_requested", "paused", "resumed", "claimed"]


@pytest.mark.parametrize("lost", ["crash", "lost worker"])
def test_a_worker_that_dies_over_a_pause_leaves_the_job_paused(store: Store, lost: str) -> None:
    job = add_job(store, max_attempts=2)
    for attempt, state in ((1, "paused"), (2, "failed")):
        claim(store, PAST)
        store.request_pause(job.id)
        if lost == "crash":
            store.end_attempt(job.id, attempt, "crashed", "signal 9")
        else:
            store.expire_leases()
        found = store.job(job.id)
        assert (found.state, found.attempts_spent) == (state, attempt)
        assert (found.pause_requested_at is not None) == (state == "paused")
        if state == "paused":
            store.resume(job.id)


def test_a_pause_that_is_taken_back_in_time_leaves_the_job_running(store: Store) -> None:
    job = running(store)
    store.request_pause(job.id)
    back = store.resume(job.id)
    assert (back.state, back.pause_requested_at) == ("running", None)
    assert store.resume(job.id) == back
    assert store.finish(job.id, 1, "succeeded").state == "succeeded"
    assert "pause_withdrawn" in kinds(store, job.id)


def test_a_pause_that_is_taken_back_too_late_ends_in_the_queue(store: Store) -> None:
    job = running(store, max_attempts=1)
    store.request_pause(job.id)
    store.resume(job.id)
    back = store.give_back(job.id, 1, "its place is saved")  # the trainer had heard of the pause already
    assert (back.state, back.attempts_spent) == ("queued", 0)


@pytest.mark.parametrize("order", ["pause first", "cancel first"])
def test_a_cancel_wins_over_a_pause(store: Store, order: str) -> None:
    job = running(store)
    if order == "pause first":
        store.request_pause(job.id)
    store.request_cancel(job.id)
    for call in (store.request_pause, store.resume):
        with pytest.raises(WrongState, match="its cancel has been asked for"):
            call(job.id)
    done = store.give_back(job.id, 1)
    assert (done.state, done.pause_requested_at) == ("cancelled", None)


def test_a_paused_job_is_cancelled_at_once(store: Store) -> None:
    job = add_job(store)
    store.request_pause(job.id)
    done = store.request_cancel(job.id)
    assert (done.state, done.pause_requested_at) == ("cancelled", None)
    assert done.finished_at is not None


def test_a_job_that_ends_before_it_could_be_paused_has_ended(store: Store) -> None:
    job = running(store)
    store.request_pause(job.id)
    done = store.finish(job.id, 1, "succeeded")
    assert (done.state, done.pause_requested_at) == ("succeeded", None)


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_an_ended_job_is_neither_paused_nor_resumed(store: Store, state: str) -> None:
    job = ended(store, state)
    with pytest.raises(WrongState, match=f"the job is {state}, so pause is refused: only a job that has not ended"):
        store.request_pause(job.id)
    with pytest.raises(WrongState, match="a job that has ended is run again by a retry"):
        store.resume(job.id)
    assert store.job(job.id) == job


# ---- retry


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_a_retry_from_the_start_is_as_good_as_new(store: Store, state: str) -> None:
    curves, job = Curves(store.engine), ended(store, state)
    read = curves.read(job.id).cursor
    again = store.retry(job.id, from_checkpoint=False)
    assert (again.state, again.attempt, again.attempts_spent, again.failure) == ("queued", 1, 0, None)
    assert (again.finished_at, again.started_at, again.environment, again.iteration) == (None, None, None, 0)
    assert again.created_at == job.created_at
    view = curves.read(job.id, cursor=read, max_points=0)
    assert (view.revision, view.truncate_after, view.series) == (1, 0, [])
    taken = claim(store)
    assert (taken.attempt, taken.environment) == (2, None)
    start(store, job.id, 2)
    curves.append(job.id, 2, {"train/loss": (np.array([1]), np.array([3.0]))})
    assert kinds(store, job.id)[-4:] == ["retried", "claimed", "started", "note"]


def test_a_retry_from_the_checkpoint_keeps_the_curve_and_has_all_attempts(store: Store) -> None:
    job = running(store, max_attempts=1)
    failed = store.end_attempt(job.id, 1, "crashed", "signal 9")
    assert (failed.state, failed.attempts_spent) == ("failed", 1)
    again = store.retry(job.id, from_checkpoint=True)
    assert (again.state, again.attempts_spent, again.iteration, again.started_at) == ("queued", 0, 3, failed.started_at)
    assert again.environment == failed.environment
    assert Curves(store.engine).version(job.id) == (0, 1)
    claim(store)
    assert store.give_back(job.id, 2).state == "queued"


def test_a_retried_job_is_not_cancelled_by_the_cancel_of_the_run_before(store: Store) -> None:
    job = running(store)
    store.request_cancel(job.id)
    store.finish(job.id, 1, "cancelled")
    assert store.retry(job.id, from_checkpoint=True).cancel_requested_at is None
    claim(store)
    assert store.give_back(job.id, 2).state == "queued"


def test_a_retry_from_the_checkpoint_needs_one_and_something_to_do(store: Store) -> None:
    job = ended(store, "succeeded")
    with pytest.raises(WrongState, match="every epoch is done and nothing is left to train; retry it from the start"):
        store.retry(job.id, from_checkpoint=True)
    never_ran = store.request_cancel(add_job(store).id)
    with pytest.raises(WrongState, match="it has no checkpoint; retry it from the start"):
        store.retry(never_ran.id, from_checkpoint=True)
    store.retry(job.id, from_checkpoint=False)
    store.request_cancel(job.id)
    with pytest.raises(WrongState, match="it has no checkpoint"):  # what lies on disk is of the run before
        store.retry(job.id, from_checkpoint=True)


@pytest.mark.parametrize("state", ["queued", "running", "paused"])
def test_a_job_that_has_not_ended_is_not_retried(store: Store, state: str) -> None:
    job = running(store) if state == "running" else add_job(store)
    if state == "paused":
        store.request_pause(job.id)
    before = store.job(job.id)
    with pytest.raises(WrongState, match=f"the job is {state}, so retry is refused: only a job that has ended"):
        store.retry(job.id, from_checkpoint=False)
    assert store.job(job.id) == before


# ---- delete


@pytest.mark.parametrize("state", ["queued", "paused", "succeeded", "failed", "cancelled"])
def test_a_deleted_job_leaves_no_row(store: Store, state: str) -> None:
    upload, _ = store.add_file(sha256="a" * 64, name="x.csv", size_bytes=3, preview={})
    kept = running(store, files=[upload.id])
    store.finish(kept.id, 1, "succeeded")
    job = running(store, files=[upload.id])
    if state in ("queued", "paused"):
        store.give_back(job.id, 1)
    if state == "paused":
        store.request_pause(job.id)
    if state not in ("queued", "paused"):
        store.finish(job.id, 1, state, Failure("error", "boom") if state == "failed" else None)
    store.delete_job(job.id)
    with reading(store.engine) as connection:
        for table in tables.metadata.sorted_tables:
            column = table.c.get("job_id", table.c.get("id"))
            if column is not None:
                assert job.id not in connection.scalars(sa.select(column)).all(), table.name
    for call in (store.job, store.delete_job, store.events, store.request_cancel, store.request_pause, store.resume):
        with pytest.raises(UnknownJob):
            call(job.id)
    assert store.job(kept.id).state == "succeeded"
    assert len(Curves(store.engine).read(kept.id).series[0].steps) == 3


def test_a_running_job_is_not_deleted(store: Store) -> None:
    job = running(store)
    with pytest.raises(WrongState, match="delete is refused: cancel or pause it first"):
        store.delete_job(job.id)
    assert store.job(job.id) == job


# ---- files


@pytest.mark.parametrize("state", ["queued", "running", "paused"])
def test_a_file_stays_as_long_as_a_job_may_need_it(store: Store, state: str) -> None:
    upload, _ = store.add_file(sha256="a" * 64, name="x.csv", size_bytes=3, preview={})
    job = running(store, files=[upload.id]) if state == "running" else add_job(store, files=[upload.id])
    if state == "paused":
        store.request_pause(job.id)
    with pytest.raises(FileInUse, match=f"{upload.id}' is named by job '{job.id}', which has not ended"):
        store.delete_file(upload.id)
    assert store.file(upload.id) == upload


def test_a_retry_needs_the_files_and_finds_them_again_when_they_are_uploaded_again(store: Store) -> None:
    described: dict[str, Any] = {"sha256": "a" * 64, "name": "x.csv", "size_bytes": 3, "preview": {}}
    upload, _ = store.add_file(**described)
    job = add_job(store, files=[upload.id])
    store.request_cancel(job.id)
    store.delete_file(upload.id)
    with pytest.raises(UnknownFile):
        store.delete_file(upload.id)
    before = store.job(job.id)
    with pytest.raises(UnknownFile, match=upload.id):
        store.retry(job.id, from_checkpoint=False, files=[upload.id])
    assert store.job(job.id) == before
    again, new = store.add_file(**described)
    assert (again.id, new) == (upload.id, True)
    store.retry(job.id, from_checkpoint=False, files=[upload.id])
    assert claim(store).files == [upload.id]
    with pytest.raises(FileInUse):
        store.delete_file(upload.id)


# ---- only if it has not changed


REQUESTS: dict[str, Callable[[Store, str, Versions], object]] = {
    "cancel": lambda store, job_id, versions: store.request_cancel(job_id, versions),
    "pause": lambda store, job_id, versions: store.request_pause(job_id, versions),
    "resume": lambda store, job_id, versions: store.resume(job_id, versions),
    "retry": lambda store, job_id, versions: store.retry(job_id, from_checkpoint=False, versions=versions),
    "delete": lambda store, job_id, versions: store.delete_job(job_id, versions),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
def test_a_request_for_a_job_that_has_changed_does_nothing(store: Store, request_: Callable[..., object]) -> None:
    job = store.request_cancel(add_job(store).id) if request_ is REQUESTS["retry"] else add_job(store)
    events = store.events(job.id)
    for versions in ([], [job.version - 1], [job.version + 1, 99]):
        with pytest.raises(VersionDiffers, match="has changed since it was read"):
            request_(store, job.id, versions)
    assert store.job(job.id) == job
    assert store.events(job.id) == events
    request_(store, job.id, [7, job.version])
