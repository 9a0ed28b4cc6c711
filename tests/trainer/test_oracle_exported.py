"""A module that came as an exported program trains, as a job, to the bits of the module itself in the textbook loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import postgrad
from tests.trainer import textbook
from tests.trainer.exported.architectures import ARCHITECTURES
from tests.trainer.exported.conftest import ENTERED
from tests.trainer.supervised import Supervised, job
from tests.trainer.test_oracle import same
from tests.trainer.textbook import Built, Outcome, Recipe
from workers.protocol import Message, Points
from workers.trainer import ingest

ROWS = 75
RECIPE = Recipe(batch_size=16, epochs=3, seed=7, val=0.2, max_grad_norm=1.0)
NAMES = ["cnn_with_batch_norm_and_dropout", "lstm", "vision_transformer", "transformer_encoder_with_masks"]
NUMBERS = {"transformer_encoder_with_masks": "MSELoss"}  # scores for every token; the others give one row of classes
assert ENTERED  # importing them filled ARCHITECTURES


@pytest.fixture(autouse=True)
def _plain_torch() -> Iterator[None]:
    """One thread, and torch's transformers without their fused way in eval mode (docs/exported.md)."""
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def made(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(3)
    module, inputs = ARCHITECTURES[name]()
    return module, inputs(4)


def data(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Floats or tokens as the architecture takes them, with labels of its classes, or numbers of its output's shape."""
    torch.manual_seed(11)
    _, inputs = ARCHITECTURES[name]()
    (x,) = inputs(ROWS)
    if name in NUMBERS:
        module, _ = made(name)
        return x, torch.randn_like(module(x).detach())
    module, example = made(name)
    return x, torch.arange(ROWS) % module(*example).shape[1]


def written(folder: Path, x: torch.Tensor, y: torch.Tensor) -> Path:
    """The data as an upload that was read."""
    folder.mkdir(exist_ok=True)
    np.savez(folder / "data.npz", x=x.numpy(), y=y.numpy())
    ingest.read(folder / "data.npz", folder / "set")
    return folder / "set"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("programs")

    def file(name: str) -> Path:
        path = folder / f"{name}.pt2"
        if not path.exists():
            postgrad.export(*made(name), path)
        return path

    return file


def spec(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "dataset": {"type": "file", "id": "file_" + "1" * 24},
        "split": {"train": 0.8, "val": 0.2},
        "model": {"type": "exported", "id": "file_" + "0" * 24},
        "loss": "CrossEntropyLoss",
        "optimizer": {"type": "AdamW", "lr": 0.01},
        "max_grad_norm": 1.0,
        "batch_size": 16,
        "epochs": 3,
        "seed": 7,
    }
    return body | changes


def brought(folder: Path, name: str, file: Path) -> Supervised:
    dtype = "int64" if name in NUMBERS else "float32"
    dataset = {
        "type": "file",
        "id": "file_" + "1" * 24,
        "inputs": {"x": {"array": "x", "dtype": dtype}},
        "targets": {"y": {"array": "y"}},
    }
    body = spec(loss=NUMBERS.get(name, "CrossEntropyLoss"), dataset=dataset)
    return job(folder, folder / "job", body, dataset=str(written(folder, *data(name))), model_file=str(file))


def by_hand(name: str) -> Outcome:
    def build() -> Built:
        model, _ = made(name)
        torch.manual_seed(RECIPE.seed)  # the file's weights are the module's: what drew them is not part of the run
        return (
            model,
            nn.MSELoss() if name in NUMBERS else nn.CrossEntropyLoss(),
            torch.optim.AdamW(model.parameters(), lr=0.01),
            None,
        )

    return textbook.run(data(name), RECIPE, build)


@pytest.mark.parametrize("name", NAMES)
def test_the_losses_are_the_modules_own(name: str, tmp_path: Path, program: Callable[[str], Path]) -> None:
    service = brought(tmp_path, name, program(name))
    service.attempt()
    same(service, by_hand(name))


def test_the_seed_does_not_touch_the_weights(tmp_path: Path, program: Callable[[str], Path]) -> None:
    """One iteration in: the loss is that of the file's weights under any seed of a model that draws nothing."""
    file, losses = program("lenet"), set()
    for seed in (1, 2):
        body = spec(seed=seed, split={"train": 1.0}, shuffle=False, batch_size=ROWS, epochs=1)
        folder = written(tmp_path, *data("lenet"))
        one = job(
            tmp_path,
            tmp_path / f"job{seed}",
            body | {"split": {"train": 1.0, "seed": 5}},
            dataset=str(folder),
            model_file=str(file),
        )
        one.attempt()
        losses.add(one.values("train/loss")[0])
    assert len(losses) == 1


def killed_at(iteration: int) -> Callable[[Supervised, Message], str | None]:
    return lambda _job, message: "kill" if isinstance(message, Points) and message.iteration >= iteration else None


@pytest.mark.parametrize("name", ["cnn_with_batch_norm_and_dropout", "lstm"])
def test_a_killed_attempt_resumes_bit_for_bit(
    name: str, tmp_path: Path, program: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.trainer.attempt.Attempt._checkpoint_due", lambda attempt: attempt._position.iteration % 3 == 0)
    disturbed = brought(tmp_path, name, program(name))
    for number, stop in enumerate((4, 8), start=1):
        disturbed.assignment = replace(disturbed.assignment, attempt=number)
        disturbed.attempt(killed_at(stop))
    disturbed.attempt()
    assert any(started.resumed_from for started in disturbed.started)
    same(disturbed, by_hand(name))
