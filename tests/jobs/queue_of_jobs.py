"""A real queue in a temporary folder, and jobs to fill it with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs import tables
from jobs.database import open_engine
from jobs.store import Job, Store

SPEC = '{"dataset": {"type": "builtin", "name": "iris"}}'


def open_store(folder: Path) -> Store:
    """The store of the database in this folder; its tables are made if missing."""
    store = Store(open_engine(folder / "postgrad.db"))
    tables.metadata.create_all(store.engine)
    return store


def add_job(store: Store, **changes: Any) -> Job:
    """One more queued job."""
    told: dict[str, Any] = {
        "spec": SPEC,
        "name": None,
        "metadata": {},
        "effective_spec": {},
        "parameters": {"total": 3, "trainable": 3},
        "epochs": 2,
        "device": "auto",
        "max_attempts": 3,
        "threads": 1,
    }
    return store.create_job(**(told | changes))
