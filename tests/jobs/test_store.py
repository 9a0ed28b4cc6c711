"""The queue: order, claims, cancels, events, lists. Leases and fencing are in test_leases.py."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from jobs import tables
from jobs.database import data_version, reading, writing
from jobs.errors import JobsError
from jobs.store import Failure, Store, UnknownFile, UnknownJob, new_job_id
from tests.jobs.queue_of_jobs import SPEC, add_job, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


def kinds(store: Store, job_id: str) -> list[str]:
    return [event.kind for event in store.events(job_id).data]


def test_a_new_job_is_queued_as_told(store: Store) -> None:
    job = add_job(store, name="first", metadata={"b": "1", "a": "2"}, device="cuda", epochs=7, timeout_seconds=1.5)
    assert store.job(job.id) == job
    assert (job.state, job.attempt, job.epoch, job.epochs, job.iteration) == ("queued", 0, 0, 7, 0)
    assert list(job.metadata) == ["b", "a"]
    assert (job.spec, job.device_wanted, job.device, job.timeout_seconds) == (SPEC, "cuda", None, 1.5)
    assert job.created_at.tzinfo is UTC
    assert job.failure is None
    assert kinds(store, job.id) == ["queued"]


def test_six_processes_run_each_of_200_jobs_once(store: Store, tmp_path: Path) -> None:
    ids = {add_job(store).id for _ in range(200)}
    command = [sys.executable, "-m", "tests.jobs.claiming", str(tmp_path)]
    processes = [
        subprocess.Popen([*command, f"worker{n}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for n in range(6)
    ]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [errors for _, errors in outputs] == [""] * 6  # "database is locked" would be a traceback
    taken = Counter(job_id for lines, _ in outputs for job_id in lines.split())
    assert set(taken) == ids
    assert set(taken.values()) == {1}
    assert sum(lines != "" for lines, _ in outputs) > 1  # else it was no contest
    assert not store.jobs(status="queued").data
    assert not store.jobs(status="running").data


def test_jobs_are_claimed_in_order_of_arrival(store: Store) -> None:
    jobs = [add_job(store) for _ in range(3)]
    claims = [store.claim("w", ["cpu"], 30) for _ in range(4)]
    assert [claim.job_id if claim else None for claim in claims] == [*(job.id for job in jobs), None]


@pytest.mark.parametrize(
    ("wanted", "devices", "fits"),
    [
        ("auto", ["cpu"], True),
        ("auto", ["cuda:3"], True),
        ("auto", [], False),
        ("cpu", ["cpu", "cuda:0"], True),
        ("cpu", ["cuda:0"], False),
        ("cuda", ["cpu"], False),
        ("cuda", ["cpu", "cuda:1"], True),
        ("cuda:1", ["cuda:0"], False),
        ("cuda:1", ["cuda:0", "cuda:1"], True),
    ],
)
def test_a_job_goes_only_to_a_device_it_wants(store: Store, wanted: str, devices: list[str], fits: bool) -> None:
    job = add_job(store, device=wanted)
    claim = store.claim("w", devices, 30)
    assert (claim.job_id if claim else None) == (job.id if fits else None)


def test_a_job_that_fits_is_taken_past_one_that_does_not(store: Store) -> None:
    add_job(store, device="cuda")
    second = add_job(store, device="cpu")
    claim = store.claim("w", ["cpu"], 30)
    assert claim is not None
    assert claim.job_id == second.id


def test_a_claim_carries_what_the_worker_needs(store: Store) -> None:
    upload, _ = store.add_file(sha256="a" * 64, name="x.csv", size_bytes=3, preview={})
    job = add_job(store, files=[upload.id, upload.id], threads=2, timeout_seconds=9)
    claim = store.claim("w", ["cpu"], 30)
    assert claim is not None
    assert (claim.job_id, claim.attempt, claim.spec, claim.device_wanted) == (job.id, 1, SPEC, "auto")
    assert (claim.threads, claim.timeout_seconds, claim.files, claim.environment) == (2, 9, [upload.id], None)


def test_cancelling_a_queued_job_ends_it_at_once_and_again_changes_nothing(store: Store) -> None:
    job = add_job(store)
    cancelled = store.request_cancel(job.id)
    assert cancelled.state == "cancelled"
    assert cancelled.finished_at is not None
    assert store.request_cancel(job.id) == cancelled
    assert kinds(store, job.id) == ["queued", "cancelled"]
    assert store.claim("w", ["cpu"], 30) is None


def test_cancelling_a_running_job_is_a_request(store: Store) -> None:
    job = add_job(store)
    store.claim("w", ["cpu"], 30)
    asked = store.request_cancel(job.id)
    assert asked.state == "running"
    assert asked.cancel_requested_at is not None
    assert store.request_cancel(job.id) == asked
    assert store.finish(job.id, 1, "cancelled").state == "cancelled"
    assert kinds(store, job.id) == ["queued", "claimed", "cancel_requested", "cancelled"]


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_cancelling_an_ended_job_leaves_it_as_it_is(store: Store, state: str) -> None:
    job = add_job(store)
    store.claim("w", ["cpu"], 30)
    done = store.finish(job.id, 1, state, Failure("error", "boom", "/loss") if state == "failed" else None)
    assert store.request_cancel(job.id) == done
    assert done.failure == (Failure("error", "boom", "/loss") if state == "failed" else None)


def test_version_rises_at_every_change_and_at_no_other_time(store: Store) -> None:
    job = add_job(store)
    store.claim("w", ["cpu"], 30)
    store.renew("w", 30)
    store.event(job.id, "note", "nothing about the job itself")
    assert store.job(job.id).version == 2
    store.progressed(job.id, 1, epoch=1, iteration=5, samples_per_second=10.0)
    assert store.request_cancel(job.id).version == 4
    assert store.finish(job.id, 1, "succeeded").version == 5


def test_unknown_ids_are_said_in_a_sentence(store: Store) -> None:
    with pytest.raises(UnknownJob, match="there is no job 'job_x'"):
        store.job("job_x")
    for call in (
        store.request_cancel,
        store.events,
        lambda name: store.jobs(after=name),
        lambda name: store.event(name, "a", "b"),
    ):
        with pytest.raises(UnknownJob):
            call("job_x")
    for file_call in (store.file, lambda name: store.files(after=name), lambda name: add_job(store, files=[name])):
        with pytest.raises(UnknownFile):
            file_call("file_x")
    assert issubclass(UnknownJob, JobsError)
    assert not store.jobs().data  # the job with the unknown file was not kept


def test_pages_cover_every_job_once_in_both_orders(store: Store) -> None:
    ids = [add_job(store, name="even" if n % 2 == 0 else "odd").id for n in range(7)]
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        seen: list[str] = []
        while (page := store.jobs(after=seen[-1] if seen else None, limit=3, order=order)).data:
            seen += [job.id for job in page.data]
            assert page.has_more == (len(seen) < 7)
        assert seen == expected
    assert [job.id for job in store.jobs(name="odd", order="asc").data] == ids[1::2]
    store.request_cancel(ids[2])
    assert [job.id for job in store.jobs(status="cancelled").data] == [ids[2]]


def test_lists_and_claims_of_many_jobs_use_the_indexes(store: Store) -> None:
    def plan(query: sa.Select[tuple[str]]) -> str:
        text = str(query.compile(store.engine, compile_kwargs={"literal_binds": True}))
        with reading(store.engine) as connection:
            return " ".join(row[-1] for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + text))

    jobs = tables.jobs.c
    listed = sa.select(jobs.id).order_by(jobs.sequence.desc()).limit(20)
    queries = [
        listed.where(jobs.sequence < 500),
        listed.where(jobs.state == "running", jobs.sequence < 500),
        listed.where(jobs.name == "x", jobs.sequence < 500),
        sa.select(jobs.id)
        .where(jobs.state == "queued", jobs.device_wanted.in_(["auto", "cpu"]))
        .order_by(jobs.sequence)
        .limit(1),
    ]
    for query in queries:
        assert "SEARCH jobs" in plan(query)
        assert "TEMP B-TREE" not in plan(query)


def test_events_are_read_on_from_a_position(store: Store) -> None:
    job = add_job(store)
    add_job(store)
    store.event(job.id, "note", "one", attempt=1, detail={"a": 1})
    store.event(job.id, "note", "two")
    first, rest = store.events(job.id, limit=1), store.events(job.id, after=1)
    assert first.has_more
    assert [event.message for event in rest.data] == ["one", "two"]
    assert (rest.data[0].attempt, rest.data[0].detail) == (1, {"a": 1})
    assert not store.events(job.id, after=rest.data[-1].sequence).data


def test_a_queued_job_says_why_it_waits(store: Store) -> None:
    def waiting(device: str) -> str | None:
        return add_job(store, device=device).waiting

    assert waiting("auto") == "no worker is registered"
    store.worker_started("w", host="h", pid=1, devices=[{"device": "cpu", "slots": 1}], lease_seconds=30)
    assert waiting("cuda") == "no worker offers cuda"
    assert waiting("cpu") == "a worker is about to take it"
    claim = store.claim("w", ["cpu"], 30)
    assert claim is not None
    assert store.job(claim.job_id).waiting is None
    assert waiting("auto") == "all slots are busy"
    assert waiting("cpu") == "all cpu slots are busy"
    store.worker_stopped("w")
    assert waiting("cpu") == "no worker is registered"


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    ids = [new_job_id() for _ in range(2000)]
    assert len(set(ids)) == len(ids)
    assert [id[:14] for id in ids] == sorted(id[:14] for id in ids)
    assert all(len(id) == 30 for id in ids)


def test_the_database_refuses_a_row_that_breaks_the_table_of_states(store: Store) -> None:
    job = add_job(store)
    for values in (
        {"state": "lost"},
        {"state": "failed"},
        {"state": "succeeded"},
        {"state": "running"},
        {"failure_reason": "x"},
    ):
        with pytest.raises(sa.exc.IntegrityError), writing(store.engine) as connection:
            connection.execute(sa.update(tables.jobs).values(values))
    assert store.job(job.id) == job


def test_data_version_moves_when_another_connection_commits(store: Store) -> None:
    with store.engine.connect() as poller:
        before = data_version(poller)
        assert data_version(poller) == before
        add_job(store)
        assert data_version(poller) != before


def test_a_failed_transaction_leaves_nothing_not_even_a_table(store: Store) -> None:
    def half_a_migration() -> None:
        with writing(store.engine) as connection:
            connection.exec_driver_sql("CREATE TABLE half (a)")
            connection.exec_driver_sql("DELETE FROM no_such_table")

    with pytest.raises(sa.exc.OperationalError, match="no such table"):
        half_a_migration()
    assert not sa.inspect(store.engine).has_table("half")


def test_a_writer_holds_the_write_lock_from_its_first_moment(store: Store, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "postgrad.db", timeout=0, isolation_level=None)) as other:
        with reading(store.engine):
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
        with writing(store.engine), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")


def test_reading_sees_one_moment(store: Store) -> None:
    count = sa.select(sa.func.count()).select_from(tables.jobs)
    with reading(store.engine) as connection:
        assert connection.scalar(count) == 0
        add_job(store)
        assert connection.scalar(count) == 0
    assert len(store.jobs().data) == 1


def test_a_job_waits_for_a_worker_that_offers_its_sandbox(store: Store) -> None:
    job = add_job(store, device="cpu", profile="strict")
    who: dict[str, Any] = {"host": "here", "pid": 1, "devices": [{"device": "cpu", "slots": 1}], "lease_seconds": 30}
    store.worker_started("old", **who)
    assert store.job(job.id).waiting == (
        "no worker offers the sandbox that this job needs: worker old does not have the profile strict"
    )
    store.worker_started("old", **who, profiles={"strict": {"layers": [], "refusal": "it runs as root"}})
    assert store.job(job.id).waiting == "no worker offers the sandbox that this job needs: it runs as root"
    assert store.claim("old", ["cpu"], 30) is None
    store.worker_started("new", **who, profiles={"strict": {"layers": ["seccomp"], "refusal": None}})
    assert store.job(job.id).waiting == "a worker is about to take it"
    claim = store.claim("new", ["cpu"], 30, ["plain", "strict"])
    assert claim is not None
    assert (claim.job_id, claim.profile) == (job.id, "strict")


def test_a_job_that_waits_for_its_sandbox_holds_up_no_other(store: Store) -> None:
    add_job(store, profile="strict")
    plain = add_job(store)
    claim = store.claim("w", ["cpu"], 30)
    assert claim is not None
    assert claim.job_id == plain.id
