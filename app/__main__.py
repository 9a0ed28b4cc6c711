"""`python -m app`: serves the API with the settings of the environment, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

import uvicorn
from pydantic import ValidationError

from app.main import create_app
from app.protocol import Protocol, room
from app.security import ServerRefuses, check_settings
from jobs.database import open_engine
from jobs.errors import DatabaseUnfit
from jobs.settings import Settings

# An open stream would otherwise keep the server from ever stopping; streams end themselves at the signal, this is the backstop.
SHUTDOWN_SECONDS = 5
REFUSED = 2  # exit code: the settings are at fault, or the place that they name


class Server(uvicorn.Server):
    """Tells the app of the signal at once. The lifespan hears of it only after the last answer, which may be waiting for it."""

    def __init__(self, config: uvicorn.Config, stopping: threading.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        # Not the base's own: it raises the signal again after the clean stop, so that the exit code would be no 0.
        self._stopping.set()
        self.force_exit = self.should_exit and sig == signal.SIGINT  # Ctrl-C twice does not wait
        self.should_exit = True


def main() -> int:
    """Exit code 0 after a clean stop, 2 when the settings or the database are refused."""
    try:
        settings = Settings()
        check_settings(settings)
        open_engine(settings).dispose()  # here, where it can be said in a sentence
    except (ServerRefuses, ValidationError, DatabaseUnfit) as problem:
        print(f"postgrad: {problem}", file=sys.stderr)
        return REFUSED
    app = create_app(settings)
    fits = room()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
        http=Protocol,
        ws="none",
        limit_concurrency=fits.connections,
        backlog=fits.backlog,
    )
    Server(config, app.state.stopping).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
