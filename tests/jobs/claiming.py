"""Run as a process: claims and finishes jobs until none is left, and prints the id of each as it takes it."""

from __future__ import annotations

import sys
from pathlib import Path

from jobs.store import Store
from tests.jobs.queue_of_jobs import open_store


def work_off(store: Store, worker_id: str) -> None:
    """Claims, makes progress, finishes."""
    while (claim := store.claim(worker_id, ["cpu"], lease_seconds=60)) is not None:
        print(claim.job_id, flush=True)
        store.progressed(claim.job_id, claim.attempt, epoch=1, iteration=1)
        store.finish(claim.job_id, claim.attempt, "succeeded")


if __name__ == "__main__":
    work_off(open_store(Path(sys.argv[1])), sys.argv[2])
