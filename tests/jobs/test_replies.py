"""Kept answers: one transaction with the change, told apart by owner, and gone after a day."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobs import replies, tables
from jobs.database import reading, writing
from jobs.errors import AnsweredMeanwhile, KeyReused
from jobs.moves import now
from jobs.replies import Answered, Repeatable
from jobs.store import File, Job, Reply, Store
from tests.jobs.queue_of_jobs import add_job, open_store

REQUEST = Repeatable("anyone", "key", "0" * 64)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


def created(job: Job) -> Reply:
    return Reply(201, {"location": job.id}, job.id.encode())


def test_the_answer_is_kept_with_the_job(store: Store) -> None:
    assert store.reply(REQUEST) is None
    job = add_job(store, answered=Answered(REQUEST, created))
    assert store.reply(REQUEST) == created(job)
    assert store.reply(Repeatable("another", "key", "1" * 64)) is None
    with pytest.raises(KeyReused):
        store.reply(Repeatable("anyone", "key", "1" * 64))


def test_a_second_change_under_one_key_is_undone(store: Store) -> None:
    first = add_job(store, answered=Answered(REQUEST, created))
    with pytest.raises(AnsweredMeanwhile):
        add_job(store, answered=Answered(REQUEST, created))
    assert [job.id for job in store.jobs().data] == [first.id]
    taken = Answered[tuple[File, bool]](REQUEST, lambda _: Reply(201, {}, b""))
    with pytest.raises(AnsweredMeanwhile):
        store.add_file(sha256="a" * 64, name="a", size_bytes=1, preview={}, answered=taken)
    assert not store.files().data


DIES = """
import os, sys
from pathlib import Path
from jobs.replies import Answered, Repeatable
from tests.jobs.queue_of_jobs import add_job, open_store
add_job(open_store(Path(sys.argv[1])), answered=Answered(Repeatable("anyone", "key", "0" * 64), lambda job: os._exit(9)))
"""


def test_a_death_between_the_change_and_its_answer_leaves_neither(store: Store, tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", DIES, str(tmp_path)]).returncode == 9
    assert not store.jobs().data
    add_job(store, answered=Answered(REQUEST, created))
    assert len(store.jobs().data) == 1


def test_an_answer_is_kept_for_a_day_and_then_removed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        add_job(store, answered=Answered(Repeatable("anyone", f"key{number}", "0" * 64), created))
    add_job(store, answered=Answered(REQUEST, created))
    _age(store, timedelta(hours=23))
    assert store.reply(REQUEST) is not None
    _age(store, timedelta(hours=2))
    assert store.reply(REQUEST) is None
    monkeypatch.setattr(replies, "PRUNED_AT_ONCE", 2)
    again = add_job(store, answered=Answered(REQUEST, created))  # in the place of the old one
    assert store.reply(REQUEST) == created(again)
    with reading(store.engine) as connection:
        kept = set(connection.scalars(sa.select(tables.replies.c.key)))
    assert kept == {"key", "key2", "key3", "key4"}


def _age(store: Store, by: timedelta) -> None:
    with writing(store.engine) as connection:
        for key, at in connection.execute(sa.select(tables.replies.c.key, tables.replies.c.created_at)).all():
            assert at < now()
            connection.execute(sa.update(tables.replies).where(tables.replies.c.key == key).values(created_at=at - by))
