"""HTTP/1.1 for clients who take their time: uvicorn's, with an end to each kind of waiting, and a limit of how many may wait.

uvicorn itself waits for ever for the rest of a request's head, goes on reading the body of a request that is answered already,
and holds an answer for ever for a client that does not read it.
"""

from __future__ import annotations

import asyncio
import resource
from dataclasses import dataclass

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 30.0  # for the whole head of a request
STALLED_SECONDS = 120.0  # in which a client must take some 50 KB of what waits for it, or all of it
RESERVED_FILES = 256  # for the database's connections, the children's pipes and the files being read and written
FILES_A_CONNECTION = 2  # its socket, and the upload or download that it may be about
MOST_FILES = 65_536
MOST_WAITING = 512


@dataclass(frozen=True)
class Room:
    """How many connections can be held, and how many may wait to be taken: those get a file each before they are counted."""

    connections: int
    backlog: int


def room() -> Room:
    """What fits into this process's limit of open files, which is raised first as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    backlog = min(MOST_WAITING, files // 8)
    return Room(max((files - RESERVED_FILES - backlog) // FILES_A_CONNECTION, 1), backlog)


class Protocol(H11Protocol):
    """One connection. Beyond the limit it is closed before it is heard."""

    _head: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency:
            transport.abort()
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._stalled)

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._head)
        _cancel(self._stalled)
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        """Starts the clock at the first byte that belongs to no request being answered, stops it when there is one."""
        if not self._between_requests():
            _cancel(self._head)
            self._head = None
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _too_late(self) -> None:
        self._head = None
        if self._between_requests():
            self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
