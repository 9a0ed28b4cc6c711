"""Resume is bit-identical, checkpoints are whole or absent, and none is ever ahead of its curve."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.files import DataFolder
from jobs.store import new_job_id
from tests.trainer.supervised import Supervised, job, prepare
from workers.protocol import Checkpointed, Ended, Message, Points, Started
from workers.trainer import loop, recorder
from workers.trainer.artifacts import LAST, Artifacts, write_whole
from workers.trainer.artifacts import SPEC as SPEC_NAME
from workers.trainer.checkpoint import Checkpoints
from workers.trainer.control import Control

# Random layers, running statistics, a scheduler per iteration, optimizer state, metrics of training and validation.
SPEC: dict[str, Any] = {
    "dataset": {"type": "builtin", "name": "wine", "normalize": "standard"},
    "split": {"train": 0.7, "val": 0.2, "test": 0.1},
    "model": {
        "type": "Sequential",
        "layers": [
            {"type": "Linear", "out_features": 24},
            "BatchNorm1d",
            "ReLU",
            {"type": "Dropout", "p": 0.4},
            {"type": "Linear", "out_features": 3},
        ],
    },
    "loss": "CrossEntropyLoss",
    "optimizer": {"type": "Adam", "lr": 0.01, "amsgrad": True},
    "lr_scheduler": {"type": "CyclicLR", "base_lr": 0.001, "max_lr": 0.02, "step_size_up": 7, "interval": "iteration"},
    "metrics": ["MulticlassAccuracy", "MulticlassAveragePrecision"],
    "batch_size": 8,
    "drop_last": True,
    "epochs": 5,
    "seed": 5,
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("sets"))


@pytest.fixture(autouse=True)
def _points_leave_at_every_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(recorder, "FLUSH_SECONDS", 0.0)


@pytest.fixture(scope="module")
def undisturbed(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Supervised:
    whole = job(sets, tmp_path_factory.mktemp("undisturbed"), SPEC)
    ended = whole.attempt()
    assert ended is not None
    assert ended.state == "succeeded", whole.stderr
    return whole


def same(disturbed: Supervised, whole: Supervised) -> None:
    assert disturbed.curve == whole.curve
    for name in ("model.safetensors", "model.best.safetensors"):
        assert disturbed.digest(name) == whole.digest(name)


def at(iteration: int, do: str) -> Any:
    return lambda _job, message: do if isinstance(message, Points) and message.iteration >= iteration else None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("do", ["kill", "vanish", "give_back", "pause"])
def test_resumes_bit_for_bit(
    sets: Path, tmp_path: Path, undisturbed: Supervised, do: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    # Seconds between checkpoints: so short that they fall anywhere within an epoch.
    monkeypatch.setattr("workers.trainer.attempt.Attempt._checkpoint_due", lambda _attempt: chance.random() < 0.15)
    disturbed = job(sets, tmp_path, SPEC)
    attempts = 0
    for stop in sorted(chance.sample(range(1, 75), 3)):
        disturbed.assignment = replace(disturbed.assignment, attempt=(attempts := attempts + 1))
        ended = disturbed.attempt(at(stop, do))
        assert ended is None or ended.state in ("given_back", "paused", "succeeded"), disturbed.stderr
    if not disturbed.ended or disturbed.ended[-1].state != "succeeded":
        disturbed.attempt()
    assert disturbed.ended[-1].state == "succeeded", disturbed.stderr
    assert any(s.resumed_from for s in disturbed.started) or do not in ("give_back", "pause")
    same(disturbed, undisturbed)


def test_a_pause_before_the_first_iteration_keeps_the_place(sets: Path, tmp_path: Path, undisturbed: Supervised) -> None:
    paused = job(sets, tmp_path, SPEC)
    assert paused.attempt(lambda _job, message: "pause" if isinstance(message, Started) else None) == Ended("paused")
    assert 1 <= paused.checkpoints[-1].iteration < 15
    paused.attempt()
    assert paused.started[-1].resumed_from == paused.checkpoints[0].iteration
    same(paused, undisturbed)


def test_a_pause_during_a_validation_comes_after_it(
    sets: Path, tmp_path: Path, undisturbed: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    validations: list[bool] = []  # in the process of each attempt
    inference, should_stop = loop._inference, Control.should_stop

    def noticed(model: torch.nn.Module) -> Any:
        validations.append(True)
        return inference(model)

    monkeypatch.setattr(loop, "_inference", noticed)
    monkeypatch.setattr(Control, "should_stop", lambda control: "pause" if validations else should_stop(control))
    paused = job(sets, tmp_path, SPEC)
    while paused.attempt() == Ended("paused"):
        assert len(paused.curve["val/loss"]) == len(paused.ended)
    assert [checkpoint.iteration for checkpoint in paused.checkpoints] == [15, 30, 45, 60, 75]
    same(paused, undisturbed)


@pytest.mark.parametrize("stop", [20, 40, 70])
def test_resumes_where_the_mean_train_loss_decides(
    sets: Path, tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a validation part the epoch's running sum steers the scheduler and chooses the best weights."""
    spec = SPEC | {"split": {"train": 1.0}, "lr_scheduler": {"type": "ReduceLROnPlateau", "patience": 0, "threshold": 0.3}}
    monkeypatch.setattr("workers.trainer.attempt.Attempt._checkpoint_due", lambda _attempt: False)
    whole, disturbed = job(sets, tmp_path / "whole", spec), job(sets, tmp_path / "disturbed", spec)
    whole.attempt()
    disturbed.attempt(at(stop, "give_back"))
    disturbed.attempt()
    assert len(set(whole.values("lr"))) > 1, "the scheduler never moved the learning rate"
    same(disturbed, whole)


@pytest.mark.parametrize("stop", [3, 9, 15])
def test_resumes_what_it_accumulates_scales_and_waits_for(
    sets: Path, tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float16's scale, the epochs waited for an improvement, and the place among groups of batches."""
    mixed = {"precision": "16-mixed", "exact": False, "accumulate_grad_batches": 4}
    spec = SPEC | mixed | {"epochs": 30, "early_stopping": {"monitor": "train/loss", "patience": 2, "min_delta": 0.2}}
    monkeypatch.setattr("workers.trainer.attempt.Attempt._checkpoint_due", lambda _attempt: False)
    whole, disturbed = job(sets, tmp_path / "whole", spec), job(sets, tmp_path / "disturbed", spec)
    whole.attempt()
    assert whole.ended[-1].message is not None, "it never stopped early"
    disturbed.attempt(at(stop, "give_back"))
    disturbed.attempt()
    assert disturbed.ended[-1] == whole.ended[-1]
    same(disturbed, whole)


def test_killed_when_all_is_trained_but_nothing_told(sets: Path, tmp_path: Path, undisturbed: Supervised) -> None:
    """The last checkpoint knows that the test part has been evaluated: its points do not come twice."""
    disturbed = job(sets, tmp_path, SPEC)
    disturbed.attempt(lambda _job, message: "kill" if isinstance(message, Checkpointed) else None)
    disturbed.attempt()
    assert disturbed.started[-1].resumed_from == disturbed.started[-1].iterations
    same(disturbed, undisturbed)


def test_no_checkpoint_is_ahead_of_its_curve(sets: Path, tmp_path: Path) -> None:
    """A supervisor that never says Stored gets points but no checkpoint and no weights."""
    mute = job(sets, tmp_path, SPEC | {"checkpoint": {"every_n_epochs": 1}})
    mute.stores = False
    mute.attempt(lambda job, message: "vanish" if isinstance(message, Points) and "val/loss" in job.curve else None)
    assert mute.checkpoints == []
    assert not list(tmp_path.glob("checkpoints/*.json"))
    assert not (tmp_path / "artifacts").exists()
    assert "supervisor is gone" in mute.stderr


def test_a_checkpoint_per_epoch_when_asked(sets: Path, tmp_path: Path) -> None:
    every = job(sets, tmp_path, SPEC | {"checkpoint": {"every_n_epochs": 2, "keep": 1}})
    every.attempt()
    assert [(c.epoch, c.iteration) for c in every.checkpoints] == [(2, 30), (4, 60), (5, 75)]
    assert [p.name for p in sorted(tmp_path.glob("checkpoints/*"))] == ["000000000075.json", "000000000075.pt"]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(sets: Path, tmp_path: Path, undisturbed: Supervised) -> None:
    damaged = job(sets, tmp_path, SPEC | {"checkpoint": {"every_n_epochs": 1, "keep": 2}})

    def third(_job: Supervised, message: Message) -> str | None:
        return "kill" if isinstance(message, Checkpointed) and message.epoch == 3 else None

    damaged.attempt(third)
    newest = sorted(tmp_path.glob("checkpoints/*.pt"))[-1]
    flip_a_bit(newest)
    damaged.attempt()
    resumed: Started = damaged.started[-1]
    assert resumed.resumed_from == int(newest.stem) - 15
    assert any(f"iteration {int(newest.stem)} is damaged" in note for note in resumed.notes)
    same(damaged, undisturbed)


def test_another_environment_is_said_out_loud(sets: Path, tmp_path: Path) -> None:
    elsewhere = job(sets, tmp_path, SPEC | {"epochs": 1})
    elsewhere.attempt()
    first = elsewhere.started[0]
    assert first.notes == []
    elsewhere.assignment = replace(elsewhere.assignment, environment=first.environment)
    elsewhere.attempt()
    assert elsewhere.started[1].notes == []
    elsewhere.assignment = replace(elsewhere.assignment, environment=first.environment | {"torch": "2.12.0"})
    elsewhere.attempt()
    assert "torch 2.12.0 -> " in elsewhere.started[2].notes[0]


# ---- the files alone


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def save(checkpoints: Checkpoints, iteration: int) -> None:
    checkpoints.save({"iteration": iteration, "tensor": torch.arange(100)}, iteration, 1, lambda: None)


def test_the_newest_are_kept_with_manifests(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for iteration in (5, 10, 200):
        save(checkpoints, iteration)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "000000000010.json",
        "000000000010.pt",
        "000000000200.json",
        "000000000200.pt",
    ]
    manifest = json.loads((tmp_path / "000000000200.json").read_text())
    assert manifest["sha256"] == hashlib.sha256((tmp_path / "000000000200.pt").read_bytes()).hexdigest()
    state, notes = checkpoints.latest()
    assert state is not None
    assert (state["iteration"], notes) == (200, [])


def test_a_failure_before_the_rename_changes_nothing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    save(checkpoints, 5)

    def gone() -> None:
        raise EOFError

    with pytest.raises(EOFError):
        checkpoints.save({"iteration": 6}, 6, 1, gone)
    state, notes = checkpoints.latest()
    assert state is not None
    assert (state["iteration"], notes) == (5, [])


def test_an_attempt_that_wakes_up_at_the_rename_writes_and_removes_nothing(tmp_path: Path) -> None:
    folder, job = DataFolder(tmp_path, tmp_path), new_job_id()
    old = Checkpoints(folder.open_attempt(job, 1) / "checkpoints", keep=1)
    save(old, 5)

    def stopped_for_long() -> None:
        new = Checkpoints(folder.open_attempt(job, 2) / "checkpoints", keep=2)
        save(new, 6)
        (folder.checkpoints(job) / "000000000009.pt.tmp").write_bytes(b"of attempt 2, not whole yet")

    with pytest.raises(FileNotFoundError):
        old.save({"iteration": 6, "tensor": torch.zeros(100)}, 6, 1, stopped_for_long)
    with pytest.raises(FileNotFoundError):
        save(old, 7)
    assert old.latest() == (None, [])
    left = ["000000000005", "000000000006", "000000000009"]
    assert sorted({path.name.partition(".")[0] for path in folder.checkpoints(job).iterdir()}) == left
    state, notes = Checkpoints(folder.checkpoints(job), keep=2).latest()
    assert state is not None
    assert (state["iteration"], state["tensor"][1], notes) == (6, 1, [])


def test_an_attempt_that_wakes_up_in_the_middle_of_a_file_changes_none_of_the_next_ones(tmp_path: Path) -> None:
    folder, job = DataFolder(tmp_path, tmp_path), new_job_id()

    def halfway(path: Path) -> None:
        with path.open("wb") as file:
            file.write(b"old" * 10_000)
            file.flush()
            new = Artifacts(folder.open_attempt(job, 2) / "artifacts", "spec of attempt 2")
            new.write_spec()
            write_whole(folder.artifact(job, LAST), lambda path: path.write_bytes(b"new"))
            file.write(b"old" * 10_000)

    with pytest.raises(FileNotFoundError):
        write_whole(folder.open_attempt(job, 1) / "artifacts" / LAST, halfway)
    with pytest.raises(FileNotFoundError):
        Artifacts(folder.job(job) / "attempt-1" / "artifacts", "spec of attempt 1").write_spec()
    assert {path.name: path.read_bytes() for path in folder.artifacts(job).iterdir()} == {
        LAST: b"new",
        SPEC_NAME: b"spec of attempt 2",
    }


@pytest.mark.parametrize("harm", ["bit", "short", "gone", "manifest"])
def test_damage_of_every_kind_is_noticed(tmp_path: Path, harm: str) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 1)
    save(checkpoints, 2)
    path = tmp_path / "000000000002.pt"
    match harm:
        case "bit":
            flip_a_bit(path)
        case "short":
            path.write_bytes(path.read_bytes()[:-1])
        case "gone":
            path.unlink()
        case "manifest":
            (tmp_path / "000000000002.json").write_text("{")
    state, notes = checkpoints.latest()
    assert state is not None
    assert state["iteration"] == 1
    assert len(notes) == 1
    save(checkpoints, 3)  # the damaged one does not push the good one out
    assert {p.stem for p in tmp_path.glob("*.json")} == {"000000000001", "000000000003"}


def test_two_thousand_bit_flips_and_truncations_are_all_noticed(tmp_path: Path) -> None:
    """Of the data and of the manifest, anywhere in them; the checkpoint before is used every time."""
    chance = random.Random(0)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for iteration in (1, 2):
        checkpoints.save({"iteration": iteration}, iteration, 1, lambda: None)
    whole = {name: (tmp_path / name).read_bytes() for name in ("000000000002.pt", "000000000002.json")}
    for trial in range(2000):
        for name, data in whole.items():
            (tmp_path / name).write_bytes(data)
        harmed = chance.choice(list(whole))
        spoilt = bytearray(whole[harmed])
        if trial % 3 == 0:
            del spoilt[chance.randrange(len(spoilt)) :]
        else:
            spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
        (tmp_path / harmed).write_bytes(spoilt)
        state, notes = checkpoints.latest()
        assert state is not None
        assert (state["iteration"], len(notes)) == (1, 1), f"trial {trial}: {harmed}"
        assert "iteration 2 is damaged" in notes[0]
        assert notes[0].endswith("the one before it is used")


def test_when_all_are_damaged_the_run_starts_from_the_beginning(sets: Path, tmp_path: Path, undisturbed: Supervised) -> None:
    damaged = job(sets, tmp_path, SPEC | {"checkpoint": {"every_n_epochs": 1, "keep": 2}})
    damaged.attempt(lambda _job, message: "kill" if isinstance(message, Checkpointed) and message.epoch == 3 else None)
    for file in tmp_path.glob("checkpoints/*.pt"):
        flip_a_bit(file)
    damaged.attempt()
    resumed = damaged.started[-1]
    assert resumed.resumed_from == 0
    assert [note.rpartition("; ")[2] for note in resumed.notes] == [
        "the one before it is used",
        "no other is left: the run starts from the beginning",
    ]
    same(damaged, undisturbed)


def test_the_only_checkpoint_is_enough_while_it_is_whole(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    save(checkpoints, 1)
    save(checkpoints, 2)
    flip_a_bit(tmp_path / "000000000002.pt")
    state, notes = checkpoints.latest()
    assert state is None
    assert notes[0].endswith("no other is left: the run starts from the beginning")


def test_a_checkpoint_of_an_older_format_is_said_to_be_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 7)
    manifest = tmp_path / "000000000007.json"
    old = json.loads(manifest.read_text()) | {"format": 1}
    del old["manifest_sha256"]
    manifest.write_text(json.dumps(old))
    state, notes = checkpoints.latest()
    assert state is None
    assert "iteration 7 was written in format 1 by an older postgrad; this one reads format 2" in notes[0]


def test_nothing_there(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none", keep=2).latest() == (None, [])
