"""Any order of everything that can happen to jobs, against the real store and a model of it in a few dictionaries."""

from __future__ import annotations

import atexit
import functools
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from jobs import tables as t
from jobs.curves import Curves
from jobs.database import open_engine, reading, writing
from jobs.moves import now
from jobs.requests import Versions
from jobs.states import CANCEL, DELETE, ENDED, PAUSE, RESUME, RETRY, TRANSITIONS, Request
from jobs.store import Failure, LostLease, Store, UnknownJob, VersionDiffers, WrongState
from tests.jobs.queue_of_jobs import add_job, open_store
from tests.jobs.test_leases import start

LEASE_SECONDS = 1000.0
MOST_JOBS = 2
MOVES = {(row.name, row.before, row.after) for row in TRANSITIONS}
WORK = ["claim", "train", "train", "train", "renew", "give back", "give back", "crash", "lost worker", *ENDED]
WISHES = ["pause"] * 4 + ["resume"] * 3 + ["retry from the start", "retry from the checkpoint"] * 2 + ["cancel", "delete"]
VERSIONS = ["none", "none", "present", "past"]
WRITES: dict[str, Callable[[Machine, str, int], object]] = {
    "started": lambda machine, job_id, attempt: start(machine.store, job_id, attempt),
    "progressed": lambda machine, job_id, attempt: machine.store.progressed(job_id, attempt, epoch=1, iteration=10**6),
    "succeeded": lambda machine, job_id, attempt: machine.store.finish(job_id, attempt, "succeeded"),
    "crashed": lambda machine, job_id, attempt: machine.store.end_attempt(job_id, attempt, "crashed", "signal 9"),
    "given back": lambda machine, job_id, attempt: machine.store.give_back(job_id, attempt),
    "point": lambda machine, job_id, attempt: machine.append(job_id, attempt, 10**6),
    "truncate": lambda machine, job_id, attempt: machine.curves.truncate(job_id, attempt, 0),
}


Call = Callable[[Store, str, Versions, bool], object]
CALLS: dict[str, Call] = {
    "cancel": lambda store, job_id, versions, _: store.request_cancel(job_id, versions),
    "pause": lambda store, job_id, versions, _: store.request_pause(job_id, versions),
    "resume": lambda store, job_id, versions, _: store.resume(job_id, versions),
    "retry": lambda store, job_id, versions, kept: store.retry(job_id, from_checkpoint=kept, versions=versions),
    "delete": lambda store, job_id, versions, _: store.delete_job(job_id, versions),
}
ASKED = {"cancel": CANCEL, "pause": PAUSE, "resume": RESUME, "delete": DELETE}
ASKED |= {"retry from the start": RETRY, "retry from the checkpoint": RETRY}


@functools.cache
def empty_database() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    open_store(folder).engine.dispose()  # the last connection to close empties the WAL into the file
    return folder / "postgrad.db"


@dataclass
class Model:
    """A job as it should be."""

    most: int
    state: str = "queued"
    attempt: int = 0
    spent: int = 0
    cancel: bool = False
    pause: bool = False
    started: bool = False  # by the present attempt
    begun: bool = False  # the curve
    points: int = 0
    saved: int = 0  # iteration of the checkpoint
    old: list[int] = field(default_factory=list)  # attempts that have lost the job

    def leave(self, state: str, spent: int = 0) -> None:
        self.old.append(self.attempt)
        self.started = False
        self.state, self.spent, self.pause = state, self.spent + spent, state == "paused"

    def stopped(self) -> None:
        self.leave("cancelled" if self.cancel else "paused" if self.pause else "queued")

    def lost(self) -> None:
        left = self.spent + 1 < self.most
        self.leave("cancelled" if self.cancel else "failed" if not left else "paused" if self.pause else "queued", spent=1)

    def refuses(self, what: str, request: Request) -> bool:
        if what == "retry from the checkpoint" and (self.state == "succeeded" or not self.begun):
            return True
        return self.state not in request.taken_in or (self.cancel and what in ("pause", "resume"))

    def take(self, what: str) -> None:
        if what == "cancel":
            self.cancel = self.cancel or self.state not in ENDED
            if self.state in ("queued", "paused"):
                self.state, self.pause = "cancelled", False
        elif what == "pause":
            self.state, self.pause = ("paused" if self.state == "queued" else self.state), True
        elif what == "resume":
            self.state, self.pause = ("queued" if self.state == "paused" else self.state), False
        else:
            self.state, self.spent, self.cancel = "queued", 0, False
            if what == "retry from the start":
                self.begun, self.points, self.saved = False, 0, 0


class Machine(RuleBasedStateMachine):
    """Users, two workers and their zombies."""

    store: Store
    curves: Curves

    @initialize(seed=st.integers(0, 2**64 - 1))
    def open(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.folder = Path(tempfile.mkdtemp())
        shutil.copy(empty_database(), self.folder)
        engine = open_engine(self.folder / "postgrad.db")
        sa.event.listen(engine, "connect", lambda driver, _: driver.execute("PRAGMA synchronous = OFF"))  # no power is cut here
        self.store = Store(engine)
        self.curves = Curves(self.store.engine)
        self.jobs: dict[str, Model] = {}
        self.deleted: list[str] = []

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.engine.dispose()
            shutil.rmtree(self.folder)

    # ---- what the rules choose from

    def in_state(self, *states: str) -> list[tuple[str, Model]]:
        return [(job_id, job) for job_id, job in self.jobs.items() if job.state in states]

    def append(self, job_id: str, attempt: int, step: int) -> None:
        self.curves.append(job_id, attempt, {"train/loss": (np.array([step]), np.array([1.0 / step]))})

    @rule()
    def someone_acts(self) -> None:
        """One rule, and a chance of our own: left to hypothesis, most runs repeat one action or leave some out."""
        chance = self.chance
        who = chance.choice(["user", "user", "worker", "worker", "worker", "zombie"])
        if not self.jobs or (len(self.jobs) < MOST_JOBS and chance.random() < 0.2):
            most = chance.randint(1, 3)
            self.jobs[add_job(self.store, max_attempts=most).id] = Model(most)
        elif who == "user":
            what = chance.choice(WISHES)
            fitting = [(job_id, job) for job_id, job in self.jobs.items() if not job.refuses(what, ASKED[what])]
            among = fitting if fitting and chance.random() < 0.8 else list(self.jobs.items())
            self.request(*chance.choice(among), what, chance.choice(VERSIONS))
        elif who == "worker":
            self.work()
        else:
            self.zombie()

    def work(self) -> None:
        chance = self.chance
        what, worker, running = chance.choice(WORK), chance.choice(["w1", "w2"]), self.in_state("running")
        if what == "claim" or not running:
            self.claim(worker)
        elif what == "renew":
            self.renew(worker)
        elif what == "train":
            self.train(*chance.choice(running), points=chance.randint(0, 3), checkpoint=chance.random() < 0.5)
        else:
            self.end(*chance.choice(running), what)

    def zombie(self) -> None:
        keys = [(job_id, attempt) for job_id, job in self.jobs.items() for attempt in job.old]
        keys += [(job_id, 1) for job_id in self.deleted]
        if keys:
            before = self.everything()
            with pytest.raises(LostLease):
                WRITES[self.chance.choice(sorted(WRITES))](self, *self.chance.choice(keys))
            assert self.everything() == before

    # ---- users

    def request(self, job_id: str, job: Model, what: str, version: str) -> None:
        before = self.store.job(job_id), self.store.events(job_id, limit=1000)
        versions = {"none": None, "present": [before[0].version], "past": [before[0].version - 1]}[version]
        request = ASKED[what]
        error = VersionDiffers if version == "past" else WrongState if job.refuses(what, request) else None
        if error is not None:
            with pytest.raises(error):
                CALLS[request.name](self.store, job_id, versions, what.endswith("checkpoint"))
            assert (self.store.job(job_id), self.store.events(job_id, limit=1000)) == before
            return
        CALLS[request.name](self.store, job_id, versions, what.endswith("checkpoint"))
        if what == "delete":
            del self.jobs[job_id]
            self.deleted.append(job_id)
        else:
            job.take(what)

    # ---- workers

    def claim(self, worker: str) -> None:
        taken, queued = self.store.claim(worker, ["cpu"], LEASE_SECONDS), self.in_state("queued")
        assert (taken.job_id if taken else None) == (queued[0][0] if queued else None)
        if taken is not None:
            job = self.jobs[taken.job_id]
            job.state, job.attempt = "running", job.attempt + 1
            assert (taken.attempt, taken.environment is not None) == (job.attempt, job.begun)

    def renew(self, worker: str) -> None:
        with reading(self.store.engine) as connection:
            mine = sa.select(t.attempts.c.job_id).where(t.attempts.c.worker_id == worker, t.attempts.c.ended_at.is_(None))
            expected = set(connection.scalars(mine))
        assert {held.job_id for held in self.store.renew(worker, LEASE_SECONDS)} == expected

    def train(self, job_id: str, job: Model, points: int, checkpoint: bool) -> None:
        if not job.started:
            start(self.store, job_id, job.attempt, resumed_from=job.saved)
            self.curves.truncate(job_id, job.attempt, job.saved)
            job.started, job.begun, job.points = True, True, job.saved
        for _ in range(points):
            job.points += 1
            self.append(job_id, job.attempt, job.points)
        self.store.progressed(job_id, job.attempt, epoch=1, iteration=job.points)
        job.saved = job.points if checkpoint else job.saved

    def end(self, job_id: str, job: Model, how: str) -> None:
        if how in ENDED:
            self.store.finish(job_id, job.attempt, how, Failure("error", "boom") if how == "failed" else None)
            job.leave(how)
        elif how == "give back":
            self.store.give_back(job_id, job.attempt)
            job.stopped()
        elif how == "crash":
            self.store.end_attempt(job_id, job.attempt, "crashed", "signal 9")
            job.lost()
        else:
            self.lose_the_worker(job_id, job)

    def lose_the_worker(self, job_id: str, job: Model) -> None:
        with writing(self.store.engine) as connection:
            mine = sa.and_(t.attempts.c.job_id == job_id, t.attempts.c.number == job.attempt)
            connection.execute(sa.update(t.attempts).where(mine).values(lease_expires_at=now() - timedelta(seconds=1)))
        assert [expired.id for expired in self.store.expire_leases()] == [job_id]
        job.lost()

    def everything(self) -> list[Any]:
        ids = list(self.jobs)
        return [(self.store.job(i), self.store.events(i, limit=1000), self.curves.version(i)) for i in ids]

    # ---- what is always so

    @invariant()
    def every_job_is_as_the_model_has_it(self) -> None:
        for job_id, model in self.jobs.items():
            job = self.store.job(job_id)
            assert (job.state, job.attempt, job.attempts_spent) == (model.state, model.attempt, model.spent)
            assert (job.cancel_requested_at is not None, job.pause_requested_at is not None) == (model.cancel, model.pause)
            assert (job.finished_at is not None) == (model.state in ENDED)
            assert (job.failure is not None) == (model.state == "failed")
            assert (job.environment is not None) == model.begun
            series = self.curves.read(job_id, max_points=0).series
            assert [int(step) for each in series for step in each.steps] == list(range(1, model.points + 1))
        for job_id in self.deleted:
            with pytest.raises(UnknownJob):
                self.store.job(job_id)

    @invariant()
    def one_attempt_is_open_while_a_job_runs_and_none_otherwise(self) -> None:
        with reading(self.store.engine) as connection:
            is_open = sa.select(t.attempts.c.job_id, t.attempts.c.number).where(t.attempts.c.ended_at.is_(None))
            found = sorted((row.job_id, row.number) for row in connection.execute(is_open))
        assert found == sorted((job_id, job.attempt) for job_id, job in self.in_state("running"))

    @invariant()
    def the_events_tell_every_move(self) -> None:
        for job_id, model in self.jobs.items():
            state = None
            for event in self.store.events(job_id, limit=1000).data:
                if "after" in event.detail:
                    assert event.detail["before"] == state
                    assert state is None or (event.kind, state, event.detail["after"]) in MOVES
                    state = event.detail["after"]
            assert state == model.state


TestLifeCycle = Machine.TestCase
TestLifeCycle.settings = settings(
    max_examples=40, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
