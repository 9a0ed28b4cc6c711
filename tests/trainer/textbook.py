"""The oracle: the four steps as a textbook writes them, with nothing of the service in them.

A custom Dataset, a DataLoader, `loss.item()`; the data from scikit-learn, split and normalised by API.md's rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

Built = tuple[nn.Module, nn.Module, torch.optim.Optimizer, Any]


class Rows(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]


@dataclass
class Recipe:
    """What the textbook needs beside the data and what `build` makes."""

    batch_size: int
    epochs: int
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False
    val: float = 0.0
    test: float = 0.0
    interval: str = "epoch"
    max_grad_norm: float | None = None
    normalize: bool = False
    accumulate: int = 1
    autocast: torch.dtype | None = None
    patience: int | None = None


@dataclass
class Outcome:
    train: list[float] = field(default_factory=list)
    val: list[float] = field(default_factory=list)
    test: float | None = None
    lr: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)


def breast_cancer() -> tuple[Tensor, Tensor]:
    bunch = datasets.load_breast_cancer()
    return torch.from_numpy(bunch.data.astype(np.float32)), torch.from_numpy(bunch.target.astype(np.float32))[:, None]


def diabetes() -> tuple[Tensor, Tensor]:
    bunch = datasets.load_diabetes()
    return torch.from_numpy(bunch.data.astype(np.float32)), torch.from_numpy(bunch.target.astype(np.float32))[:, None]


def digits() -> tuple[Tensor, Tensor]:
    bunch = datasets.load_digits()
    return torch.from_numpy((bunch.images[:, None] / 16).astype(np.float32)), torch.from_numpy(bunch.target.astype(np.int64))


def split(x: Tensor, y: Tensor, recipe: Recipe) -> tuple[tuple[Tensor, Tensor], ...]:
    n = len(x)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(recipe.seed))
    n_val, n_test = int(n * recipe.val), int(n * recipe.test)
    n_train = n - n_val - n_test
    train, val, test = order[:n_train], order[n_train : n_train + n_val], order[n_train + n_val :]
    if recipe.normalize:
        m = x[train].double().mean(0)
        s = x[train].double().std(0, correction=0)
        s[s == 0] = 1
        x = (x - m.float()) / s.float()
    return (x[train], y[train]), (x[val], y[val]), (x[test], y[test])


def mean_loss(model: nn.Module, loss_function: nn.Module, x: Tensor, y: Tensor, recipe: Recipe) -> float:
    model.eval()
    total = 0.0
    with torch.no_grad(), torch.autocast("cpu", recipe.autocast, enabled=recipe.autocast is not None):
        for start in range(0, len(x), recipe.batch_size):
            xb, yb = x[start : start + recipe.batch_size], y[start : start + recipe.batch_size]
            value = float(loss_function(model(xb), yb))
            total += value if loss_function.reduction == "sum" else value * len(xb)
    model.train()
    return total / len(x)


def run(data: tuple[Tensor, Tensor], recipe: Recipe, build: Callable[[], Built]) -> Outcome:
    (x, y), val, test = split(*data, recipe)
    torch.manual_seed(recipe.seed)
    model, loss_function, optimizer, scheduler = build()
    loader = DataLoader(
        Rows(x, y),
        batch_size=recipe.batch_size,
        shuffle=recipe.shuffle,
        drop_last=recipe.drop_last,
        generator=torch.Generator().manual_seed(recipe.seed),
    )
    outcome = Outcome()
    scaler = torch.amp.GradScaler("cpu", enabled=recipe.autocast is torch.float16)
    group: list[float] = []
    for _ in range(recipe.epochs):
        for number, (xb, yb) in enumerate(loader, start=1):
            with torch.autocast("cpu", recipe.autocast, enabled=recipe.autocast is not None):
                output = model(xb)
                loss = loss_function(output, yb)
            if not group:
                optimizer.zero_grad()
            group.append(loss.item())
            scaler.scale(loss / recipe.accumulate).backward()
            if number % recipe.accumulate and number < len(loader):
                continue
            outcome.train.append(sum(group) / len(group))
            group = []
            scaler.unscale_(optimizer)
            if recipe.max_grad_norm is not None:
                outcome.grad_norm.append(nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm).item())
            outcome.lr.append(optimizer.param_groups[0]["lr"])
            scaler.step(optimizer)
            scaler.update()
            if scheduler is not None and recipe.interval == "iteration":
                scheduler.step()
        if recipe.val:
            outcome.val.append(mean_loss(model, loss_function, *val, recipe))
        if scheduler is not None and recipe.interval == "epoch":
            plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            scheduler.step(*([outcome.val[-1]] if plateau else []))
        if recipe.patience is not None and len(outcome.val) - 1 - outcome.val.index(min(outcome.val)) >= recipe.patience:
            break
    if recipe.test:
        outcome.test = mean_loss(model, loss_function, *test, recipe)
    outcome.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return outcome
