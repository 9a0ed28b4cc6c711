"""Pauses, and what may come between the asking and the stop, with a stub in the trainer's place."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.workers.conftest import Driver, Place
from tests.workers.stub import StubLauncher
from tests.workers.test_supervisor import fork_worker, wait_for
from workers.watch import GRACE_SECONDS, PAUSE


def until_state(driver: Driver, job_id: str, state: str) -> None:
    driver.until(lambda: driver.place.store.job(job_id).state == state)


def resumed_from(place: Place, job_id: str) -> list[int]:
    return [event.detail["resumed_from"] for event in place.store.events(job_id).data if event.kind == "started"]


def test_a_pause_frees_the_device_and_keeps_the_place(place: Place, driver: Driver) -> None:
    job_id = place.submit(wait_at=8)
    driver.until_iteration(job_id, 7)
    place.store.request_pause(job_id)
    until_state(driver, job_id, "paused")
    assert place.losses(job_id) == list(range(1, 8))
    assert driver.until_ended(place.submit()).state == "succeeded"  # in the only slot
    place.store.resume(job_id)
    job = driver.until_ended(job_id)
    assert (job.state, job.attempt, job.attempts_spent) == ("succeeded", 2, 0)
    assert resumed_from(place, job_id) == [0, 7]
    assert place.losses(job_id) == list(range(1, 21))
    assert [kind for kind in place.kinds(job_id) if "pause" in kind or kind == "resumed"] == [
        "pause_requested",
        "paused",
        "resumed",
    ]


def test_a_pause_waits_for_nobody(place: Place, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GRACE_SECONDS, PAUSE, 0.3)
    job_id = place.submit(wait_at=8, ignore_stop=True)
    driver.until_iteration(job_id, 7)
    place.store.request_pause(job_id)
    until_state(driver, job_id, "paused")
    job = place.store.job(job_id)
    assert job.attempts_spent == 0
    told = next(event.message for event in place.store.events(job_id).data if event.kind == "paused")
    assert "did not stop in time and goes on from its checkpoint" in told
    place.store.resume(job_id)
    assert driver.until_ended(job_id).state == "succeeded"
    assert resumed_from(place, job_id) == [0, 5]
    assert place.losses(job_id) == list(range(1, 21))


def test_a_pause_that_is_taken_back_late_goes_on_by_itself(place: Place, driver: Driver) -> None:
    job_id = place.submit(wait_at=8)
    driver.until_iteration(job_id, 7)
    place.store.request_pause(job_id)
    driver.until(lambda: driver.supervisor._watches and PAUSE in driver.supervisor._watches[0]._asked)
    place.store.resume(job_id)
    job = driver.until_ended(job_id)
    assert (job.state, job.attempts_spent) == ("succeeded", 0)
    assert "given_back" in place.kinds(job_id)
    assert place.losses(job_id) == list(range(1, 21))


def test_a_cancel_after_a_pause_cancels(place: Place, driver: Driver) -> None:
    job_id = place.submit(wait_at=8, ignore_stop=True)
    driver.until_iteration(job_id, 7)
    place.store.request_pause(job_id)
    driver.until(lambda: PAUSE in driver.supervisor._watches[0]._asked)
    asked = time.monotonic()
    place.store.request_cancel(job_id)
    assert driver.until_ended(job_id).state == "cancelled"
    assert time.monotonic() - asked < GRACE_SECONDS[PAUSE] / 2  # by the cancel's own grace


def test_a_cancel_that_crosses_the_trainers_word_of_a_pause_cancels(place: Place, driver: Driver) -> None:
    job_id = place.submit(wait_at=8)
    driver.until_iteration(job_id, 7)
    watch = driver.supervisor._watches[0]
    watch.ask("pause")
    wait_for(lambda: (place.folder.checkpoints(job_id) / "last").read_text() == "7")  # it is saying so now
    place.store.request_cancel(job_id)
    watch.ask("cancel")
    assert driver.until_ended(job_id).state == "cancelled"
    assert place.store.events(job_id).data[-1].message == "stopped as asked"


def test_a_trainer_that_dies_over_a_pause_leaves_the_job_paused(place: Place, driver: Driver) -> None:
    job_id = place.submit(wait_at=8, ignore_stop=True)
    driver.until_iteration(job_id, 7)
    pid = driver.supervisor._watches[0].child.pid
    place.store.request_pause(job_id)  # not yet heard of by the worker
    os.kill(pid, signal.SIGKILL)
    until_state(driver, job_id, "paused")
    place.store.resume(job_id)
    assert driver.until_ended(job_id).state == "succeeded"
    assert place.losses(job_id) == list(range(1, 21))


def test_a_trainer_says_that_it_has_saved_only_when_asked_to(place: Place) -> None:
    from workers.protocol import Channel, Ended

    driver = Driver(place, place.supervisor(StubLauncher(lambda _, sock: Channel(sock).send(Ended("paused")))))
    job = driver.until_ended(place.submit())
    assert job.failure is not None
    assert "a trainer cannot end as 'paused'" in job.failure.message
    driver.supervisor.close()


def test_sigterm_pauses_a_job_whose_pause_was_asked_for(place: Place) -> None:
    job_id = place.submit(wait_at=8, ignore_stop=True)
    pid = fork_worker(place)
    wait_for(lambda: place.store.job(job_id).iteration >= 7)
    place.store.request_pause(job_id)
    for _ in range(2):  # the second time it no longer waits for the trainer
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    job = place.store.job(job_id)
    assert (job.state, job.attempts_spent) == ("paused", 0)


def test_sigterm_saves_the_place_and_gives_the_job_back_at_once(place: Place) -> None:
    job_id = place.submit(wait_at=8)
    pid = fork_worker(place)
    wait_for(lambda: place.store.job(job_id).iteration >= 7)
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: place.store.job(job_id).state == "queued")
    seconds = time.monotonic() - began
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert seconds < 2, f"{seconds:.2f} s from SIGTERM to the queue"
    next_worker = Driver(place, place.supervisor())
    assert next_worker.until_ended(job_id).attempts_spent == 0
    assert resumed_from(place, job_id) == [0, 7]
    assert place.losses(job_id) == list(range(1, 21))
    next_worker.supervisor.close()


@pytest.mark.parametrize("origin", ["start", "checkpoint"])
def test_a_retry_begins_where_it_was_asked_to(place: Place, driver: Driver, origin: str) -> None:
    job_id = place.submit(wait_at=8)
    driver.until_iteration(job_id, 7)
    place.store.request_cancel(job_id)
    driver.until_ended(job_id)
    stale = place.folder.artifact(job_id, "model.safetensors")
    stale.write_bytes(b"of the run before")
    cursor = place.curves.read(job_id).cursor
    place.store.retry(job_id, from_checkpoint=origin == "checkpoint")
    assert stale.exists()  # until the next attempt begins
    job = driver.until_ended(job_id)
    assert (job.state, job.attempt, job.attempts_spent) == ("succeeded", 2, 0)
    assert resumed_from(place, job_id) == ([0, 0] if origin == "start" else [0, 5])
    assert stale.exists() == (origin == "checkpoint")
    assert place.losses(job_id) == list(range(1, 21))
    assert place.curves.read(job_id, cursor=cursor).truncate_after == (0 if origin == "start" else 5)
