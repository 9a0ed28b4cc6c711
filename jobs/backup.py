"""`python -m jobs.backup TARGET`: copies a data folder while the service runs. The copy is a data folder like any other.

The order is what makes it whole. A checkpoint must never be ahead of its curve: so the jobs' folders are copied first, and then
the database, which can only know more. A job that the database says has ended must have its results: so those are copied once
more. The database gets its name last: a copy that was cut short is none.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from jobs.database import copy_sqlite, open_engine
from jobs.errors import DatabaseUnfit, UnknownJob
from jobs.files import DataFolder
from jobs.records import File, Job, Page
from jobs.settings import Settings
from jobs.states import RUNNING, ended
from jobs.store import Store

PAGE = 100
Row = TypeVar("Row", Job, File)
TRIES = 5  # at a folder in which files come and go
UNDER_WAY = "the backup was taken while it ran"


class CannotBackUp(Exception):
    """The text says why."""


@dataclass
class Backup:
    """What was copied, and the ids of ended jobs that were retried or deleted while their results were."""

    jobs: int = 0
    files: int = 0
    under_way: int = 0
    changed: list[str] = field(default_factory=list)


def back_up(settings: Settings, target: Path) -> Backup:
    """Copies the settings' data folder and its database into `target`, which must not hold anything yet.

    Raises CannotBackUp, DatabaseUnfit, sqlite3.Error and OSError.
    """
    source, copy = DataFolder.of(settings), DataFolder(target.resolve(), settings.builtin_dir)
    engine = open_engine(settings)
    if engine.dialect.name != "sqlite":
        raise CannotBackUp(f"the database is {engine.dialect.name}: copy it by its own means, and the data folder before it")
    if target.exists() and any(target.iterdir()):
        raise CannotBackUp(f"{target} is not empty")
    live = Store(engine)
    for job in _all_jobs(live):
        _mirror(source.job(job.id), copy.job(job.id))
    unfinished = copy.database.with_suffix(".unfinished")
    copy.root.mkdir(parents=True, exist_ok=True)
    with source.exclusively():  # nothing is deleted from here on
        copy_sqlite(engine, unfinished)
        told = _complete(live, Store(open_engine(unfinished)), source, copy)
    _settle(unfinished, copy.database)
    return told


def _complete(live: Store, kept: Store, source: DataFolder, copy: DataFolder) -> Backup:
    """Copies what the copied database says is there, and closes in it what cannot be under way."""
    told = Backup()
    for file in _all_files(kept):
        _mirror(source.prepared(file.sha256), copy.prepared(file.sha256))
        _copy(source.file(file.sha256), copy.file(file.sha256))
        told.files += 1
    for sha256 in source.pinned():
        _copy(source.weights(sha256), copy.weights(sha256))
    for job in _all_jobs(kept):
        told.jobs += 1
        if ended(job.state):
            _mirror(source.job(job.id), copy.job(job.id))
            if _changed(live, job):
                told.changed.append(job.id)
        elif job.state == RUNNING:
            kept.give_back(job.id, job.attempt, UNDER_WAY)
            told.under_way += 1
    for worker in kept.workers():
        kept.worker_stopped(worker.id)
    kept.engine.dispose()
    return told


def _changed(live: Store, job: Job) -> bool:
    try:
        return live.job(job.id).version != job.version
    except UnknownJob:
        return True


def _settle(unfinished: Path, database: Path) -> None:
    os.sync()  # all that was copied, before the name that makes it a backup
    for suffix in ("-wal", "-shm"):  # written back when the last connection was closed
        unfinished.with_name(unfinished.name + suffix).unlink(missing_ok=True)
    unfinished.replace(database)


# ---- lists


def _all_jobs(store: Store) -> list[Job]:
    return _all(lambda after: store.jobs(after, PAGE, "asc"))


def _all_files(store: Store) -> list[File]:
    return _all(lambda after: store.files(after, PAGE, "asc"))


def _all(page: Callable[[str | None], Page[Row]]) -> list[Row]:
    found: list[Row] = []
    while (more := page(found[-1].id if found else None)).data:
        found += more.data
        if not more.has_more:
            break
    return found


# ---- folders


def _mirror(source: Path, target: Path) -> None:
    """Makes `target` what `source` is: folders and plain files, no links (a running attempt's door is one) and nothing that is
    being written. A folder in which files come and go is looked at again, until a look finds what it has listed."""
    for _ in range(TRIES):
        if _mirrored(source, target):
            return


def _mirrored(source: Path, target: Path) -> bool:
    if not source.is_dir():
        return True
    target.mkdir(parents=True, exist_ok=True)
    names = {entry.name: entry for entry in os.scandir(source) if not entry.is_symlink() and not entry.name.endswith(".tmp")}
    for gone in {entry.name for entry in os.scandir(target)} - names.keys():
        _remove(target / gone)
    whole = True
    for name, entry in names.items():
        if entry.is_dir(follow_symlinks=False):
            whole = _mirrored(source / name, target / name) and whole
        elif entry.is_file(follow_symlinks=False):
            whole = _copy(source / name, target / name) and whole
    return whole


def _copy(source: Path, target: Path) -> bool:
    """False when there is no such file any more. One that is there with the same size and time is left as it is."""
    try:
        found = source.stat()
        with suppress(FileNotFoundError):
            there = target.stat()
            if (there.st_size, there.st_mtime_ns) == (found.st_size, found.st_mtime_ns):
                return True
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def main() -> int:
    """Exit code 0 for a whole copy, 1 when there is none, 3 when jobs have changed under it."""
    try:
        told = back_up(Settings(), Path(sys.argv[1]))
    except (CannotBackUp, DatabaseUnfit, OSError, sqlite3.Error) as problem:
        print(f"postgrad: {problem}", file=sys.stderr)
        return 1
    print(
        f"copied {told.jobs} jobs and {told.files} files; {told.under_way} jobs were running and go on from their checkpoints"
    )
    for job_id in told.changed:
        print(f"{job_id} was retried or deleted meanwhile: of its results what was copied may be either's", file=sys.stderr)
    return 3 if told.changed else 0


if __name__ == "__main__":
    sys.exit(main())
