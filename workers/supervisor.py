"""The worker's loop: it takes jobs, gives each to a process, and writes down what they say. It never trains and never waits.

One thread, and turns of a few milliseconds: sleep until something happens, let every attempt act, keep the leases, look for
new work. Signals only wake it and are read like any other news.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import selectors
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any

from jobs.curves import Curves
from jobs.database import why_away
from jobs.errors import JobsError, LostLease, UnknownWorker
from jobs.files import DataFolder
from jobs.profiles import STRICT
from jobs.records import Claim
from jobs.room import Room
from jobs.states import FAILED
from jobs.store import Store
from workers.assigning import Assigner, Bounds, CannotStart, profiles
from workers.devices import Device
from workers.launcher import Launcher, LaunchFailed
from workers.leases import Silence
from workers.log_bound import LogBound
from workers.news import News
from workers.oom import OomCounter
from workers.sandbox import Usage, layers
from workers.slots import Slot, Slots
from workers.watch import CANCEL, GIVE_BACK, PAUSE, Watch

log = logging.getLogger(__name__)

TURN_SECONDS = 0.01
BUSY_TURN_SECONDS = 0.05  # no slot is free, so only a request or a clock can want something
REQUEST_LOOK_SECONDS = 0.2
GIVE_BACK_SECONDS = 10.0
LAST_WORDS_SECONDS = 5.0  # for the database to come back, once every trainer is gone
CLAIM_REST_SECONDS = 10.0  # after a job was given back because its folder could not be written
TROUBLE_SECONDS = 1.0  # pause after the database failed
RENEWALS_PER_LEASE = 3
LOST_LOOK_SECONDS = 1.0
LOOKS_PER_LEASE = 10


class Supervisor:
    """One worker. `run` returns after SIGTERM or SIGINT, with every job given back."""

    def __init__(
        self,
        store: Store,
        curves: Curves,
        folder: DataFolder,
        launcher: Launcher,
        devices: Sequence[Device],
        *,
        cpu_slots: int,
        lease_seconds: float,
        bounds: Bounds | None = None,
        room: Room | None = None,
    ) -> None:
        """While `room` is short no job is taken."""
        self.worker_id = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}"
        self._store, self._curves, self._folder, self._launcher = store, curves, folder, launcher
        self._bounds = bounds or Bounds()
        self._assigner = Assigner(store, folder, self._bounds)
        self._profiles = profiles(self._bounds)
        self._room = room or Room({}, 0)
        self._shortage: str | None = None
        self._claim_at = 0.0
        self._slots = Slots(devices, cpu_slots)
        self._lease_seconds = lease_seconds
        self._watches: list[Watch] = []
        self._news = News(store.engine)
        self._oom = OomCounter()
        self._signals: list[int] = []
        self._wake, self._wake_end = socket.socketpair()
        self._wake.setblocking(False)
        self._wake_end.setblocking(False)
        self._may_have_work = True
        self._requests_unread = False
        self._silence = Silence(lease_seconds)
        self._look_at = self._renew_at = self._look_for_lost_at = 0.0
        self._quit_at: float | None = None  # set once we were told to stop

    def run(self) -> None:
        """Serves until told to stop. Call it on the main thread: the zygote dies with the thread that started it."""
        self._listen_for_signals()
        try:
            self._register_patiently()
            while not self._done():
                self.turn()
        finally:
            self.close()

    def _register_patiently(self) -> None:
        registered = False
        while not (registered or self._signals):
            try:
                self.register()
                registered = True
            except Exception as error:
                if why_away(error) is None:
                    raise
                self._say_trouble(error)
                time.sleep(TROUBLE_SECONDS)

    def _done(self) -> bool:
        """Told to stop, and nothing is left to write, or the database has been away for too long: then leases run out."""
        if self._quit_at is None:
            return False
        return not self._watches or time.monotonic() > self._quit_at + LAST_WORDS_SECONDS

    def close(self) -> None:
        """Ends the trainers there are and takes the worker off the list."""
        self._launcher.close()
        self._news.close()
        try:
            self._store.worker_stopped(self.worker_id)
        except Exception as error:
            self._say_trouble(error)  # it is taken for lost when its leases run out
        log.info("worker %s has stopped", self.worker_id)

    def turn(self) -> None:
        """Sleeps until there is news, at most BUSY_TURN_SECONDS, and acts. Neither a job nor the database makes it raise."""
        self._sleep()
        try:
            self._act(time.monotonic())
        except Exception as error:
            # Nothing is lost: every attempt keeps what it could not write, and what else was not written is cleared up by
            # `_keep_leases`.
            self._say_trouble(error)
            time.sleep(TROUBLE_SECONDS)

    def _say_trouble(self, error: Exception) -> None:
        if (why := why_away(error)) is None:
            log.error("worker %s had trouble and goes on", self.worker_id, exc_info=error)
        else:
            log.warning("worker %s waits for the database (%s); its %d jobs go on", self.worker_id, why, len(self._watches))

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Safe in a signal handler: the loop acts on it in its next turn. Told twice, it no longer waits for the trainers."""
        self._signals.append(number)

    def _listen_for_signals(self) -> None:
        signal.set_wakeup_fd(self._wake_end.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda n, _frame: self.stop(n))

    def register(self) -> None:
        """Puts the worker on the list, with what it offers."""
        devices = [{**device, "sandbox": layers()} for device in self._slots.described()]
        who: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "devices": devices}
        self._store.worker_started(self.worker_id, **who, lease_seconds=self._lease_seconds, profiles=self._offers())
        text = ", ".join(f"{d['device']} x{d['slots']}" for d in devices)
        log.info("worker %s takes jobs on %s; sandbox: %s", self.worker_id, text, ", ".join(layers()))
        if (why := self._profiles[STRICT]["refusal"]) is not None:
            log.warning("no exported programs and no Python of the user's are run here: %s", why)

    def _sleep(self) -> None:
        """Until a trainer, the launcher or a signal has something to say, or the turn's time is up."""
        with selectors.PollSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            if (source := self._launcher.source()) is not None:
                selector.register(source, selectors.EVENT_READ)
            for child in (watch.child for watch in self._watches):
                if not child.closed:
                    wanted = selectors.EVENT_WRITE if child.unsent else 0
                    selector.register(child.socket, selectors.EVENT_READ | wanted)
            selector.select(self._turn_seconds())

    def _turn_seconds(self) -> float:
        idle = self._slots.free and self._quit_at is None
        return TURN_SECONDS if idle or self._launcher.source() is None else BUSY_TURN_SECONDS

    def _act(self, now: float) -> None:
        self._hear_signals(now)
        self._launcher.poll()
        self._keep_leases(now)  # before all that writes more: in a database that is full there may still be room for this
        self._let_attempts_act(now)
        self._look_for_the_lost(now)
        self._read_news(now)
        self._take_jobs()

    def _hear_signals(self, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(4096)
        if not self._signals:
            return
        if self._quit_at is None:
            log.info("told to stop by %s; %d jobs are given back", signal.Signals(self._signals[0]).name, len(self._watches))
            self._quit_at = now + GIVE_BACK_SECONDS
            for watch in self._watches:
                watch.ask(GIVE_BACK)
        if now >= self._quit_at or len(self._signals) > 1:
            for watch in self._watches:
                watch.child.kill()

    def _let_attempts_act(self, now: float) -> None:
        try:
            for watch in self._watches:
                if not watch.over:
                    watch.turn(now)
        finally:
            self._let_go_of_what_is_over()

    def _let_go_of_what_is_over(self) -> None:
        over = [watch for watch in self._watches if watch.over]
        self._watches = [watch for watch in self._watches if not watch.over]
        for watch in over:
            self._slots.give_back(watch.slot)
            self._may_have_work = True
        for watch in over:
            self._folder.shut_attempts(watch.claim.job_id, watch.claim.attempt)

    def _keep_leases(self, now: float) -> None:
        if now < self._renew_at:
            return
        held = {(h.job_id, h.attempt) for h in self._store.renew(self.worker_id, self._lease_seconds)}
        self._renew_at = now + self._lease_seconds / RENEWALS_PER_LEASE  # not before: one that failed is tried again at once
        known = {(w.claim.job_id, w.claim.attempt): w for w in self._watches}
        for key in known.keys() - held:
            known[key].lose()
        for key in held - known.keys():
            self._store.end_attempt(*key, "crashed", "the worker could not write down how this attempt ended")
        self._sign_of_life()

    def _look_for_the_lost(self, now: float) -> None:
        if now >= self._look_for_lost_at:
            self._look_for_lost_at = now + min(LOST_LOOK_SECONDS, self._lease_seconds / LOOKS_PER_LEASE)
            for job in self._store.expire_leases(lambda leases: self._silence.broken(leases, now)):
                self._folder.shut_attempts(job.id, job.attempt)

    def _sign_of_life(self) -> None:
        try:
            self._store.worker_seen(self.worker_id)
        except UnknownWorker:  # silent for a day (a laptop that slept), so it was forgotten
            self.register()

    def _read_news(self, now: float) -> None:
        if self._news.arrived(now):
            self._may_have_work = self._requests_unread = True
        if self._requests_unread and self._watches and now >= self._look_at:
            self._requests_unread, self._look_at = False, now + REQUEST_LOOK_SECONDS
            for watch in self._watches:
                self._pass_on_requests(watch)

    def _pass_on_requests(self, watch: Watch) -> None:
        job = self._store.job(watch.claim.job_id)
        if job.cancel_requested_at is not None:
            watch.ask(CANCEL)
        elif job.pause_requested_at is not None:
            watch.ask(PAUSE)

    def _take_jobs(self) -> None:
        while self._may_have_work and self._quit_at is None and self._slots.free and self._launcher.ready():
            if not self._has_room():
                return
            offered = [name for name, profile in self._profiles.items() if profile["refusal"] is None]
            claim = self._store.claim(self.worker_id, self._slots.devices(), self._lease_seconds, offered)
            if claim is None:
                self._may_have_work = False
                return
            self._begin(claim)

    def _has_room(self) -> bool:
        """Whether the disk has room for another job; a change of that is written down, for those who wait."""
        if time.monotonic() < self._claim_at:
            return False
        before, self._shortage = self._shortage, self._room.shortage()
        if (before is None) != (self._shortage is None):
            log.warning("worker %s %s", self.worker_id, self._shortage or "has room again and takes jobs")
            self._store.worker_offers(self.worker_id, self._offers())
        return self._shortage is None

    def _offers(self) -> dict[str, dict[str, Any]]:
        if self._shortage is None:
            return self._profiles
        return {name: {**profile, "refusal": self._shortage} for name, profile in self._profiles.items()}

    def _begin(self, claim: Claim) -> None:
        """Starts the claimed job, or writes down why it cannot start."""
        slot = self._slots.take(claim.device_wanted)
        watch = None
        try:
            watch = self._launch(claim, slot)
        except LostLease:
            log.warning("job %s attempt %d was lost before it started", claim.job_id, claim.attempt)
        except CannotStart as error:
            self._store.finish(claim.job_id, claim.attempt, FAILED, error.failure)
        except OSError as error:  # before its process was asked for: it is the data folder that says no
            self._claim_at = time.monotonic() + CLAIM_REST_SECONDS
            message = f"the data folder cannot be written: {error.strerror}"
            log.error("job %s attempt %d did not start: %s", claim.job_id, claim.attempt, error)
            self._store.give_back(claim.job_id, claim.attempt, message)
        except Exception as error:
            log.exception("job %s attempt %d did not start", claim.job_id, claim.attempt)
            why = error if isinstance(error, LaunchFailed | JobsError) else f"{type(error).__name__}: {error}"
            self._store.end_attempt(claim.job_id, claim.attempt, "crashed", f"the worker could not start a trainer: {why}")
        finally:
            if watch is None:
                self._slots.give_back(slot)
            else:
                self._watches.append(watch)

    def _launch(self, claim: Claim, slot: Slot) -> Watch:
        assignment = self._assigner.assign(claim, slot.device)
        log_file = self._folder.log(claim.job_id, claim.attempt)
        child = self._launcher.launch(assignment, log_file)
        log.info("job %s attempt %d runs on %s as process %d", claim.job_id, claim.attempt, slot.device, child.pid)
        usage = None
        if assignment.profile == STRICT:
            usage = Usage(child.pid, self._folder.job(claim.job_id), self._bounds.disk_bytes)
        log_bound = LogBound(log_file, self._bounds.log_bytes)
        return Watch(claim, slot, child, self._store, self._curves, self._oom.rose, log_bound, usage)
