"""Migrations equal the tables, go up and down again, and two processes may start them at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from jobs import tables
from jobs.database import open_engine, reading, writing
from jobs.store import Store
from migrations.schema import current, downgrade, head, upgrade
from tests.jobs.queue_of_jobs import add_job


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return open_engine(tmp_path / "postgrad.db")


def definitions(engine: sa.Engine) -> dict[str, list[str]]:
    """Every table and index as SQLite keeps it: its parts, sorted, without regard to layout."""
    query = (
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE '%alembic%' AND name NOT LIKE 'sqlite_%'"
    )
    with reading(engine) as connection:
        rows = connection.exec_driver_sql(query).all()
    # A column that was added later stands on the line of the last one before it.
    parts = {name: (re.sub(r"\s+", " ", part).strip(" ,") for part in re.split(r", |\n", sql)) for name, sql in rows}
    return {name: sorted(filter(None, found)) for name, found in parts.items()}


def test_migrated_equals_the_tables(engine: sa.Engine, tmp_path: Path) -> None:
    upgrade(engine)
    with reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, tables.metadata) == []
    fresh = open_engine(tmp_path / "fresh.db")
    tables.metadata.create_all(fresh)
    assert definitions(engine) == definitions(fresh)  # CHECK constraints too, which alembic does not compare


def test_up_says_where_it_is_and_again_changes_nothing(engine: sa.Engine) -> None:
    assert current(engine) is None
    upgrade(engine)
    before = definitions(engine)
    upgrade(engine)
    assert current(engine) == head()
    assert definitions(engine) == before


def test_down_leaves_nothing_and_up_again_works(engine: sa.Engine) -> None:
    upgrade(engine)
    add_job(Store(engine))
    downgrade(engine, "base")
    assert current(engine) is None
    assert definitions(engine) == {}
    upgrade(engine)
    assert not Store(engine).jobs().data


def test_going_up_keeps_the_data(engine: sa.Engine) -> None:
    upgrade(engine)
    job = add_job(Store(engine))
    upgrade(engine)
    assert Store(engine).job(job.id) == job


def test_going_back_over_the_keys_keeps_the_jobs(engine: sa.Engine) -> None:
    upgrade(engine)
    store = Store(engine)
    job = add_job(store)
    store.add_key("laptop", ["read"])
    downgrade(engine, "0002")
    assert not {"keys", "replies"} & set(definitions(engine))
    upgrade(engine)
    assert (store.job(job.id), store.api_keys()) == (job, [])


def test_a_failed_upgrade_leaves_nothing_behind(engine: sa.Engine) -> None:
    with writing(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE curve_pyramid (in_the_way INTEGER)")
    with pytest.raises(sa.exc.OperationalError, match="curve_pyramid"):
        upgrade(engine)
    assert set(definitions(engine)) == {"curve_pyramid"}
    assert current(engine) is None


def test_foreign_keys_hold_again_after_an_upgrade(engine: sa.Engine) -> None:
    upgrade(engine)
    orphan = sa.insert(tables.job_files).values(job_id="job_x", file_id="file_x")
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as connection:
        connection.execute(orphan)


def test_processes_that_migrate_at_once_all_succeed(tmp_path: Path) -> None:
    environment = os.environ | {"POSTGRAD_DATA_DIR": str(tmp_path / "data"), "POSTGRAD_DATABASE_URL": ""}
    command = [sys.executable, "-m", "migrations"]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert current(open_engine(tmp_path / "data" / "postgrad.db")) == head()
