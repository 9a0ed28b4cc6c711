"""A wall clock that jumps by hours ends nobody's lease, and hides no worker that is gone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from jobs.records import Lease
from tests.workers.conftest import Driver, Place
from workers.leases import Silence

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)


class Clock:
    """A wall clock and a monotonic one; only the first can be put forward or back."""

    def __init__(self) -> None:
        self.wall, self.seconds = datetime(2026, 1, 1, tzinfo=UTC), 1000.0

    def pass_by(self, seconds: float) -> None:
        self.wall, self.seconds = self.wall + timedelta(seconds=seconds), self.seconds + seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("workers.leases.wall_clock", lambda: clock.wall)
    return clock


def lease(expires_at: datetime, seconds: float | None = 30.0) -> Lease:
    return Lease("job_a", 1, "w", expires_at, seconds)


def looks(silence: Silence, clock: Clock, expires_at: datetime, seconds: int, length: float | None = 30.0) -> float | None:
    """Looks once a second at a lease that nobody renews; how long it took to be taken for broken, None if it never was."""
    began = clock.seconds
    for _ in range(seconds):
        if silence.broken([lease(expires_at, length)], clock.seconds):
            return clock.seconds - began
        clock.pass_by(1)
    return None


def test_a_worker_that_is_gone_is_noticed_when_its_lease_runs_out(clock: Clock) -> None:
    assert looks(Silence(30), clock, clock.wall + timedelta(seconds=30), 60) == pytest.approx(30)


def test_one_that_starts_later_waits_half_a_lease_more_at_most(clock: Clock) -> None:
    assert looks(Silence(30), clock, clock.wall - HOUR, 60) == pytest.approx(15)


@pytest.mark.parametrize("jump", [HOUR, -HOUR, 30 * HOUR], ids=["forwards", "backwards", "by more than a day"])
def test_a_live_worker_keeps_its_lease_when_the_clock_jumps(clock: Clock, jump: timedelta) -> None:
    """It renews every ten seconds; the observer's clock has jumped, then the worker's."""
    for behind in (timedelta(), -jump):
        silence, expires_at = Silence(30), clock.wall + timedelta(seconds=30)
        clock.wall += jump
        for second in range(120):
            assert not silence.broken([lease(expires_at)], clock.seconds)
            clock.pass_by(1)
            if second % 10 == 9:
                expires_at = clock.wall + behind + timedelta(seconds=30)


def test_a_clock_put_back_does_not_hide_a_worker_that_is_gone(clock: Clock) -> None:
    expires_at = clock.wall + timedelta(seconds=30)
    clock.wall -= HOUR
    assert looks(Silence(30), clock, expires_at, 60) == pytest.approx(30)


def test_the_length_is_that_of_the_leases_own_worker(clock: Clock) -> None:
    assert looks(Silence(30), clock, clock.wall - HOUR, 1000, length=300.0) == pytest.approx(150)
    assert looks(Silence(30), clock, clock.wall - HOUR, 1000, length=None) == pytest.approx(15)


def test_time_in_which_the_observer_was_stopped_does_not_count(clock: Clock) -> None:
    silence, expires_at = Silence(30), clock.wall + timedelta(seconds=30)
    assert not silence.broken([lease(expires_at)], clock.seconds)
    clock.pass_by(3600)
    assert not silence.broken([lease(expires_at)], clock.seconds)
    clock.pass_by(1)
    assert not silence.broken([lease(clock.wall + timedelta(seconds=30))], clock.seconds)


@pytest.fixture
def two(place: Place) -> Iterator[tuple[Driver, Driver]]:
    drivers = Driver(place, place.supervisor(lease_seconds=1.0)), Driver(place, place.supervisor(lease_seconds=1.0))
    yield drivers
    for driver in drivers:
        driver.supervisor.close()


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forwards", "backwards"])
def test_two_workers_and_a_clock_that_jumps_while_a_job_runs(
    place: Place, two: tuple[Driver, Driver], monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    runs, looks_on = two
    job_id = place.submit(wait_at=8)
    runs.until_iteration(job_id, 7)
    for module in ("jobs.queue.now", "jobs.moves.now", "jobs.registry.now", "workers.leases.wall_clock"):
        monkeypatch.setattr(module, lambda: datetime.now(UTC) + jump)
    for _ in range(300):  # three leases long
        runs.supervisor.turn()
        looks_on.supervisor.turn()
    job = place.store.job(job_id)
    assert (job.state, job.attempt) == ("running", 1)
    place.store.request_cancel(job_id)
    assert runs.until_ended(job_id).attempt == 1


def test_the_other_worker_takes_over_when_the_first_is_gone_and_the_clock_is_put_back(
    place: Place, two: tuple[Driver, Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, takes_over = two
    job_id = place.submit(wait_at=8, ignore_stop=True)
    gone.until_iteration(job_id, 7)
    for module in ("jobs.queue.now", "jobs.moves.now", "jobs.registry.now", "workers.leases.wall_clock"):
        monkeypatch.setattr(module, lambda: datetime.now(UTC) - HOUR)
    job = takes_over.until_ended(job_id)
    assert (job.state, job.attempt) == ("succeeded", 2)
    assert any("has not been heard of" in event.message for event in place.store.events(job_id).data)
