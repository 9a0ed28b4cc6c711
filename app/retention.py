"""Old jobs and files go by themselves, where POSTGRAD_RETENTION_DAYS says so."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

from jobs.files import DataFolder
from jobs.moves import now
from jobs.pruning import prune
from jobs.store import Store

log = logging.getLogger(__name__)

LOOK_SECONDS = 3600.0


class Retention(threading.Thread):
    """Prunes at the start and once an hour, until `stopping`. Several API processes do each other no harm."""

    def __init__(self, store: Store, folder: DataFolder, days: float, stopping: threading.Event) -> None:
        super().__init__(name="retention", daemon=True)
        self._store, self._folder, self._age, self._stopping = store, folder, timedelta(days=days), stopping

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                more = self._prune()
            except Exception:  # the database is away, or a folder cannot be removed: the next hour may be better
                log.exception("what is older than the retention could not be removed")
                more = False
            self._stopping.wait(0.0 if more else LOOK_SECONDS)

    def _prune(self) -> bool:
        found = prune(self._store, self._folder, now() - self._age)
        if found.jobs or found.files or found.weights:
            what = (found.jobs, found.files, found.weights, found.freed_bytes)
            log.info("removed %d jobs, %d files and %d weights that were older than the retention: %d bytes", *what)
        return found.has_more
