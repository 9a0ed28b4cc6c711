"""Losses with several inputs, several labels or parameters of their own: the textbook's numbers, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.trainer.by_hand import Bench, alike
from tests.trainer.supervised import job, prepare
from tests.trainer.test_check import spec
from tests.trainer.textbook import Recipe, split

ROWS, EPOCHS, BATCH = 37, 3, 8


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Towers(nn.Module):
    """One input, several outputs of one width."""

    def __init__(self, count: int, width: int, positive_last: bool = False) -> None:
        super().__init__()
        self.towers = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, width)) for _ in range(count))
        self.positive_last = positive_last

    def forward(self, x: Tensor) -> Any:
        values = [tower(x) for tower in self.towers]
        if self.positive_last:
            values[-1] = nn.functional.softplus(values[-1])
        return tuple(values) if len(values) > 1 else values[0]


class Speech(nn.Module):
    """Log-probabilities (n, T, C) of a sequence (n, T, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.log_softmax(self.layer(x), dim=2)


def fields(**more: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"x": torch.randn(ROWS, 4, generator=generator), **more}


def whole(high: int, *shape: int) -> Tensor:
    return torch.randint(high, (ROWS, *shape), generator=torch.Generator().manual_seed(2))


SIGNS = (whole(2, 1) * 2 - 1).float()
NUMBERS = torch.randn(ROWS, 1, generator=torch.Generator().manual_seed(3))
MANY = whole(2, 5).float()
CLASSES = whole(6)


@dataclass
class Case:
    loss: dict[str, Any]
    module: Callable[[], nn.Module]
    made: Callable[[], nn.Module]  # the loss as a textbook writes it
    call: Callable[[nn.Module, Any, dict[str, Tensor]], Any]
    fields: dict[str, Tensor]
    outputs: tuple[str, ...] = ("output",)
    classes: int | None = None


def first_labels(target: Tensor) -> Tensor:
    rows = [[c for c in range(target.shape[1]) if row[c] == 1] for row in target]
    return torch.tensor([labels + [-1] * (target.shape[1] - len(labels)) for labels in rows])


SPOKEN = {
    "x": torch.randn(ROWS, 7, 4, generator=torch.Generator().manual_seed(4)),
    "y": whole(4, 3) + 1,
    "steps": whole(3, 1) + 5,
    "spoken": whole(3, 1) + 1,
}

CASES: dict[str, Case] = {
    "CosineEmbeddingLoss": Case(
        {"type": "CosineEmbeddingLoss", "margin": 0.2},
        lambda: Towers(2, 5),
        lambda: nn.CosineEmbeddingLoss(margin=0.2),
        lambda loss, out, batch: loss(out[0], out[1], batch["y"].squeeze(1)),
        fields(y=SIGNS),
        ("left", "right"),
    ),
    "MarginRankingLoss": Case(
        {"type": "MarginRankingLoss", "margin": 0.5, "reduction": "sum"},
        lambda: Towers(2, 1),
        lambda: nn.MarginRankingLoss(margin=0.5, reduction="sum"),
        lambda loss, out, batch: loss(out[0], out[1], batch["y"]),
        fields(y=SIGNS),
        ("left", "right"),
    ),
    "TripletMarginLoss": Case(
        {"type": "TripletMarginLoss", "swap": True, "inputs": {"anchor": "b"}},
        lambda: Towers(3, 5),
        lambda: nn.TripletMarginLoss(swap=True),
        lambda loss, out, _batch: loss(out[1], out[0], out[2]),
        fields(y=NUMBERS),
        ("a", "b", "c"),
    ),
    "TripletMarginWithDistanceLoss": Case(
        {"type": "TripletMarginWithDistanceLoss", "margin": 0.5},
        lambda: Towers(3, 5),
        lambda: nn.TripletMarginWithDistanceLoss(margin=0.5),
        lambda loss, out, _batch: loss(*out),
        fields(y=NUMBERS),
        ("a", "b", "c"),
    ),
    "GaussianNLLLoss": Case(
        {"type": "GaussianNLLLoss", "full": True},
        lambda: Towers(2, 1, positive_last=True),
        lambda: nn.GaussianNLLLoss(full=True),
        lambda loss, out, batch: loss(out[0], batch["y"], out[1]),
        fields(y=NUMBERS),
        ("mean", "variance"),
    ),
    "autoencoder": Case(
        {"type": "MSELoss", "inputs": {"target": "x"}},
        lambda: Towers(1, 4),
        nn.MSELoss,
        lambda loss, out, batch: loss(out, batch["x"]),
        fields(y=NUMBERS),
    ),
    "MultiLabelMarginLoss": Case(
        {"type": "MultiLabelMarginLoss"},
        lambda: Towers(1, 5),
        nn.MultiLabelMarginLoss,
        lambda loss, out, batch: loss(out, first_labels(batch["y"])),
        fields(y=MANY),
    ),
    "MultiLabelSoftMarginLoss": Case(
        {"type": "MultiLabelSoftMarginLoss", "weight": [1, 2, 3, 4, 5]},
        lambda: Towers(1, 5),
        lambda: nn.MultiLabelSoftMarginLoss(weight=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])),
        lambda loss, out, batch: loss(out, batch["y"]),
        fields(y=MANY),
    ),
    "AdaptiveLogSoftmaxWithLoss": Case(
        {"type": "AdaptiveLogSoftmaxWithLoss", "cutoffs": [2, 4], "div_value": 2.0},
        lambda: Towers(1, 8),
        lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 6, cutoffs=[2, 4], div_value=2.0),
        lambda loss, out, batch: loss(out, batch["y"]).loss,
        fields(y=CLASSES),
        classes=6,
    ),
    "LinearCrossEntropyLoss": Case(
        {"type": "LinearCrossEntropyLoss", "bias": True, "label_smoothing": 0.1},
        lambda: Towers(1, 8),
        lambda: nn.LinearCrossEntropyLoss(8, 6, bias=True, label_smoothing=0.1),
        lambda loss, out, batch: loss(out, batch["y"]),
        fields(y=CLASSES),
        classes=6,
    ),
    "CTCLoss": Case(
        {"type": "CTCLoss", "zero_infinity": True},
        Speech,
        lambda: nn.CTCLoss(zero_infinity=True),
        lambda loss, out, batch: loss(out.transpose(0, 1), batch["y"], batch["steps"].squeeze(1), batch["spoken"].squeeze(1)),
        SPOKEN,
    ),
    "CTCLoss with counted lengths": Case(
        {"type": "CTCLoss", "inputs": {"targets": "y"}},
        Speech,
        nn.CTCLoss,
        lambda loss, out, batch: loss(out.transpose(0, 1), batch["y"], torch.full((len(out),), 7), (batch["y"] > 0).sum(1)),
        {"x": SPOKEN["x"], "y": SPOKEN["y"] * (torch.arange(3) < SPOKEN["spoken"])},
    ),
}


def bench(case: Case) -> Bench:
    body = spec(loss=case.loss, optimizer={"type": "Adam", "lr": 0.05}, batch_size=BATCH, epochs=EPOCHS, seed=3)
    classes = {} if case.classes is None else {"y": case.classes}
    targets = [name for name in case.fields if name != "x"]
    return Bench(body, case.module, case.fields, case.outputs, targets, classes)


def textbook(case: Case) -> tuple[list[float], dict[str, Tensor]]:
    torch.manual_seed(3)
    model = case.module()
    loss_function = case.made()
    optimizer = torch.optim.Adam([*model.parameters(), *loss_function.parameters()], lr=0.05)
    rows = TensorDataset(*case.fields.values())
    loader = DataLoader(rows, BATCH, shuffle=True, generator=torch.Generator().manual_seed(3))
    losses = []
    for _ in range(EPOCHS):
        for values in loader:
            batch = dict(zip(case.fields, values, strict=True))
            loss = case.call(loss_function, model(batch["x"]), batch)
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses, model.state_dict() | {f"loss.{n}": p.detach() for n, p in loss_function.named_parameters()}


@pytest.mark.parametrize("name", CASES)
def test_losses_are_the_textbooks(name: str) -> None:
    run, (losses, weights) = bench(CASES[name]).run(), textbook(CASES[name])
    assert run.curve["train/loss"] == losses
    assert losses[-1] != losses[0]
    assert run.weights().keys() == weights.keys()
    assert all(torch.equal(run.weights()[key], tensor) for key, tensor in weights.items())


@pytest.mark.parametrize("name", ["AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss"])
def test_a_losss_own_parameters_are_in_the_checkpoint(name: str) -> None:
    made = bench(CASES[name])
    alike(made.run_in_two(7), made.run())


def test_a_job_with_a_loss_that_learns_and_balanced_weights(tmp_path: Path) -> None:
    """The whole trainer on wine: weights counted from the training part, the loss's parameters in the artifact."""
    body = spec(
        8,
        {"type": "LinearCrossEntropyLoss", "weight": "balanced"},
        dataset={"type": "builtin", "name": "wine", "normalize": "standard"},
        split={"train": 0.7, "val": 0.3},
        metrics=["MulticlassAccuracy"],
        epochs=3,
    )
    service = job(prepare(tmp_path), tmp_path / "job", body)
    service.attempt()
    assert service.ended[-1].state == "succeeded", service.stderr
    bunch = load_wine()
    x, y = torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target)
    (x, y), val, _ = split(x, y, Recipe(batch_size=16, epochs=3, val=0.3, normalize=True))
    weight = (len(y) / (3 * torch.bincount(y).double())).float()
    torch.manual_seed(0)
    model, criterion = nn.Sequential(nn.Linear(13, 8)), nn.LinearCrossEntropyLoss(8, 3, weight=weight)
    optimizer = torch.optim.SGD([*model.parameters(), *criterion.parameters()])
    loader = DataLoader(TensorDataset(x, y), 16, shuffle=True, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(3):
        for xb, yb in loader:
            loss = criterion(model(xb), yb)
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert service.values("train/loss") == losses
    assert torch.equal(service.weights()["loss.linear.weight"], criterion.linear.weight)
    right = (criterion.linear(model(val[0])).argmax(1) == val[1]).double()
    per_class = [right[val[1] == c].mean().item() for c in range(3)]
    assert service.values("val/MulticlassAccuracy")[-1] == pytest.approx(sum(per_class) / 3)
    assert service.started[0].effective_spec["loss"]["weight"]["value"] == weight.tolist()
    assert service.started[0].parameters == {"total": 13 * 8 + 8 + 24, "trainable": 13 * 8 + 8 + 24}
