"""A trainer on a full disk, and in too little memory: what it says, what it keeps, and that it can go on later."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults import fill, small_disk
from tests.trainer.supervised import Supervised, job, prepare
from tests.trainer.test_checkpoint import SPEC, same
from workers.protocol import Checkpointed, Ended, Incident, Message, Points
from workers.trainer import attempt, loop, recorder

DISK_BYTES = 2 * 2**20
ROOM = SPEC | {"checkpoint": {"every_n_epochs": 1}}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("sets"))


@pytest.fixture(autouse=True)
def _points_leave_at_every_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(recorder, "FLUSH_SECONDS", 0.0)


@pytest.fixture(scope="module")
def undisturbed(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Supervised:
    whole = job(sets, tmp_path_factory.mktemp("undisturbed"), ROOM)
    ended = whole.attempt()
    assert ended is not None
    assert ended.state == "succeeded", whole.stderr
    return whole


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_BYTES) as folder:
        yield folder


def at(iteration: int, act: Callable[[], object]) -> Callable[[Supervised, Message], str | None]:
    done: list[bool] = []

    def watch(_job: Supervised, message: Message) -> str | None:
        if isinstance(message, Points) and message.iteration >= iteration and not done:
            done.append(True)
            act()
        return None

    return watch


def end(ended: Ended | None) -> Ended:
    assert ended is not None
    return ended


def test_a_checkpoint_that_has_no_room_is_told_of_and_the_run_goes_on(sets: Path, disk: Path, undisturbed: Supervised) -> None:
    full = job(sets, disk / "job", ROOM)
    ballast: list[Path] = []

    def watch(_job: Supervised, message: Message) -> str | None:
        if isinstance(message, Checkpointed) and not ballast:
            ballast.append(fill(disk))
        if isinstance(message, Incident) and len(full.incidents) == 2:
            ballast[0].unlink()
        return None

    assert end(full.attempt(watch)).state == "succeeded", full.stderr
    assert [incident.event for incident in full.incidents] == ["checkpoint_failed"] * 2
    first = full.incidents[0].text
    assert first.startswith("the checkpoint could not be written: No space left on device")
    assert first.endswith(f"an attempt that is cut short goes on from iteration {full.checkpoints[0].iteration}")
    assert len(full.checkpoints) == ROOM["epochs"] - 2
    assert not list((disk / "job" / "checkpoints").glob("*.tmp"))
    same(full, undisturbed)


def test_a_kill_while_the_disk_is_full_goes_on_from_the_checkpoint_before(
    sets: Path, disk: Path, undisturbed: Supervised
) -> None:
    full = job(sets, disk / "job", ROOM)
    ballast: list[Path] = []

    def watch(_job: Supervised, message: Message) -> str | None:
        if isinstance(message, Checkpointed) and not ballast:
            ballast.append(fill(disk))
        return "kill" if isinstance(message, Incident) else None

    assert full.attempt(watch) is None
    ballast[0].unlink()
    assert end(full.attempt()).state == "succeeded"
    assert full.started[1].resumed_from == full.checkpoints[0].iteration
    same(full, undisturbed)


def test_weights_that_have_no_room_fail_the_job_and_a_retry_from_the_checkpoint_writes_them(
    sets: Path, disk: Path, undisturbed: Supervised
) -> None:
    full = job(sets, disk / "job", ROOM)
    ballast: list[Path] = []

    def watch(_job: Supervised, message: Message) -> str | None:
        if isinstance(message, Checkpointed) and not ballast:
            ballast.append(fill(disk))
        return None

    ended = end(full.attempt(watch))
    assert (ended.state, ended.reason) == ("failed", "error")
    assert "safetensors could not be written" in (ended.message or "")
    assert "No space left on device" in (ended.message or "")
    ballast[0].unlink()
    assert end(full.attempt()).state == "succeeded"
    assert full.started[1].resumed_from == full.checkpoints[0].iteration
    same(full, undisturbed)


@pytest.mark.parametrize(("why", "state"), [("cancel", "cancelled"), ("pause", "paused"), ("give_back", "given_back")])
def test_a_stop_is_obeyed_on_a_full_disk_and_says_what_was_not_kept(sets: Path, disk: Path, why: str, state: str) -> None:
    full = job(sets, disk / "job", ROOM)

    def watch(_job: Supervised, message: Message) -> str | None:
        if isinstance(message, Points) and message.iteration == 20:
            fill(disk)
            return why
        return None

    ended = end(full.attempt(watch))
    assert ended.state == state
    assert "could not be written: " in (ended.message or "")


def test_a_file_that_may_not_grow_is_the_same_as_a_full_disk(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a file system of one's own: the kernel's bound on one file."""
    before = loop.train

    def train(*arguments: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        before(*arguments)

    monkeypatch.setattr(attempt, "train", train)
    bounded = job(sets, tmp_path / "job", ROOM)
    ended = end(bounded.attempt())
    assert (ended.state, ended.reason) == ("failed", "error")
    assert "File too large" in (ended.message or ""), ended.message
    assert len(bounded.incidents) == ROOM["epochs"]
    assert "begins again" in bounded.incidents[0].text
    assert not [path for path in (tmp_path / "job").rglob("*") if path.suffix in (".tmp", ".pt", ".safetensors")]
    monkeypatch.undo()
    torch.set_num_threads(1)
    assert end(bounded.attempt()).state == "succeeded"


def test_failed_checkpoints_are_told_of_a_few_times_only(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "MAX_UNSAVED_TOLD", 2)
    monkeypatch.setattr("workers.trainer.checkpoint.torch.save", _no_space)
    bounded = job(sets, tmp_path / "job", ROOM)
    assert end(bounded.attempt()).state == "succeeded"
    assert len(bounded.incidents) == 2
    assert bounded.stderr.count("the checkpoint could not be written") == ROOM["epochs"]


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_memory_that_is_not_enough_names_the_batch_size(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = loop.train

    def train(*arguments: Any) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        bound = pages * resource.getpagesize() + 8 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (bound, resource.RLIM_INFINITY))
        before(*arguments)

    monkeypatch.setattr(attempt, "train", train)
    wide = [{"type": "Linear", "out_features": 60_000, "bias": False}, {"type": "Linear", "out_features": 3}]
    spec = SPEC | {"model": {"type": "Sequential", "layers": wide}, "batch_size": 120, "optimizer": {"type": "SGD", "lr": 0.1}}
    ended = end(job(sets, tmp_path / "job", spec).attempt())
    assert (ended.state, ended.reason, ended.pointer) == ("failed", "out_of_memory", "/batch_size")
    assert (ended.message or "").startswith("batch_size 120 is the first suspect: try a smaller one; ")
