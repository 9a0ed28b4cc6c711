"""One attempt at one job, from its launch to its end: what its trainer says goes into the store, what is asked of it goes down.

The trainer process may be anything: slow, silent, gone, hostile. Whatever it does ends this attempt at most.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jobs.curves import Curves
from jobs.database import why_away
from jobs.errors import CurveFull, LostLease
from jobs.records import Claim, Failure
from jobs.states import CANCELLED, ENDED, FAILED, PAUSED
from jobs.store import Store
from workers.child import Child, Exit
from workers.log_bound import LogBound
from workers.protocol import (
    Checkpointed,
    Ended,
    Incident,
    Message,
    Points,
    ProtocolError,
    Series,
    Started,
    Stop,
    Stored,
    suspect_of,
)
from workers.sandbox import Usage
from workers.slots import Slot

log = logging.getLogger(__name__)

# The trainer looks at its own clock, saves and says so; this much later it is killed.
TIMEOUT_GRACE_SECONDS = 5.0
# Of one attempt. A trainer tells of 100 and of at most as many rollbacks; more are a hostile one's.
MAX_INCIDENTS = 250
MAX_TEXT_CHARACTERS = 2000
MAX_CHECKPOINT_EVENTS = 10_000
# A process that has closed its channel or said its last word has this long to end.
EXIT_GRACE_SECONDS = 5.0
# A job that writes without end fills a gigabyte or so of disk between two looks.
USAGE_LOOK_SECONDS = 0.5

CANCEL, PAUSE, GIVE_BACK = "cancel", "pause", "give_back"
# A kill follows. Before a pause the trainer saves its place; a validation is not left halfway, so a long one is done again.
GRACE_SECONDS = {CANCEL: 1.0, PAUSE: 10.0}
STOPPED_FOR = {PAUSE: "a pause was asked for", GIVE_BACK: "the worker was told to stop"}
# A trainer's last words after PAUSE and GIVE_BACK: its checkpoint is on disk.
SAVED = {PAUSE: PAUSED, GIVE_BACK: "given_back"}


class Watch:
    """Nothing here waits; `over` says that the process is gone and all is written.

    Only `turn` raises, and only while the database is away (jobs/database.py). What could not be written is kept for the next
    turn and no more is taken from the trainer meanwhile: it trains on until its channel is full, and then it waits.
    """

    def __init__(
        self,
        claim: Claim,
        slot: Slot,
        child: Child,
        store: Store,
        curves: Curves,
        oom: Callable[[], bool],
        log_bound: LogBound,
        usage: Usage | None = None,
    ) -> None:
        """`usage` says when a process under profile strict takes more than it may."""
        self.claim, self.slot, self.child = claim, slot, child
        self.over = False
        self._store, self._curves, self._oom = store, curves, oom
        self._key = (claim.job_id, claim.attempt)
        self._started_at = time.monotonic()
        self._ended: Ended | None = None
        self._asked: list[str] = []  # of CANCEL, PAUSE and GIVE_BACK, each once; the trainer may be answering any of them
        self._lost = False  # another worker may hold the job by now: write nothing more
        self._broken: str | None = None  # why we ended it
        self._timed_out = False
        self._log_bound, self._usage, self._look_at = log_bound, usage, 0.0
        self._excess: str | None = None  # the bound that it broke
        self._kill_at: float | None = None
        self._started = False
        self._incidents = self._checkpoints = 0
        self._untaken: deque[Message] = deque()
        self._reached: Points | None = None  # stored, but the job does not say so yet
        self._cause: tuple[str, str] | None = None

    def turn(self, now: float) -> None:
        """Acts on the clock, and takes what has arrived. `now` is time.monotonic()."""
        gone = self.child.exit  # read before the channel: what was sent before the end is then all there
        if gone is None:
            self.child.flush()
            self._look_at_the_clock(now)
            self._look_at_what_it_takes(now)
        if not self._untaken:
            self._guarded(lambda: self._untaken.extend(self.child.drain() if gone else self.child.receive()))
        self._guarded(self._take)
        if gone is not None:
            self._guarded(lambda: self._conclude(gone))
            self.child.close()
            self._log_bound.cut()
            self.over = True

    def ask(self, why: str) -> None:
        """Asks the trainer to stop, for CANCEL, PAUSE or GIVE_BACK. The first two are followed by a kill, the last by the
        supervisor's own. Nothing is taken back: what becomes of the job is for its row to say when the process is gone."""
        if why in self._asked or CANCEL in self._asked:
            return
        self._asked.append(why)
        if why in GRACE_SECONDS:
            self._kill_after(GRACE_SECONDS[why])
        self._guarded(lambda: self.child.send(Stop(why)))

    def lose(self) -> None:
        """The lease is lost: the process is killed and nothing more is written."""
        log.warning("job %s attempt %d was lost to another worker", *self._key)
        self._lost = True
        self.child.kill()

    def _take(self) -> None:
        """Neighbouring points become one write: a slow database gets fewer and larger ones. What is written leaves `_untaken`
        at once, so that nothing is written twice when the database is away in between."""
        while not (self._lost or self._broken or self._excess):
            if self._reached is not None:
                self._progress(self._reached)
            if self._ended or not self._untaken:
                return
            if points := list(_leading_points(self._untaken)):
                self._keep(points)
            else:
                self._handle(self._untaken[0])
                self._untaken.popleft()

    def _handle(self, message: Message) -> None:
        match message:
            case Started():
                self._start(message)
            case Checkpointed():
                self._saved(message)
            case Incident():
                self._happened(message)
            case Ended():
                self._last_word(message)
            case _:
                raise ProtocolError(f"a trainer does not send {message.kind!r}")

    def _saved(self, message: Checkpointed) -> None:
        """An event, up to a number that only a hostile trainer or a very long run comes to; the rest are not written down."""
        if self._checkpoints < MAX_CHECKPOINT_EVENTS:
            detail = {"iteration": message.iteration, "epoch": message.epoch}
            self._store.noted(*self._key, "checkpoint", f"a checkpoint of iteration {message.iteration} is on disk", detail)
        self._checkpoints += 1

    def _start(self, message: Started) -> None:
        if self._started:
            raise ProtocolError("it started twice")
        if self.claim.attempt > 1:
            self._curves.truncate(*self._key, message.resumed_from)
        self._store.started(
            *self._key,
            environment=message.environment,
            effective_spec=message.effective_spec,
            parameters=message.parameters,
            iterations=message.iterations,
            samples=message.samples,
            device=self.slot.device,
            resumed_from=message.resumed_from,
            notes=message.notes,
        )
        self._started = True

    def _happened(self, incident: Incident) -> None:
        if self._incidents >= MAX_INCIDENTS:
            raise ProtocolError(f"it told of more than {MAX_INCIDENTS} incidents")
        incident.check()
        if incident.back_to is not None:
            self._curves.truncate(*self._key, incident.back_to)
        detail = {"iteration": incident.iteration, "rows": incident.rows, "back_to": incident.back_to}
        text = incident.text[:MAX_TEXT_CHARACTERS]
        self._store.noted(*self._key, incident.event, text, {k: v for k, v in detail.items() if v is not None})
        self._incidents += 1

    def _keep(self, points: Sequence[Points]) -> None:
        self._curves.append(*self._key, joined(points))
        for _ in points:
            self._untaken.popleft()
        self._reached = points[-1]

    def _progress(self, last: Points) -> None:
        where: dict[str, Any] = {"epoch": last.epoch, "iteration": last.iteration}
        self._store.progressed(*self._key, **where, samples_per_second=last.samples_per_second)
        self._reached = None
        self.child.send(Stored(last.iteration))

    def _last_word(self, message: Ended) -> None:
        if message.state not in ENDED + tuple(SAVED[why] for why in self._asked if why in SAVED):
            raise ProtocolError(f"a trainer cannot end as {message.state!r}")
        self._ended = message
        self._kill_after(EXIT_GRACE_SECONDS)

    def _look_at_the_clock(self, now: float) -> None:
        limit = self.claim.timeout_seconds
        if limit is not None and self._ended is None and now > self._started_at + limit + TIMEOUT_GRACE_SECONDS:
            self._timed_out = True
            self.child.kill()
        if self.child.closed:
            self._kill_after(EXIT_GRACE_SECONDS)
        if self._kill_at is not None and now >= self._kill_at:
            self.child.kill()

    def _look_at_what_it_takes(self, now: float) -> None:
        if now < self._look_at or self._excess is not None:
            return
        self._look_at = now + USAGE_LOOK_SECONDS
        self._log_bound.cut()
        if self._usage is None:
            return
        self._excess = self._usage.excess()
        if self._excess is not None:
            self.child.kill()

    def _kill_after(self, seconds: float) -> None:
        then = time.monotonic() + seconds
        self._kill_at = then if self._kill_at is None else min(then, self._kill_at)

    def _conclude(self, how: Exit) -> None:
        """Writes down how the attempt ended. The process is gone."""
        if self._lost:
            return
        if self._ended is not None and self._ended.state in ENDED:
            self._store.finish(*self._key, self._ended.state, _failure(self._ended), self._ended.message or "")
        elif self._excess is not None:
            self._store.finish(*self._key, FAILED, Failure("error", self._excess))
        elif self._timed_out:
            message = f"the run took longer than {self.claim.timeout_seconds:g} s"
            self._store.finish(*self._key, FAILED, Failure("timeout", message, "/timeout_seconds"))
        elif self._broken is not None:
            self._store.end_attempt(*self._key, "crashed", self._broken)
        elif CANCEL in self._asked:
            self._store.finish(*self._key, CANCELLED)
        elif self._asked:  # whether it said that it has saved or was killed for not coming to an end
            saved = "it did not stop in time and goes on from its checkpoint"
            if self._ended is not None:
                saved = self._ended.message or "its place is saved"
            self._store.give_back(*self._key, f"{STOPPED_FOR[self._asked[0]]}; {saved}")
        else:
            self._cause = self._cause or self._what_ended_it(how)  # once: the kernel's counter tells each rise once
            self._store.end_attempt(*self._key, *self._cause)

    def _what_ended_it(self, how: Exit) -> tuple[str, str]:
        if how.signal is not None and self._oom():
            killed = "the kernel ran out of memory and killed the trainer process"
            return "out_of_memory", f"{killed}; {suspect_of(self.claim.spec)}"
        return "crashed", how.sentence()

    def _guarded(self, action: Callable[[], None]) -> None:
        """One job's trouble is never the worker's: it ends the attempt. The database's is no job's."""
        try:
            action()
        except LostLease:
            self.lose()
        except CurveFull as error:
            self._excess = str(error)
            self.child.kill()
        except ProtocolError as error:
            self._break(f"the trainer process sent something that it must not: {error}")
        except Exception as error:
            if why_away(error) is not None:
                raise
            log.exception("job %s attempt %d", *self._key)
            self._break(f"the worker could not go on with this attempt: {type(error).__name__}: {error}")

    def _break(self, why: str) -> None:
        self._broken = self._broken or why
        self.child.kill()


def _leading_points(messages: Iterable[Message]) -> Iterator[Points]:
    for message in messages:
        if not isinstance(message, Points):
            return
        yield message


def joined(points: Sequence[Points]) -> Series:
    """The points of several messages as one series each, in the order they came."""
    names = dict.fromkeys(name for p in points for name in p.series)
    parts = {name: [p.series[name] for p in points if name in p.series] for name in names}
    return {name: (np.concatenate([s for s, _ in part]), np.concatenate([v for _, v in part])) for name, part in parts.items()}


def _failure(ended: Ended) -> Failure | None:
    if ended.state != FAILED:
        return None
    return Failure(ended.reason or "error", ended.message or "the trainer gave no reason", ended.pointer)
