"""A database that is locked, full or read-only for a while costs no job an attempt and no curve a point."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from jobs.database import open_engine
from tests.faults import Trouble, locked
from tests.workers.conftest import Driver, Place
from tests.workers.test_supervisor import fork_worker, wait_for

ITERATIONS = 400


@pytest.fixture
def impatient(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The same queue through an engine whose writers wait a twentieth of a second."""
    monkeypatch.setattr("workers.supervisor.TROUBLE_SECONDS", 0.02)
    engine = open_engine(place.root / "postgrad.db", patience_seconds=0.05)
    yield Place(place.root, engine)
    engine.dispose()


@contextmanager
def full(place: Place) -> Iterator[None]:
    trouble = Trouble(place.engine)
    trouble.full()
    yield
    trouble.well()


@contextmanager
def read_only(place: Place) -> Iterator[None]:
    trouble = Trouble(place.engine)
    trouble.read_only()
    yield
    trouble.well()


def locked_by_another(place: Place) -> AbstractContextManager[None]:
    return locked(place.root / "postgrad.db")


FAULTS = {"locked": locked_by_another, "full": full, "read-only": read_only}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_points_are_kept_and_written_when_the_database_is_back(
    impatient: Place, place: Place, caplog: pytest.LogCaptureFixture, fault: object
) -> None:
    """Three leases long, while a second worker looks for leases that ran out."""
    driver, other = (Driver(impatient, impatient.supervisor(lease_seconds=0.5)) for _ in range(2))
    other.supervisor._slots.take("cpu")  # it would only look on
    job_id = place.submit(iterations=ITERATIONS, wait_for="go")
    driver.until_iteration(job_id, 10)
    with fault(impatient):  # type: ignore[operator]
        (place.folder.job(job_id) / "go").touch()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            driver.supervisor.turn()
            other.supervisor.turn()
        assert "waits for the database" in caplog.text
        assert place.store.job(job_id).state == "running"  # and reads work
    job = driver.until_ended(job_id)
    assert (job.state, job.attempt, job.attempts_spent) == ("succeeded", 1, 0), place.store.events(job_id)
    assert place.losses(job_id) == list(range(1, ITERATIONS + 1))
    kinds = place.kinds(job_id)
    assert [kinds.count(kind) for kind in ("started", "succeeded", "requeued")] == [1, 1, 0]
    for each in (driver, other):
        each.supervisor.close()


def test_an_end_that_could_not_be_written_is_written_later(impatient: Place, place: Place) -> None:
    driver = Driver(impatient, impatient.supervisor())
    job_id = place.submit(wait_at=8, ignore_stop=True)
    driver.until_iteration(job_id, 7)
    (pid,) = driver.supervisor._launcher.children  # type: ignore[attr-defined]
    with locked_by_another(impatient):
        os.kill(pid, signal.SIGKILL)
        for _ in range(5):
            driver.supervisor.turn()
        assert len(driver.supervisor._watches) == 1
    job = driver.until_ended(job_id)
    assert (job.state, job.attempt) == ("succeeded", 2)
    requeued = [event.message for event in place.store.events(job_id).data if event.kind == "requeued"]
    assert len(requeued) == 1
    assert "SIGKILL" in requeued[0]
    driver.supervisor.close()


def test_what_waits_for_the_database_is_bounded(impatient: Place, place: Place) -> None:
    """The trainer is held up by its own channel: it writes no more than that takes and what was received at once."""
    driver = Driver(impatient, impatient.supervisor())
    job_id = place.submit(iterations=10**6, flood=True)
    driver.until_iteration(job_id, 10)
    with locked_by_another(impatient):
        for _ in range(20):
            driver.supervisor.turn()
        (watch,) = driver.supervisor._watches
        kept = len(watch._untaken)
        for _ in range(20):
            driver.supervisor.turn()
        assert 0 < kept == len(watch._untaken)
    driver.until_iteration(job_id, 2 * kept)
    driver.supervisor.close()


def test_a_worker_that_is_told_to_stop_does_not_wait_for_ever(
    impatient: Place, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.supervisor.GIVE_BACK_SECONDS", 0.2)
    monkeypatch.setattr("workers.supervisor.LAST_WORDS_SECONDS", 0.2)
    driver = Driver(impatient, impatient.supervisor())
    job_id = place.submit(wait_at=8, ignore_stop=True)
    driver.until_iteration(job_id, 7)
    driver.supervisor.stop()
    with locked_by_another(impatient):
        driver.until(lambda: driver.supervisor._done())
        driver.supervisor.close()
    assert place.store.job(job_id).state == "running"  # until its lease runs out


def test_a_worker_that_starts_while_the_database_is_locked_waits_for_it(impatient: Place, place: Place) -> None:
    with locked_by_another(impatient):
        pid = fork_worker(impatient)
        time.sleep(0.3)  # it may have tried by now
        assert place.store.workers() == []
    wait_for(place.store.workers)
    os.kill(pid, signal.SIGTERM)
    assert os.waitpid(pid, 0)[1] == 0
