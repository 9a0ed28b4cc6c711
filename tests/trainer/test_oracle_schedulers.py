"""Schedules made of others, by expression, on a series, with totals filled in: the textbook's rates and losses, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as lrs
from torch.utils.data import DataLoader, TensorDataset

from tests.trainer.by_hand import Bench, alike
from tests.trainer.test_check import MULTI, ask, spec

ROWS, VAL, BATCH, EPOCHS, SEED = 60, 16, 8, 8, 6
PER_EPOCH = math.ceil((ROWS - VAL) / BATCH)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


@dataclass
class Case:
    scheduler: dict[str, Any]
    made: Callable[[Any], Any]
    groups: bool = False


CASES: dict[str, Case] = {
    "sequential": Case(
        {
            "type": "SequentialLR",
            "schedulers": [
                {"type": "LinearLR", "start_factor": 0.1, "total_iters": 3},
                {"type": "CosineAnnealingLR"},
                "ConstantLR",
            ],
            "milestones": [3, 6],
        },
        lambda o: lrs.SequentialLR(
            o,
            [lrs.LinearLR(o, start_factor=0.1, total_iters=3), lrs.CosineAnnealingLR(o, 3), lrs.ConstantLR(o)],
            milestones=[3, 6],
        ),
    ),
    "nested, by iteration": Case(
        {
            "type": "ChainedScheduler",
            "interval": "iteration",
            "schedulers": [
                {
                    "type": "SequentialLR",
                    "schedulers": ["LinearLR", {"type": "StepLR", "step_size": 4, "gamma": 0.7}],
                    "milestones": [7],
                },
                {"type": "MultiplicativeLR", "lr_lambda": "0.99 if epoch % 2 == 0 else 1.01"},
            ],
        },
        lambda o: lrs.ChainedScheduler(
            [
                lrs.SequentialLR(o, [lrs.LinearLR(o), lrs.StepLR(o, 4, gamma=0.7)], milestones=[7]),
                lrs.MultiplicativeLR(o, lambda epoch: 0.99 if epoch % 2 == 0 else 1.01),
            ],
            optimizer=o,
        ),
    ),
    "an expression": Case(
        {"type": "LambdaLR", "lr_lambda": "(epoch + 1) / 3 if epoch < 3 else 0.5 * (1 + cos(pi * (epoch - 3) / 5))"},
        lambda o: lrs.LambdaLR(o, lambda e: (e + 1) / 3 if e < 3 else 0.5 * (1 + math.cos(math.pi * (e - 3) / 5))),
    ),
    "an expression for each group": Case(
        {"type": "LambdaLR", "lr_lambda": ["0.9 ** epoch", "1 / (1 + epoch)"]},
        lambda o: lrs.LambdaLR(o, [lambda e: 0.9**e, lambda e: 1 / (1 + e)]),
        groups=True,
    ),
    "one cycle over the run": Case(
        {"type": "OneCycleLR", "max_lr": [0.2, 0.1], "interval": "iteration"},
        lambda o: lrs.OneCycleLR(o, max_lr=[0.2, 0.1], total_steps=EPOCHS * PER_EPOCH),
        groups=True,
    ),
    "cosine over the run": Case({"type": "CosineAnnealingLR"}, lambda o: lrs.CosineAnnealingLR(o, EPOCHS)),
    "plateau of a metric": Case(
        {"type": "ReduceLROnPlateau", "monitor": "val/MulticlassAccuracy", "mode": "max", "patience": 0, "threshold": 0.05},
        lambda o: lrs.ReduceLROnPlateau(o, mode="max", patience=0, threshold=0.05),
    ),
}
GROUPS = {"param_groups": [{"params": "0", "lr": 0.05}]}


def bench(case: Case) -> Bench:
    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(ROWS, 4, generator=generator), torch.randint(3, (ROWS,), generator=generator)
    body = spec(
        optimizer={"type": "SGD", "lr": 0.1, "momentum": 0.9, **(GROUPS if case.groups else {})},
        lr_scheduler=case.scheduler,
        metrics=[{"type": "MulticlassAccuracy", "average": "micro"}],
        split={"train": 0.75, "val": 0.25},
        batch_size=BATCH,
        epochs=EPOCHS,
        seed=SEED,
    )
    return Bench(body, model, {"x": x, "y": y}, classes={"y": 3}, val_rows=VAL)


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((net(x).argmax(1) == y).float().mean())


def textbook(case: Case) -> tuple[list[float], list[list[float]]]:
    fields = bench(case).fields
    x, y, xv, yv = (*(fields[n][: ROWS - VAL] for n in "xy"), *(fields[n][ROWS - VAL :] for n in "xy"))
    torch.manual_seed(SEED)
    net, criterion = model(), nn.CrossEntropyLoss()
    first, others = list(net.parameters())[:2], list(net.parameters())[2:]
    groups: Any = [{"params": first, "lr": 0.05}, {"params": others}] if case.groups else net.parameters()
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    scheduler = case.made(optimizer)
    loader = DataLoader(TensorDataset(x, y), BATCH, shuffle=True, generator=torch.Generator().manual_seed(SEED))
    by_iteration = case.scheduler.get("interval") == "iteration"
    losses, rates = [], []
    for _ in range(EPOCHS):
        for xb, yb in loader:
            loss = criterion(net(xb), yb)
            losses.append(loss.item())
            rates.append([float(group["lr"]) for group in optimizer.param_groups])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if by_iteration:
                scheduler.step()
        if not by_iteration:
            scheduler.step(*([accuracy(net, xv, yv)] if "monitor" in case.scheduler else []))
    return losses, rates


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_rates_and_losses_are_the_textbooks(name: str) -> None:
    run, (losses, rates) = bench(CASES[name]).run(), textbook(CASES[name])
    assert run.curve["train/loss"] == losses
    series = ["lr/0", "lr/default"] if CASES[name].groups else ["lr"]
    assert [list(row) for row in zip(*(run.curve[s] for s in series), strict=True)] == rates
    assert len({row[0] for row in rates}) > 2, "the schedule never moved the learning rate"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stop", [4, 19, 31])
def test_a_resumed_run_keeps_to_the_schedule(name: str, stop: int) -> None:
    made = bench(CASES[name])
    alike(made.run_in_two(stop), made.run())


def test_the_effective_spec_tells_totals_and_what_is_inside() -> None:
    body = {
        "type": "SequentialLR",
        "schedulers": [{"type": "OneCycleLR", "max_lr": 1.0, "cycle_momentum": False}, "CosineAnnealingLR"],
        "milestones": [15],
    }
    told = ask(spec(lr_scheduler=body), MULTI)["effective_spec"]["lr_scheduler"]
    assert told["milestones"] == {"value": [15], "source": "given"}
    assert [inner["type"]["value"] for inner in told["schedulers"]] == ["OneCycleLR", "CosineAnnealingLR"]
    assert told["schedulers"][0]["total_steps"] == {"value": 15, "source": "inferred"}
    assert told["schedulers"][0]["max_lr"] == {"value": 1.0, "source": "given"}
    assert told["schedulers"][1]["T_max"] == {"value": 5, "source": "inferred"}
    assert told["schedulers"][1]["eta_min"] == {"value": 0.0, "source": "default"}
    by_iteration = ask(spec(lr_scheduler={"type": "CosineAnnealingLR", "interval": "iteration"}), MULTI)
    assert by_iteration["effective_spec"]["lr_scheduler"]["T_max"] == {"value": 20 * 4, "source": "inferred"}
