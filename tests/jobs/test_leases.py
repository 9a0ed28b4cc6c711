"""Attempts: started, renewed, lost, given back; and that a worker without its lease can write nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobs.store import Claim, Failure, ForbiddenTransition, LostLease, Store
from tests.jobs.queue_of_jobs import add_job, open_store

PAST = -1.0  # a lease of so many seconds has run out already


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


def claim(store: Store, lease_seconds: float = 30, worker: str = "w") -> Claim:
    taken = store.claim(worker, ["cpu"], lease_seconds)
    assert taken is not None
    return taken


def start(store: Store, job_id: str, attempt: int, torch: str = "2.13", resumed_from: int = 0) -> None:
    store.started(
        job_id,
        attempt,
        environment={"torch": torch},
        effective_spec={"lr": {"value": 0.1, "source": "given"}},
        parameters={"total": 5, "trainable": 4},
        iterations=40,
        samples=1200,
        device="cpu",
        resumed_from=resumed_from,
        notes=["a note"],
    )


def test_a_whole_life_is_told_by_its_events(store: Store) -> None:
    job = add_job(store)
    claim(store)
    start(store, job.id, 1)
    store.progressed(job.id, 1, epoch=2, iteration=40, samples_per_second=99.5)
    running = store.job(job.id)
    assert (running.epoch, running.iteration, running.iterations, running.samples_per_second) == (2, 40, 40, 99.5)
    assert (running.device, running.environment, running.parameters["trainable"]) == ("cpu", {"torch": "2.13"}, 4)
    done = store.finish(job.id, 1, "succeeded")
    assert (done.state, done.iteration, done.failure) == ("succeeded", 40, None)
    assert done.started_at is not None
    assert done.finished_at is not None
    assert job.created_at <= done.started_at <= done.finished_at
    events = store.events(job.id).data
    assert [event.kind for event in events] == ["queued", "claimed", "started", "note", "succeeded"]
    assert [event.attempt for event in events] == [None, 1, 1, 1, 1]
    assert events[-1].detail == {"before": "running", "after": "succeeded"}


def test_a_lease_that_ran_out_requeues_until_no_attempt_is_left(store: Store) -> None:
    job = add_job(store, max_attempts=2)
    claim(store, PAST)
    (expired,) = store.expire_leases()
    assert (expired.state, expired.attempts_spent) == ("queued", 1)
    assert not store.expire_leases()
    assert claim(store, PAST).attempt == 2
    (failed,) = store.expire_leases()
    assert failed.state == "failed"
    assert failed.failure is not None
    assert failed.failure.reason == "worker_lost"
    assert [event.kind for event in store.events(job.id).data] == ["queued", "claimed", "requeued", "claimed", "failed"]


def test_a_requeued_job_keeps_its_place_in_line(store: Store) -> None:
    first, _ = add_job(store), add_job(store)
    claim(store)
    store.end_attempt(first.id, 1, "crashed", "signal 9")
    assert claim(store).job_id == first.id


def test_renewing_keeps_what_is_held_and_leaves_out_what_was_lost(store: Store) -> None:
    kept, lost, other = add_job(store), add_job(store), add_job(store)
    claim(store, PAST)
    claim(store, PAST)
    claim(store, PAST, worker="other")
    store.end_attempt(lost.id, 1, "crashed", "signal 9")
    store.request_cancel(kept.id)
    (held,) = store.renew("w", 30)
    assert (held.job_id, held.attempt, held.cancel_requested) == (kept.id, 1, True)
    assert [job.id for job in store.expire_leases()] == [other.id]


def test_a_lease_renewed_after_it_was_seen_overdue_is_left_alone(store: Store) -> None:
    job = add_job(store)
    claim(store, PAST)

    def renew_just_in_time(connection: sa.Connection) -> None:
        # The end of the look at overdue leases, before the writing transaction that would end them.
        store.renew("w", 30)

    sa.event.listen(store.engine, "rollback", renew_just_in_time, once=True)
    assert store.expire_leases() == []
    assert store.job(job.id).state == "running"


WRITES: dict[str, Callable[[Store, str], object]] = {
    "started": lambda store, job_id: start(store, job_id, 1),
    "progressed": lambda store, job_id: store.progressed(job_id, 1, epoch=1, iteration=1),
    "noted": lambda store, job_id: store.noted(job_id, 1, "checkpoint", "a checkpoint is on disk", {}),
    "check_held": lambda store, job_id: store.check_held(job_id, 1),
    "finish": lambda store, job_id: store.finish(job_id, 1, "succeeded"),
    "fail": lambda store, job_id: store.finish(job_id, 1, "failed", Failure("error", "boom")),
    "end_attempt": lambda store, job_id: store.end_attempt(job_id, 1, "crashed", "signal 9"),
    "give_back": lambda store, job_id: store.give_back(job_id, 1),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
@pytest.mark.parametrize("now_is", ["requeued", "taken again", "ended"])
def test_who_lost_the_lease_changes_nothing(store: Store, write: Callable[[Store, str], object], now_is: str) -> None:
    job = add_job(store)
    claim(store, PAST)
    store.expire_leases()
    if now_is != "requeued":
        claim(store, worker="second")
    if now_is == "ended":
        store.finish(job.id, 2, "succeeded")
    before, events = store.job(job.id), store.events(job.id)
    with pytest.raises(LostLease, match="attempt 1 no longer holds"):
        write(store, job.id)
    assert store.job(job.id) == before
    assert store.events(job.id) == events
    assert not store.renew("w", 30)


def test_giving_back_uses_up_no_attempt(store: Store) -> None:
    job = add_job(store, max_attempts=1)
    for attempt in (1, 2, 3):
        assert claim(store).attempt == attempt
        back = store.give_back(job.id, attempt)
        assert (back.state, back.attempts_spent) == ("queued", 0)
    claim(store)
    assert store.end_attempt(job.id, 4, "out_of_memory", "the kernel killed it").state == "failed"


@pytest.mark.parametrize(
    "end",
    [
        lambda store, job_id: store.end_attempt(job_id, 1, "crashed", "signal 9"),
        lambda store, job_id: store.give_back(job_id, 1),
        lambda store, _: store.expire_leases()[0],
    ],
    ids=["crash", "give back", "lost worker"],
)
def test_a_cancelled_job_does_not_return_to_the_queue(store: Store, end: Callable[[Store, str], object]) -> None:
    job = add_job(store)
    claim(store, PAST)
    store.request_cancel(job.id)
    end(store, job.id)
    assert store.job(job.id).state == "cancelled"


def test_the_environment_is_that_of_the_attempt_that_began_the_curve(store: Store) -> None:
    job = add_job(store)
    claim(store)
    start(store, job.id, 1, "first")
    store.progressed(job.id, 1, epoch=2, iteration=30)
    store.give_back(job.id, 1)
    assert claim(store).environment == {"torch": "first"}
    start(store, job.id, 2, "second", resumed_from=20)
    resumed = store.job(job.id)
    assert (resumed.environment, resumed.iteration, resumed.epoch) == ({"torch": "first"}, 20, 2)
    store.give_back(job.id, 2)
    claim(store)
    start(store, job.id, 3, "third")
    again = store.job(job.id)
    assert (again.environment, again.iteration, again.epoch) == ({"torch": "third"}, 0, 0)
    assert again.started_at == resumed.started_at


def test_an_end_that_is_none_is_refused(store: Store) -> None:
    job = add_job(store)
    claim(store)
    with pytest.raises(ForbiddenTransition, match="cannot go from 'running' to 'paused'"):
        store.finish(job.id, 1, "paused")
    with pytest.raises(ValueError, match="needs a failure"):
        store.finish(job.id, 1, "failed")
    with pytest.raises(ValueError, match="has no failure"):
        store.finish(job.id, 1, "succeeded", Failure("error", "boom"))
    with pytest.raises(ValueError, match="ends a job, not an attempt"):
        store.end_attempt(job.id, 1, "diverged", "NaN")
    assert store.job(job.id).state == "running"
