"""What bounds a job: the size of its curve and of its log, and the room on the disk that it would need to start."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from app.log_follow import LogFollower
from jobs.curves import Curves
from jobs.room import Room
from tests.workers.conftest import Driver, Place
from tests.workers.stub import StubLauncher
from workers.devices import Device
from workers.log_bound import LogBound
from workers.protocol import Assignment, Channel, Points, Started
from workers.supervisor import Supervisor


def worker(place: Place, launcher: StubLauncher | None = None, **parts: Any) -> Supervisor:
    curves = Curves(place.engine, parts.pop("max_points", None))
    given = (place.store, curves, place.folder, launcher or StubLauncher(), [Device("cpu", "test")])
    return Supervisor(*given, cpu_slots=1, lease_seconds=30.0, **parts)


# ---- curves


def test_a_curve_without_end_fails_its_job_and_nobody_elses(place: Place) -> None:
    driver = Driver(place, worker(place, max_points=500))
    endless, other = place.submit(iterations=10**6, flood=True), place.submit(iterations=20)
    job = driver.until_ended(endless)
    assert job.failure is not None
    assert (job.state, job.attempt, job.failure.reason) == ("failed", 1, "error")
    assert "no room for more than 500 points (POSTGRAD_MAX_CURVE_POINTS)" in job.failure.message
    kept = place.losses(endless)
    assert kept == list(range(1, len(kept) + 1))
    assert 0 < len(kept) <= 500
    assert driver.until_ended(other).state == "succeeded"
    driver.supervisor.close()


@pytest.mark.parametrize(
    ("names", "sentence"),
    [([f"s{n}" for n in range(1001)], "at most 1000 series"), (["x" * 201], "at most 200 characters, not 201")],
)
def test_a_curve_of_too_many_series_or_of_an_endless_name_fails_its_job(place: Place, names: list[str], sentence: str) -> None:
    def flood(assignment: Assignment, sock: Any) -> None:
        channel = Channel(sock)
        channel.send(Started({}, {}, {"total": 1, "trainable": 1}, 9, 9, 0, []))
        point = (np.array([1]), np.array([0.5]))
        channel.send(Points(dict.fromkeys(names, point), epoch=1, iteration=1, samples_per_second=None))
        signal.pause()

    driver = Driver(place, worker(place, StubLauncher(flood)))
    job = driver.until_ended(place.submit())
    assert job.failure is not None
    assert (job.failure.reason, job.attempt) == ("error", 1)
    assert sentence in job.failure.message
    driver.supervisor.close()


# ---- events


def test_checkpoints_without_end_are_not_all_written_down(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.watch.MAX_CHECKPOINT_EVENTS", 3)
    driver = Driver(place, worker(place))
    job = driver.until_ended(place.submit(iterations=100))
    assert (job.state, place.kinds(job.id).count("checkpoint")) == ("succeeded", 3)
    driver.supervisor.close()


def test_a_trainer_that_starts_twice_ends_its_attempt(place: Place) -> None:
    def start_twice(assignment: Assignment, sock: Any) -> None:
        for _ in range(2):
            Channel(sock).send(Started({}, {}, {"total": 1, "trainable": 1}, 9, 9, 0, []))
        signal.pause()

    driver = Driver(place, worker(place, StubLauncher(start_twice)))
    job = driver.until_ended(place.submit())
    assert job.failure is not None
    assert (job.failure.reason, job.attempt) == ("crashed", 3)
    assert "it started twice" in job.failure.message
    driver.supervisor.close()


# ---- logs


FLOOD = """
import itertools, sys
print("the first line")
for n in itertools.count():
    print(n, "." * 90, flush=n % 100 == 0)
"""


@pytest.fixture
def flood(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A process that prints without end into its log."""
    path = tmp_path / "attempt-1.log"
    with path.open("ab") as log:
        process = subprocess.Popen([sys.executable, "-c", FLOOD], stdout=log)
    yield path, process
    process.kill()
    process.wait()


def test_a_log_without_end_is_cut_and_keeps_its_beginning_and_its_latest_lines(
    flood: tuple[Path, subprocess.Popen[bytes]],
) -> None:
    path, process = flood
    bound = LogBound(path, 400_000)
    deadline, cuts = time.monotonic() + 20, 0
    while cuts < 5:
        assert time.monotonic() < deadline
        if path.stat().st_size > bound.most_bytes:
            bound.cut()
            cuts += 1
    process.send_signal(signal.SIGSTOP)
    grown = path.stat().st_size
    bound.cut()
    assert path.stat().st_size <= max(bound.most_bytes, grown)
    lines = path.read_text().splitlines()
    assert lines[0] == "the first line"
    (mark,) = [line for line in lines if "were cut out here: a log has at most 400000" in line][-1:]
    # Whole lines only: what was printed at the moment of the cut may be in pieces.
    after = [int(found[1]) for line in lines[lines.index(mark) + 1 :] if (found := re.fullmatch(r"(\d+) \.+", line))]
    before = [int(line.split()[0]) for line in lines[1:1000]]
    assert before == list(range(999))
    assert after[0] > 1000


def test_who_follows_a_log_that_is_cut_gets_what_comes_next(place: Place) -> None:
    job_id = place.submit()
    path = place.folder.make_job(job_id) / "attempt-1.log"
    path.write_bytes(b"x" * 99 + b"\n" + b"old line\n" * 100_000)
    follower = LogFollower(place.folder, job_id, 1, only_new=True)
    LogBound(path, 2**16).cut()
    assert path.stat().st_size < 2**16
    follower.read(1, final=False)
    with path.open("ab") as log:
        log.write(b"new line\n")
    assert follower.read(1, final=False)[0] == ["new line"]


class Trap(NamedTuple):
    path: Path
    victim: Path


@pytest.fixture(params=["symbolic link", "hard link", "pipe"])
def trap(tmp_path: Path, request: pytest.FixtureRequest) -> Trap:
    path, victim = tmp_path / "attempt-1.log", tmp_path / "victim"
    victim.write_bytes(bytes(10_000))
    match request.param:
        case "symbolic link":
            path.symlink_to(victim)
        case "hard link":
            path.hardlink_to(victim)
        case _:
            subprocess.run(["mkfifo", str(path)], check=True)
    return Trap(path, victim)


def test_what_a_hostile_process_puts_in_its_logs_place_is_left_alone(trap: Trap) -> None:
    LogBound(trap.path, 1000).cut()
    assert trap.victim.stat().st_size == 10_000


def test_a_log_that_is_gone_or_short_is_left_alone(tmp_path: Path) -> None:
    LogBound(tmp_path / "attempt-1.log", 1000).cut()
    (tmp_path / "attempt-2.log").write_text("short\n")
    LogBound(tmp_path / "attempt-2.log", 1000).cut()
    assert (tmp_path / "attempt-2.log").read_text() == "short\n"


# ---- room


def test_no_job_is_taken_while_the_disk_is_nearly_full(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room({"data folder": place.root}, 1000)
    free = [999]
    monkeypatch.setattr("jobs.room.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free[0]))
    driver = Driver(place, worker(place, room=room))
    job_id = place.submit()
    sentence = "the disk of the data folder has 999 bytes free; 1000 are kept free"
    driver.until(lambda: place.store.job(job_id).waiting == f"no worker takes jobs now: {sentence}")
    assert place.store.workers()[0].profiles["plain"]["refusal"] == sentence
    free[0] = 1000
    assert driver.until_ended(job_id).state == "succeeded"
    assert place.store.workers()[0].profiles["plain"]["refusal"] is None
    driver.supervisor.close()


def test_a_folder_that_cannot_be_made_gives_the_job_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.supervisor.CLAIM_REST_SECONDS", 0.3)
    in_the_way = place.root / "jobs"
    in_the_way.touch()
    driver = Driver(place, worker(place))
    job_id = place.submit()
    driver.until(lambda: place.kinds(job_id).count("given_back") == 1)
    assert place.store.job(job_id).attempts_spent == 0
    assert "the data folder cannot be written" in place.store.events(job_id).data[-1].message
    for _ in range(10):
        driver.supervisor.turn()
    assert place.kinds(job_id).count("given_back") == 1  # and is not taken again at once
    in_the_way.unlink()
    assert driver.until_ended(job_id).state == "succeeded"
    driver.supervisor.close()
