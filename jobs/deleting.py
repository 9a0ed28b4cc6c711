"""Deleting what has rows and files: marked first, then the rows, then the files. No crash leaves a job without its files, nor
files that nobody will ever remove: what was begun is finished at the next start of the API.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from jobs.errors import JobsError, UnknownJob
from jobs.files import DataFolder
from jobs.requests import Versions
from jobs.store import Store

log = logging.getLogger(__name__)


def delete_job(store: Store, folder: DataFolder, job_id: str, versions: Versions = None) -> None:
    """A job with its events, curve, checkpoints, results and logs. Weights that other jobs started from stay theirs.

    Raises UnknownJob, VersionDiffers and WrongState; nothing is deleted then.
    """
    with folder.exclusively():
        store.job(job_id)
        _delete(folder, job_id, lambda: store.delete_job(job_id, versions))


def delete_file(store: Store, folder: DataFolder, file_id: str) -> None:
    """An upload with its arrays. Raises UnknownFile and FileInUse; nothing is deleted then."""
    with folder.exclusively():
        _delete(folder, store.file(file_id).sha256, lambda: store.delete_file(file_id))


def finish_deletions(store: Store, folder: DataFolder) -> None:
    """Does what a process that died has left undone. A deletion whose rows are still there never happened."""
    if not folder.marked():
        return
    with folder.exclusively():
        for name in folder.marked():
            if _known(store, name):
                folder.unmark(name)
            else:
                _remove(folder, name)


def _delete(folder: DataFolder, name: str, forget: Callable[[], None]) -> None:
    folder.mark(name)
    try:
        forget()
    except JobsError:
        folder.unmark(name)
        raise
    _remove(folder, name)


def _remove(folder: DataFolder, name: str) -> None:
    try:
        folder.remove(name)
        folder.unmark(name)
    except OSError:  # it is gone for its users; its disk is freed at a later start
        log.exception("%s is deleted, but not all of its files could be removed", name)


def _known(store: Store, name: str) -> bool:
    if not name.startswith("job_"):
        return store.has_content(name)
    try:
        store.job(name)
    except UnknownJob:
        return False
    return True
