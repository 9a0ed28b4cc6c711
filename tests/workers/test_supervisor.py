"""The worker's loop against a real queue, with a stub in the trainer's place."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import LostLease
from tests.workers.conftest import Driver, Place
from tests.workers.stub import StubLauncher
from workers.assigning import Bounds
from workers.launcher import LaunchFailed
from workers.protocol import HEADER, Assignment


def test_a_job_goes_from_queued_to_succeeded(place: Place, driver: Driver) -> None:
    job = driver.until_ended(place.submit(iterations=20))
    assert (job.state, job.attempt, job.iteration, job.iterations) == ("succeeded", 1, 20, 20)
    assert job.environment == {"torch": "stub"}
    assert place.losses(job.id) == list(range(1, 21))
    assert place.kinds(job.id).count("checkpoint") == 4


def test_a_job_that_comes_while_the_worker_is_idle_is_noticed(place: Place, driver: Driver) -> None:
    for _ in range(3):
        driver.supervisor.turn()
    assert driver.until_ended(place.submit()).state == "succeeded"


def test_a_killed_trainer_resumes_from_its_checkpoint_under_the_same_id(place: Place, driver: Driver) -> None:
    job = driver.until_ended(place.submit(iterations=20, kill_at=13))
    assert (job.state, job.attempt, job.attempts_spent) == ("succeeded", 2, 1)
    assert place.losses(job.id) == list(range(1, 21))
    events = place.store.events(job.id).data
    assert "SIGKILL" in next(e.message for e in events if e.kind == "requeued")
    assert [e.detail["resumed_from"] for e in events if e.kind == "started"] == [0, 10]


def test_attempts_run_out(place: Place) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTRAP)

    driver = Driver(place, place.supervisor(StubLauncher(die)))
    job = driver.until_ended(place.submit())
    assert (job.state, job.attempt) == ("failed", 3)
    assert job.failure is not None
    assert job.failure.reason == "crashed"
    assert "SIGTRAP" in job.failure.message
    driver.supervisor.close()


def test_a_python_exception_fails_the_job_at_once(place: Place, driver: Driver) -> None:
    job = driver.until_ended(place.submit(fail="ValueError: no"))
    assert job.failure is not None
    assert (job.state, job.attempt, job.failure.reason, job.failure.message) == ("failed", 1, "error", "ValueError: no")


def test_cancel_asks_first(place: Place, driver: Driver) -> None:
    job_id = place.submit(wait_at=8)
    driver.until_iteration(job_id, 7)
    place.store.request_cancel(job_id)
    assert driver.until_ended(job_id).state == "cancelled"
    assert place.losses(job_id) == list(range(1, 8))


def test_cancel_kills_a_trainer_that_does_not_listen(place: Place, driver: Driver) -> None:
    job_id = place.submit(wait_at=8, ignore_stop=True)
    driver.until_iteration(job_id, 7)
    asked = time.monotonic()
    place.store.request_cancel(job_id)
    assert driver.until_ended(job_id).state == "cancelled"
    assert time.monotonic() - asked < 2.5


def test_timeout_is_enforced_on_a_silent_trainer(place: Place, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.watch.TIMEOUT_GRACE_SECONDS", 0.1)
    job = driver.until_ended(place.submit(wait_at=3, ignore_stop=True, timeout_seconds=0.2))
    assert job.failure is not None
    assert (job.state, job.failure.reason, job.attempt) == ("failed", "timeout", 1)


@pytest.mark.parametrize(
    "sent",
    [HEADER.pack(2**31, 0), HEADER.pack(2, 0) + b"[]", HEADER.pack(25, 0) + b'{"kind":"stop","why":"x"}'],
    ids=["too large", "no message", "not for a trainer to send"],
)
def test_a_malformed_frame_ends_the_attempt_not_the_worker(place: Place, driver: Driver, sent: bytes) -> None:
    job = driver.until_ended(place.submit(send=list(sent)))
    assert (job.state, job.attempt) == ("failed", 3)
    assert driver.until_ended(place.submit()).state == "succeeded"


def incident(event: str, **more: Any) -> dict[str, Any]:
    return {"event": event, "text": "it happened", "iteration": 4, "rows": [7, 2]} | more


def test_incidents_are_events_of_the_attempt(place: Place, driver: Driver) -> None:
    job = driver.until_ended(place.submit(iterations=6, incidents={"3": incident("skipped"), "5": incident("exploding")}))
    assert job.state == "succeeded"
    told = [event for event in place.store.events(job.id).data if event.kind in ("skipped", "exploding")]
    assert [(event.kind, event.attempt, event.message) for event in told] == [
        ("skipped", 1, "it happened"),
        ("exploding", 1, "it happened"),
    ]
    assert told[0].detail == {"iteration": 4, "rows": [7, 2]}


def test_a_rollback_drops_points_within_the_attempt(place: Place, driver: Driver) -> None:
    job = driver.until_ended(place.submit(iterations=6, incidents={"5": incident("rolled_back", back_to=2)}))
    assert place.losses(job.id) == [1, 2, 6], "the stub does not write 3 to 5 again"
    assert place.curves.version(job.id)[0] == 1
    (event,) = [event for event in place.store.events(job.id).data if event.kind == "rolled_back"]
    assert event.detail == {"iteration": 4, "rows": [7, 2], "back_to": 2}


def test_a_trainer_that_tells_without_end_is_ended(place: Place, driver: Driver) -> None:
    job = driver.until_ended(place.submit(iterations=3, incidents={"2": incident("skipped", text="x" * 9999)}, times=300))
    assert job.failure is not None
    assert "more than 250 incidents" in job.failure.message
    told = [event for event in place.store.events(job.id, limit=10_000).data if event.kind == "skipped"]
    assert len(told) == 3 * 250
    assert all(len(event.message) == 2000 for event in told)


def test_an_incident_of_another_kind_breaks_the_attempt(place: Place, driver: Driver) -> None:
    job = driver.until_ended(place.submit(iterations=3, incidents={"2": incident("succeeded")}))
    assert job.failure is not None
    assert "not an incident" in job.failure.message
    assert "succeeded" not in place.kinds(job.id)


def test_an_attempt_that_is_over_tells_nothing(place: Place) -> None:
    job_id = place.submit()
    assert place.store.claim("w", ["cpu"], 30.0) is not None
    place.store.give_back(job_id, 1)
    with pytest.raises(LostLease):
        place.store.noted(job_id, 1, "skipped", "too late", {})
    assert "skipped" not in place.kinds(job_id)


def test_a_trainer_that_says_nothing_and_leaves_has_crashed(place: Place) -> None:
    driver = Driver(place, place.supervisor(StubLauncher(lambda *_: None)))
    job = driver.until_ended(place.submit())
    assert job.failure is not None
    assert job.failure.reason == "crashed"
    assert "status 0 and without a last word" in job.failure.message
    driver.supervisor.close()


def test_a_missing_data_set_fails_the_job_and_frees_the_slot(place: Place, driver: Driver) -> None:
    job = driver.until_ended(place.submit(dataset={"type": "builtin", "name": "nowhere"}))
    assert job.failure is not None
    assert (job.failure.reason, job.failure.pointer) == ("invalid_data", "/dataset/name")
    assert driver.until_ended(place.submit()).state == "succeeded"


def test_a_launcher_that_fails_ends_attempts_not_the_worker(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = StubLauncher()
    driver = Driver(place, place.supervisor(launcher))
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "launch", _no_launch)
        job = driver.until_ended(place.submit())
    assert job.failure is not None
    assert job.failure.reason == "crashed"
    assert driver.until_ended(place.submit()).state == "succeeded"
    driver.supervisor.close()


def _no_launch(*_: object) -> None:
    raise LaunchFailed("no more processes")


def test_a_worker_that_lost_its_lease_kills_the_trainer_and_writes_nothing(place: Place) -> None:
    driver = Driver(place, place.supervisor(lease_seconds=0.5))
    job_id = place.submit(wait_at=8, ignore_stop=True)
    driver.until_iteration(job_id, 7)
    time.sleep(0.6)  # the worker sleeps past its lease
    place.store.expire_leases()
    assert place.store.job(job_id).state == "queued"
    other = Driver(place, place.supervisor())
    assert other.until_ended(job_id).attempt == 2
    before = place.store.job(job_id)
    launcher = driver.supervisor._launcher
    assert isinstance(launcher, StubLauncher)
    driver.until(lambda: not launcher.children)
    assert place.store.job(job_id) == before
    driver.supervisor.close()
    other.supervisor.close()


@pytest.mark.slow
def test_a_worker_that_slept_between_its_claim_and_the_start_starts_nothing(place: Place) -> None:
    job_id = place.submit()
    other = Driver(place, place.supervisor())
    late = place.supervisor(lease_seconds=0.5)
    claim = place.store.claim(late.worker_id, ["cpu"], -1.0)
    assert claim is not None
    assert other.until_ended(job_id).attempt == 2
    before, names = place.store.job(job_id), sorted(path.name for path in place.folder.job(job_id).iterdir())
    assert not any(name in ("attempt-1", "attempt-2") for name in names), "a door stands open"
    late._begin(claim)
    assert (late._watches, late._slots.free) == ([], 1)
    assert place.store.job(job_id) == before
    assert sorted(path.name for path in place.folder.job(job_id).iterdir()) == names
    for supervisor in (late, other.supervisor):
        supervisor.close()


def test_a_trainer_of_a_lost_attempt_finds_its_door_shut_when_the_job_has_ended(place: Place) -> None:
    driver = Driver(place, place.supervisor(lease_seconds=0.5))
    job_id = place.submit(wait_at=8, ignore_stop=True)
    driver.until_iteration(job_id, 7)
    door = place.folder.job(job_id) / "attempt-1"
    assert door.exists()
    place.store.request_cancel(job_id)  # so that it ends with its lease, and no later attempt shuts the door
    other = Driver(place, place.supervisor())
    assert other.until_ended(job_id).state == "cancelled"
    other.until(lambda: not door.exists())
    for supervisor in (driver.supervisor, other.supervisor):
        supervisor.close()


def test_out_of_memory_is_told_by_the_kernels_counter(place: Place, driver: Driver) -> None:
    driver.supervisor._oom.rose = lambda: True  # type: ignore[method-assign]
    job = driver.until_ended(place.submit(kill_at=3))
    assert "out_of_memory" in next(e.message for e in place.store.events(job.id).data if e.kind == "requeued")


def test_lost_count_of_an_attempt_is_cleared_up(place: Place, driver: Driver) -> None:
    job_id = place.submit()
    assert place.store.claim(driver.supervisor.worker_id, ["cpu"], 30.0) is not None
    driver.supervisor._renew_at = 0.0
    assert driver.until_ended(job_id).attempt == 2


def test_sigterm_gives_jobs_back_without_using_up_an_attempt(place: Place) -> None:
    job_id = place.submit(wait_at=8)
    pid = fork_worker(place)
    wait_for(lambda: place.store.job(job_id).iteration >= 7)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    job = place.store.job(job_id)
    assert (job.state, job.attempt, job.attempts_spent) == ("queued", 1, 0)
    assert place.store.workers() == []


@pytest.mark.slow
def test_two_workers_and_two_hundred_jobs(place: Place, tmp_path: Path) -> None:
    jobs = [place.submit(iterations=5) for _ in range(200)]
    workers = [fork_worker(place, tmp_path / f"worker-{n}.log", cpu_slots=2) for n in range(2)]
    wait_for(lambda: all(j.finished_at for j in place.store.jobs(limit=200).data), seconds=90)
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for job_id in jobs:
        job = place.store.job(job_id)
        assert (job.state, job.attempt) == ("succeeded", 1)
        assert len(list(place.folder.job(job_id).glob("ran-*"))) == 1
        assert place.losses(job_id) == [1, 2, 3, 4, 5]
    said = [(tmp_path / f"worker-{n}.log").read_text() for n in range(2)]
    assert all("runs on" in text for text in said), "one worker took everything"
    assert sum(text.count("database is locked") for text in said) == 0


def fork_worker(place: Place, log: Path | None = None, cpu_slots: int = 1) -> int:
    """A worker process of its own with its own connections."""
    place.engine.dispose()
    pid = os.fork()
    if pid == 0:
        _work(place, log, cpu_slots)
    return pid


def _work(place: Place, log: Path | None, cpu_slots: int) -> None:
    status = 1
    try:
        if log is not None:
            logging.basicConfig(filename=log, level=logging.INFO, force=True)
        place.engine.dispose(close=False)
        place.supervisor(cpu_slots=cpu_slots).run()
        status = 0
    finally:
        os._exit(status)


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def test_a_strict_job_that_takes_too_much_is_killed_and_told_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def hoard(assignment: Assignment, _sock: object) -> None:
        Path(assignment.job_folder, "hoard").write_bytes(bytes(3 * 2**20))
        signal.pause()

    offered: dict[str, Any] = {name: {"layers": [], "refusal": None} for name in ("plain", "strict")}
    monkeypatch.setattr("workers.supervisor.profiles", lambda _bounds: offered)
    driver = Driver(place, place.supervisor(StubLauncher(hoard), bounds=Bounds(disk_bytes=2**20)))
    job = driver.until_ended(place.submit(profile="strict"))
    assert job.failure is not None
    assert (job.state, job.attempt, job.failure.reason) == ("failed", 1, "error")
    assert "the job's files take" in job.failure.message
    driver.supervisor.close()


def test_a_worker_without_leave_for_python_leaves_its_job_in_the_queue(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.assigning.strict_refusal", lambda: None)
    driver = Driver(place, place.supervisor(bounds=Bounds(allow_python=False)))
    python = place.submit(profile="python")
    assert driver.until_ended(place.submit()).state == "succeeded"  # the worker went past the other
    job = place.store.job(python)
    assert (job.state, job.attempt) == ("queued", 0)
    assert "POSTGRAD_ALLOW_PYTHON is not set" in (job.waiting or "")
    driver.supervisor.close()
    driver = Driver(place, place.supervisor(bounds=Bounds(allow_python=True)))
    assert driver.until_ended(python).state == "succeeded"
    driver.supervisor.close()
