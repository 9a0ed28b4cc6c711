"""What the endpoints share, and how they get at it."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Annotated

import sqlalchemy as sa
from fastapi import Depends, Request
from sqlalchemy.exc import SQLAlchemyError

from app.checker import Checker
from jobs.curves import Curves
from jobs.database import SERVICE_PATIENCE_SECONDS, open_engine
from jobs.deleting import finish_deletions
from jobs.files import DataFolder
from jobs.room import Room
from jobs.settings import Settings
from jobs.store import Store

log = logging.getLogger(__name__)


@dataclass
class Service:
    """The parts of one API process. `stopping` is set at the first signal, so that long answers can end themselves."""

    settings: Settings
    engine: sa.Engine
    store: Store
    curves: Curves
    folder: DataFolder
    room: Room
    checker: Checker
    stopping: threading.Event

    @classmethod
    def open(cls, settings: Settings, stopping: threading.Event) -> Service:
        """Opens the database, finishes deletions that were cut short, clears away what killed uploads have left, and starts the
        checker, which is warm some seconds later. Raises DatabaseUnfit."""
        engine = open_engine(settings, SERVICE_PATIENCE_SECONDS)
        store, folder = Store(engine), DataFolder.of(settings)
        try:
            finish_deletions(store, folder)
        except SQLAlchemyError as error:  # not migrated yet, or away: /health/ready says more
            log.warning("deletions that were cut short are left for the next start: %s", error)
        checker = Checker()
        checker.start()
        if gone := folder.sweep():
            log.warning("removed what unfinished uploads had left: %s", ", ".join(gone))
        return cls(settings, engine, store, Curves(engine), folder, Room.of(settings), checker, stopping)

    def close(self) -> None:
        """Ends the checker, then lets go of the database."""
        self.stopping.set()
        self.checker.close()
        self.engine.dispose()


def service(request: Request) -> Service:
    """The parts of this process, as a dependency."""
    found: Service = request.app.state.service
    return found


Parts = Annotated[Service, Depends(service)]
