"""Workers and uploads."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.store import Store, UnknownWorker
from tests.jobs.queue_of_jobs import add_job, open_store

CPU = [{"device": "cpu", "slots": 2, "name": "a processor"}]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


def test_a_worker_is_listed_with_what_it_offers_and_runs(store: Store) -> None:
    store.worker_started("w", host="h", pid=7, devices=CPU, lease_seconds=30)
    job = add_job(store)
    store.claim("w", ["cpu"], 30)
    (worker,) = store.workers()
    assert (worker.id, worker.host, worker.pid, worker.devices) == ("w", "h", 7, CPU)
    assert worker.alive
    assert worker.running == [job.id]
    store.finish(job.id, 1, "succeeded")
    assert store.workers()[0].running == []


def test_a_silent_worker_is_not_alive_until_it_is_seen_again(store: Store) -> None:
    store.worker_started("w", host="h", pid=7, devices=CPU, lease_seconds=0)
    assert not store.workers()[0].alive
    store.worker_started("w", host="h", pid=8, devices=CPU, lease_seconds=30)
    before = store.workers()[0]
    store.worker_seen("w")
    (after,) = store.workers()
    assert after.alive
    assert after.seen_at > before.seen_at
    store.renew("w", 30)
    assert store.workers()[0].seen_at > after.seen_at


def test_a_stopped_worker_is_gone(store: Store) -> None:
    store.worker_started("w", host="h", pid=7, devices=CPU, lease_seconds=30)
    store.worker_stopped("w")
    store.worker_stopped("w")
    assert store.workers() == []
    with pytest.raises(UnknownWorker):
        store.worker_seen("w")


def test_the_same_bytes_are_one_file(store: Store) -> None:
    preview = {"columns": [{"name": "a", "type": "numeric"}]}
    first, new = store.add_file(sha256="ab" * 32, name="x.csv", size_bytes=12, preview=preview, media_type="text/csv")
    again, new_again = store.add_file(sha256="ab" * 32, name="y.csv", size_bytes=12, preview={})
    assert (new, new_again) == (True, False)
    assert again == first == store.file(first.id)
    assert first.id == "file_" + "ab" * 12
    assert (first.preview, first.media_type, first.size_bytes) == (preview, "text/csv", 12)


def test_files_are_listed_in_pages(store: Store) -> None:
    ids = [store.add_file(sha256=f"{n:064x}"[::-1], name="x", size_bytes=n, preview={})[0].id for n in range(3)]
    page = store.files(limit=2)
    assert [file.id for file in page.data] == ids[:0:-1]
    assert page.has_more
    assert [file.id for file in store.files(after=ids[1]).data] == ids[:1]
    assert [file.id for file in store.files(after=ids[0], order="asc").data] == ids[1:]
