"""Every migration with data in every table: down and up again, step by step, nothing that has a place is lost or changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from jobs import tables
from jobs.curves import Curves
from jobs.database import open_engine, reading
from jobs.replies import Answered, Repeatable
from jobs.store import Failure, Job, Reply, Store
from migrations import schema
from migrations.schema import current, downgrade, head, upgrade
from tests.jobs.queue_of_jobs import add_job

POINTS = 20_000  # several chunks, and two levels of the pyramid
OFFERED = {"plain": {"layers": ["landlock"], "refusal": None}}
Rows = dict[str, list[dict[str, Any]]]


def revisions() -> list[str]:
    """From the oldest to the newest."""
    script = ScriptDirectory.from_config(schema._config())
    return [revision.revision for revision in reversed(list(script.walk_revisions()))]


def fill(engine: sa.Engine) -> None:
    """Something in every table, by the ways that the service itself takes."""
    store, curves = Store(engine), Curves(engine)
    store.worker_started("w", host="h", pid=1, devices=[{"device": "cpu", "slots": 4}], lease_seconds=30, profiles=OFFERED)
    file, _ = store.add_file(sha256="0f" * 32, name="a.csv", size_bytes=3, preview={"rows": [[1, None]]})
    store.add_key("laptop", ["read", "write"])
    request = Repeatable("anyone", "key", "0" * 64)
    answered: Answered[Job] = Answered(request, lambda job: Reply(201, {"location": job.id}, b"\x00\xff"))
    names = ["fails", "cancelled", "paused", "runs", "waits"]
    jobs = {name: add_job(store, name=name, metadata={"a": "ü"}, files=(file.id,)).id for name in names}
    add_job(store, name="strict", profile="strict", answered=answered)
    for _ in names[:4]:
        assert store.claim("w", ["cpu"], 30) is not None
    _train(store, curves, jobs["fails"])
    store.finish(jobs["fails"], 1, "failed", Failure("out_of_memory", "no", "/batch_size"))
    store.request_cancel(jobs["cancelled"])
    store.finish(jobs["cancelled"], 1, "cancelled")
    store.request_pause(jobs["paused"])
    store.give_back(jobs["paused"], 1)
    _train(store, curves, jobs["runs"])


def _train(store: Store, curves: Curves, job_id: str) -> None:
    told: dict[str, Any] = {"environment": {"torch": "2"}, "effective_spec": {}, "parameters": {"total": 1, "trainable": 1}}
    store.started(job_id, 1, **told, iterations=POINTS, samples=9, device="cpu", notes=["a note"])
    values = np.linspace(3, 0, POINTS)
    values[7] = np.nan
    curves.append(
        job_id, 1, {"train/loss": (np.arange(1, POINTS + 1), values), "val/loss": (np.array([5]), np.array([np.inf]))}
    )
    curves.truncate(job_id, 1, POINTS - 5)


def content(engine: sa.Engine) -> Rows:
    """Every row of every table as it is stored."""
    with reading(engine) as connection:
        names = [name for name in sa.inspect(connection).get_table_names() if name != "alembic_version"]
        found = {name: [dict(row._mapping) for row in connection.exec_driver_sql(f"SELECT * FROM {name}")] for name in names}
    return {name: sorted(rows, key=repr) for name, rows in found.items()}


def common(rows: Rows, other: Rows) -> Rows:
    """What of `rows` has a place in the tables and columns of `other` too."""
    kept: Rows = {}
    for name in rows.keys() & other.keys():
        columns = set(other[name][0]) if other[name] else set()
        kept[name] = sorted(({c: v for c, v in row.items() if c in columns} for row in rows[name]), key=repr)
    return kept


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    engine = open_engine(tmp_path / "postgrad.db")
    upgrade(engine)
    fill(engine)
    return engine


def test_the_data_of_these_tests_is_in_every_table(engine: sa.Engine) -> None:
    assert [name for name in tables.metadata.tables if not content(engine)[name]] == []


@pytest.mark.parametrize("revision", revisions()[:-1])
def test_going_back_keeps_what_has_a_place_and_going_up_again_keeps_that(engine: sa.Engine, revision: str) -> None:
    newest = content(engine)
    downgrade(engine, revision)
    assert current(engine) == revision
    older = content(engine)
    assert older.keys() <= newest.keys()
    assert older == common(newest, older)
    upgrade(engine)
    assert current(engine) == head()
    again = content(engine)
    assert again.keys() == newest.keys()
    assert common(again, older) == older  # with data in place at the older revision
    for name in newest.keys() - older.keys():
        assert again[name] == [], f"{name} was dropped on the way"


def test_step_by_step_down_and_up_is_the_same_as_at_once(engine: sa.Engine) -> None:
    newest, steps = content(engine), revisions()
    for revision in reversed(steps[:-1]):
        downgrade(engine, revision)
        assert current(engine) == revision
    oldest = content(engine)
    assert oldest == common(newest, oldest)
    for revision in steps[1:]:
        upgrade(engine, revision)
        assert current(engine) == revision
        assert common(content(engine), oldest) == oldest
    _works(engine)


@pytest.mark.parametrize("revision", revisions()[:-1])
def test_the_service_works_on_with_what_an_older_release_has_left(engine: sa.Engine, revision: str) -> None:
    downgrade(engine, revision)
    upgrade(engine)
    _works(engine)


def _works(engine: sa.Engine) -> None:
    """The jobs can be read, the curves are whole, and the life of each goes on."""
    store, curves = Store(engine), Curves(engine)
    jobs = {job.name: job for job in store.jobs(limit=100, order="asc").data}
    assert {name: job.state for name, job in jobs.items()} == {
        "fails": "failed",
        "cancelled": "cancelled",
        "paused": "paused",
        "runs": "running",
        "waits": "queued",
        "strict": "queued",
    }
    series = {each.name: each for each in curves.read(jobs["runs"].id, max_points=0).series}
    assert list(series["train/loss"].steps) == list(range(1, POINTS - 4))
    assert np.isnan(series["train/loss"].values[7])
    assert series["val/loss"].values[0] == np.inf
    curves.append(jobs["runs"].id, 1, {"train/loss": (np.array([POINTS]), np.array([0.0]))})
    assert store.finish(jobs["runs"].id, 1, "succeeded").state == "succeeded"
    assert store.resume(jobs["paused"].id).state == "queued"
    claimed = [store.claim("w", ["cpu"], 30, ["plain", "strict"]) for _ in range(4)]
    assert sum(claim is not None for claim in claimed) == 3
    assert store.retry(jobs["fails"].id, from_checkpoint=False).state == "queued"
    with pytest.raises(sa.exc.IntegrityError):
        _write(engine, lambda connection: connection.execute(sa.insert(tables.job_files).values(job_id="x", file_id="y")))
    with pytest.raises(sa.exc.IntegrityError):
        _write(engine, lambda connection: connection.execute(sa.update(tables.jobs).values(state="lost")))


def _write(engine: sa.Engine, act: Callable[[sa.Connection], object]) -> None:
    with engine.begin() as connection:
        act(connection)
