"""/v1/jobs/{id}/stream: the curve, the job and its log as server-sent events.

A listener holds nothing but its cursor: it is woken by the job's feed, reads what is new behind the cursor and sends it. So a
slow client costs no memory, and one that comes back, even to a new process, goes on where its Last-Event-ID says. Everything
that can be refused is refused before the stream begins: inside the generator it would be a 200 with nothing in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import StreamingResponse

from app.callers import Asking, Pass
from app.curve_json import dumps, series_body
from app.curve_routes import MAX_CURSOR_CHARACTERS, CursorText, invalid_cursor
from app.feeds import Feed, Feeds
from app.log_follow import LogFollower
from app.state import Parts, Service
from jobs.cursors import InvalidCursor
from jobs.curves import CurveView
from jobs.states import ended
from jobs.store import Job

router = APIRouter(tags=["curves"])

HEARTBEAT_SECONDS = 15.0
STATUS_SECONDS = 1.0  # progress alone is told at most this often; a change of state at once
RETRY_MILLISECONDS = 1000
MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
HEARTBEAT = b": still here\n\n"


async def feeds(request: Request, parts: Parts) -> Feeds:
    """The feeds of this process, made when first asked for."""
    state = request.app.state
    if not hasattr(state, "feeds"):
        state.feeds = Feeds(parts)
    found: Feeds = state.feeds
    return found


# Not FastAPI's EventSourceResponse: with it the endpoint would be the generator, and its refusals a 200.
@router.get(
    "/v1/jobs/{job_id}/stream",
    summary="Follow a job",
    response_class=StreamingResponse,
    responses={200: {"description": "Server-sent events", "content": {MEDIA_TYPE: {}}}},
)
async def stream_job(
    parts: Parts,
    caller: Asking,
    feeds: Annotated[Feeds, Depends(feeds)],
    job_id: str,
    cursor: CursorText = None,
    last_event_id: Annotated[str | None, Header(max_length=MAX_CURSOR_CHARACTERS)] = None,
) -> StreamingResponse:
    """Events `metrics`, `status`, `log`, `reset` and, after the job's last point, `end`. Replays from Last-Event-ID, else from
    `cursor`, else from the beginning."""
    parts.store.job(job_id)
    since = last_event_id or cursor
    try:
        parts.curves.read(job_id, names=[], cursor=since)
    except InvalidCursor as reason:
        raise invalid_cursor("Last-Event-ID" if last_event_id else "cursor", reason) from reason
    events = _events(parts, feeds, job_id, since, Pass(caller, parts.store))
    return StreamingResponse(events, media_type=MEDIA_TYPE, headers=HEADERS)


async def _events(parts: Service, feeds: Feeds, job_id: str, since: str | None, allowed: Pass) -> AsyncIterator[bytes]:
    with feeds.watching(job_id) as feed:
        listener = Listener(feed, LogFollower(parts.folder, job_id, feed.job.attempt, only_new=since is not None), since)
        yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
        while not parts.stopping.is_set() and not feed.gone and allowed.holds():
            change, job = feed.change(), feed.job
            frames = listener.frames()
            for frame in frames:
                yield frame
            if listener.behind:
                await asyncio.sleep(0)
            elif ended(job.state):
                yield event("end", dumps({"status": job.state}))
                return
            elif not await _happens(change, listener.patience()) and not listener.owes_status:
                yield HEARTBEAT
        if feed.gone:
            yield event("end", dumps({"status": "deleted"}))


async def _happens(change: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await change.wait()
    except TimeoutError:
        return False


class Listener:
    """One open stream: how far it has come in the curve, the log and the job's changes."""

    def __init__(self, feed: Feed, log: LogFollower, cursor: str | None) -> None:
        self._feed, self._log, self._cursor = feed, log, cursor
        self._version: tuple[int, int] | None = None  # of the curve when it was last read to its end
        self._told: Job | None = None
        self._told_at = 0.0
        self.behind = False  # more can be read at once
        self.owes_status = False

    def frames(self) -> list[bytes]:
        """Everything that is new, in the order in which it is to be sent."""
        first = self._told is None
        opening = self._status() if first else []
        self.behind = False
        points, lines = self._points(), self._lines()
        return opening + points + lines + ([] if first else self._status())

    def patience(self) -> float:
        """Seconds to wait for a change: until the status that is owed is due, or until a heartbeat is."""
        due = self._told_at + STATUS_SECONDS - time.monotonic()
        return max(due, 0.0) if self.owes_status else HEARTBEAT_SECONDS

    def _points(self) -> list[bytes]:
        version = self._feed.version
        if version == self._version:
            return []
        view = self._feed.news(self._cursor)
        self._cursor = view.cursor
        if view.complete:
            self._version = version
        else:
            self.behind = True
        return curve_events(view)

    def _lines(self) -> list[bytes]:
        job = self._feed.job
        lines, more = self._log.read(job.attempt, final=ended(job.state))
        self.behind = self.behind or more
        return [event("log", dumps({"lines": lines}))] if lines else []

    def _status(self) -> list[bytes]:
        job, now = self._feed.job, time.monotonic()
        news = job != self._told
        due = self._told is None or _turn(job) != _turn(self._told) or now >= self._told_at + STATUS_SECONDS
        self.owes_status = news and not due
        if not (news and due):
            return []
        self._told, self._told_at = job, now
        return [event("status", self._feed.body())]


def curve_events(view: CurveView) -> list[bytes]:
    """A `reset` when points were dropped, `metrics` when there are new ones. The last of them carries the cursor as its id, so
    that a client cut off between the two is told both again."""
    found: list[tuple[str, bytes]] = []
    if view.truncate_after is not None:
        found.append(("reset", dumps({"truncate_after": view.truncate_after, "revision": view.revision})))
    fresh = [series_body(series) for series in view.series if len(series.steps)]
    if fresh:
        head = {"object": "metrics", "job_id": view.job_id, "cursor": view.cursor, "revision": view.revision}
        found.append(("metrics", dumps(head | {"series": fresh})))
    return [event(name, data, view.cursor if at == len(found) else None) for at, (name, data) in enumerate(found, 1)]


def event(name: str, data: bytes, id_: str | None = None) -> bytes:
    """One server-sent event; `data` is JSON and so holds no line break."""
    head = f"event: {name}\n" if id_ is None else f"id: {id_}\nevent: {name}\n"
    return head.encode() + b"data: " + data + b"\n\n"


def _turn(job: Job) -> tuple[object, ...]:
    # What is told at once when it changes.
    return job.state, job.attempt, job.cancel_requested_at, job.pause_requested_at, job.waiting
