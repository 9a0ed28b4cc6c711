"""Resume is bit-identical for every kind of state: random jobs, killed at random moments, against the undisturbed run."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.faults import FILE_STEPS, Kill, armed, random_kills
from tests.trainer.nonfinite_textbook import SPEC as SPIKED
from tests.trainer.random_specs import folders, random_spec
from tests.trainer.supervised import Supervised, job
from workers.protocol import Checkpointed, Message, Points
from workers.trainer import recorder

QUICK, LONG = range(10), range(100, 170)
QUICK_STEPS = range(1, FILE_STEPS, 4)
NEVER = Kill("never", 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return folders(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _one_thread_and_points_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(recorder, "FLUSH_SECONDS", 0.0)


def submit(data: dict[str, Path], name: str, spec: dict[str, Any], folder: Path) -> Supervised:
    return job(data["iris"].parent, folder, spec, dataset=str(data[name]))


def undisturbed(run: Supervised) -> Supervised:
    with armed(NEVER, None):
        ended = run.attempt()
    assert ended is not None
    assert ended.state == "succeeded" or ended.reason == "diverged", f"{ended}\n{run.stderr}"
    return run


def disturbed(run: Supervised, kills: list[Kill], chance: random.Random) -> Supervised:
    """One attempt a kill, and then as many as it takes."""
    for number, kill in enumerate([*kills, NEVER], start=1):
        run.assignment = replace(run.assignment, attempt=number)
        with armed(kill, random.Random(chance.random())):
            if run.attempt(kill.watch) is not None:
                return run
    raise AssertionError(run.stderr)


def outcome(run: Supervised) -> dict[str, Any]:
    """The whole curve as bits, the files as digests, and how it ended."""
    curve = {name: [(step, value.hex()) for step, value in points.items()] for name, points in run.curve.items()}
    files = sorted((Path(run.assignment.job_folder) / "artifacts").iterdir())
    return {"curve": curve, "ended": run.ended[-1], "files": {path.name: run.digest(path.name) for path in files}}


def check(data: dict[str, Path], folder: Path, seed: int) -> Supervised:
    chance = random.Random(seed)
    name, spec = random_spec(chance)
    kills = random_kills(chance, 7)
    whole = undisturbed(submit(data, name, spec, folder / "whole"))
    run = disturbed(submit(data, name, spec, folder / "disturbed"), kills, chance)
    assert outcome(run) == outcome(whole), f"{json.dumps(spec)}\n{kills}\n{run.stderr}"
    return run


@pytest.mark.parametrize("seed", QUICK)
def test_a_random_job_killed_at_random(data: dict[str, Path], tmp_path: Path, seed: int) -> None:
    check(data, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", LONG)
def test_more_random_jobs_killed_at_random(data: dict[str, Path], tmp_path: Path, seed: int) -> None:
    check(data, tmp_path, seed)


class Always(random.Random):
    """A checkpoint after every iteration."""

    def random(self) -> float:
        return 0.0


SMALL: dict[str, Any] = {
    "dataset": {"type": "builtin", "name": "wine", "normalize": "standard"},
    "split": {"train": 0.8, "val": 0.2},
    "model": {
        "type": "Sequential",
        "layers": [{"type": "Linear", "out_features": 8}, "BatchNorm1d", "Dropout", {"type": "Linear", "out_features": 3}],
    },
    "loss": "CrossEntropyLoss",
    "optimizer": {"type": "Adam", "lr": 0.01},
    "metrics": ["MulticlassAccuracy"],
    "batch_size": 3,
    "drop_last": True,
    "epochs": 1,
}


def test_twenty_kills_in_one_epoch(data: dict[str, Path], tmp_path: Path) -> None:
    """Each attempt but the last is killed after it has trained one iteration more than the one before."""
    whole = undisturbed(submit(data, "wine", SMALL, tmp_path / "whole"))
    run = submit(data, "wine", SMALL, tmp_path / "disturbed")

    resumed = []
    for number in range(1, 21):
        run.assignment = replace(run.assignment, attempt=number)
        with armed(Kill("before", 3), Always()):
            assert run.attempt() is None
        resumed.append(run.started[-1].resumed_from)
    assert resumed == sorted(set(resumed)), "each attempt began further on"
    assert run.started[-1].iterations > resumed[-1] > 20
    with armed(NEVER, None):
        assert run.attempt() is not None
    assert outcome(run) == outcome(whole)


@pytest.mark.parametrize("step", QUICK_STEPS)
def test_killed_at_each_step_of_writing_a_checkpoint(data: dict[str, Path], tmp_path: Path, step: int) -> None:
    """Between the data's temporary file, its fsync, the renames, the manifest and the removal of older ones; while the first
    or the second checkpoint is written."""
    check_file_step(data, tmp_path, step)


@pytest.mark.slow
@pytest.mark.parametrize("step", [step for step in range(1, FILE_STEPS) if step not in QUICK_STEPS])
def test_killed_at_every_other_step_too(data: dict[str, Path], tmp_path: Path, step: int) -> None:
    check_file_step(data, tmp_path, step)


ROLLBACK = {"type": "rollback", "lr_factor": 0.5, "max_rollbacks": 20}


def after_rollback(what: type[Message], do: str) -> Callable[[Supervised, Message], str | None]:
    """Answers the first message of that kind that follows a rollback."""
    return lambda run, message: do if run.incidents and isinstance(message, what) else None


def test_no_checkpoint_of_dropped_points_outlives_a_rollback(data: dict[str, Path], tmp_path: Path) -> None:
    run = submit(data, "spiked", SPIKED | {"on_nonfinite": ROLLBACK, "checkpoint": {"keep": 9}}, tmp_path / "job")
    with armed(NEVER, Always()):
        assert run.attempt(after_rollback(Checkpointed, "kill")) is None
    back_to = run.incidents[0].back_to
    assert back_to is not None
    assert run.incidents[0].iteration - 1 > back_to, "there were later ones"
    assert max(int(p.stem) for p in tmp_path.glob("job/checkpoints/*.json")) == back_to
    with armed(NEVER, None):
        run.attempt()
    assert run.started[-1].resumed_from == back_to
    assert run.incidents[1].iteration != run.incidents[0].iteration, "it does not have to go back there again"


def test_after_a_rollback_no_checkpoint_is_ahead_of_its_curve(data: dict[str, Path], tmp_path: Path) -> None:
    """A supervisor that stores nothing from the rollback on gets the checkpoint of the place gone back to, and no other."""
    run = submit(data, "spiked", SPIKED | {"on_nonfinite": ROLLBACK}, tmp_path / "job")
    points: list[int] = []

    def watch(job: Supervised, message: Message) -> str | None:
        if not job.incidents:
            return None
        job.stores = False
        points.extend([message.iteration] if isinstance(message, Points) else [])
        return "vanish" if isinstance(message, Points) and message.iteration > job.checkpoints[-1].iteration else None

    with armed(NEVER, Always()):
        assert run.attempt(watch) is None
    assert run.checkpoints[-1].iteration == run.incidents[0].back_to
    assert max(int(p.stem) for p in tmp_path.glob("job/checkpoints/*.json")) == run.incidents[0].back_to


def check_file_step(data: dict[str, Path], folder: Path, step: int) -> None:
    spec = SMALL | {"batch_size": 16, "epochs": 3, "checkpoint": {"keep": 1}}
    whole = undisturbed(submit(data, "wine", spec, folder / "whole"))
    run = disturbed(submit(data, "wine", spec, folder / "disturbed"), [Kill("file", step)], random.Random(step))
    assert len(run.started) == 2, "the kill came"
    assert outcome(run) == outcome(whole)
