"""Removing what is old: ended jobs, then the uploads and pinned weights that no job is left to need."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from jobs.deleting import delete_file, delete_job
from jobs.errors import FileInUse, UnknownFile, UnknownJob, VersionDiffers, WrongState
from jobs.files import DataFolder, bytes_on_disk
from jobs.moves import now
from jobs.store import Store

MOST_AT_ONCE = 500
# Weights are pinned a moment before their job is there to name them; no check takes so long.
PINNED_FOR_A_JOB = timedelta(hours=1)


@dataclass(frozen=True)
class Pruned:
    """What went, or would go. Bytes are those of folders and files, as the disk counts them."""

    jobs: int = 0
    files: int = 0
    weights: int = 0
    freed_bytes: int = 0
    has_more: bool = False  # as many as may at once: ask again


def prune(store: Store, folder: DataFolder, before: datetime, *, dry_run: bool = False, limit: int = MOST_AT_ONCE) -> Pruned:
    """Removes jobs that ended before then, with all that is theirs; uploads from before then that no other job names; and
    weights that were pinned for such jobs only. At most `limit` of each. With `dry_run` it only counts.

    A job that is retried meanwhile, or a file that a new job names, stays. Whatever goes wrong with one leaves the others.
    """
    jobs, job_bytes = _jobs(store, folder, before, dry_run, limit)
    files, file_bytes = _files(store, folder, before, dry_run, limit)
    weights, weight_bytes = _weights(store, folder, before, dry_run, limit)
    freed = job_bytes + file_bytes + weight_bytes
    return Pruned(jobs, files, weights, freed, limit in (jobs, files, weights))


def _jobs(store: Store, folder: DataFolder, before: datetime, dry_run: bool, limit: int) -> tuple[int, int]:
    count = freed = 0
    for job_id, version in store.ended_before(before, limit):
        size = folder.size_of(job_id)
        try:
            if not dry_run:
                delete_job(store, folder, job_id, [version])
        except (UnknownJob, VersionDiffers, WrongState):  # somebody was quicker
            continue
        count, freed = count + 1, freed + size
    return count, freed


def _files(store: Store, folder: DataFolder, before: datetime, dry_run: bool, limit: int) -> tuple[int, int]:
    count = freed = 0
    for file_id, sha256 in store.unnamed_before(before, limit):
        size = folder.size_of(sha256)
        try:
            if not dry_run:
                delete_file(store, folder, file_id)
        except (UnknownFile, FileInUse):
            continue
        count, freed = count + 1, freed + size
    return count, freed


def _weights(store: Store, folder: DataFolder, before: datetime, dry_run: bool, limit: int) -> tuple[int, int]:
    count = freed = 0
    young = min(before, now() - PINNED_FOR_A_JOB)
    for sha256 in folder.pinned():
        if count == limit:
            break
        # `keep_weights` takes the same lock and makes the file young again, so none goes between its pinning and its job.
        with folder.exclusively():
            pinned_at = folder.pinned_at(sha256)
            if pinned_at is None or pinned_at >= young or store.starts_from(sha256, before):
                continue
            freed += bytes_on_disk(folder.weights(sha256))
            if not dry_run:
                folder.unpin(sha256)
        count += 1
    return count, freed
