"""The plain loop with `skip` and `rollback` written out by hand, and a data set with rows that no loss survives."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from workers.trainer import ingest

BAD_ROWS = (57, 301)  # counted from 1, with targets whose squares are no float32
EPOCHS, BATCH = 4, 32
SPEC: dict[str, Any] = {
    "dataset": {"type": "builtin", "name": "diabetes", "normalize": "standard"},
    "model": {
        "type": "Sequential",
        "layers": [
            {"type": "Linear", "out_features": 16},
            "BatchNorm1d",
            "ReLU",
            {"type": "Dropout", "p": 0.3},
            {"type": "Linear", "out_features": 1},
        ],
    },
    "loss": "MSELoss",
    "optimizer": {"type": "Adam", "lr": 0.01},
    "lr_scheduler": {"type": "ExponentialLR", "gamma": 0.99, "interval": "iteration"},
    "max_grad_norm": 50.0,
    "batch_size": BATCH,
    "epochs": EPOCHS,
    "seed": 4,
}


def spiked(folder: Path) -> Path:
    """diabetes as the trainer reads it, with the bad rows."""
    schema, arrays = ingest.builtins()["diabetes"]
    for row in BAD_ROWS:
        arrays["y"][row - 1] = 1e30
    ingest.write(folder, schema | {"target_max": 1e30}, arrays)
    assert json.loads((folder / "schema.json").read_text())["target_max"] == 1e30
    return folder


def rows() -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and row numbers of the training part: the whole set in the order of its permutation."""
    _, arrays = ingest.builtins()["diabetes"]
    x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    for row in BAD_ROWS:
        y[row - 1] = 1e30
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(4))
    m, s = x[order].double().mean(0), x[order].double().std(0, correction=0)
    x = (x - m.float()) / s.float()
    return x[order], y[order], order + 1


@dataclass
class Plain:
    """One run. `losses` and `lr` by iteration; `bad` are the rows of each batch that was not finite, in the batch's order."""

    action: str
    lr_factor: float = 1.0
    losses: dict[int, float] = field(default_factory=dict)
    lr: dict[int, float] = field(default_factory=dict)
    bad: dict[int, list[int]] = field(default_factory=dict)
    iteration: int = 0
    scale: float = 1.0
    left_out: set[int] = field(default_factory=set)

    def run(self) -> Plain:
        x, y, numbers = rows()
        torch.manual_seed(4)
        self.model = nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, gamma=0.99)
        generator = torch.Generator().manual_seed(4)
        loader = DataLoader(TensorDataset(x, y, numbers), BATCH, shuffle=True, generator=generator)
        epoch = 0
        while epoch < EPOCHS:
            parts: tuple[Any, ...] = (self.model, self.optimizer, self.scheduler)
            saved = copy.deepcopy([part.state_dict() for part in parts])
            draws, order, before = torch.get_rng_state(), generator.get_state(), self.iteration
            batches = list(loader)
            if all(self.step(*batch) for batch in batches):
                epoch += 1
                continue
            for part, state in zip(parts, saved, strict=True):
                part.load_state_dict(state)
            torch.set_rng_state(draws)
            generator.set_state(order)
            self.iteration = before
        return self

    def step(self, x: Tensor, y: Tensor, numbers: Tensor) -> bool:
        """One iteration; False when the epoch is to begin again."""
        self.iteration += 1
        running = copy.deepcopy(dict(self.model.named_buffers()))
        loss = nn.functional.mse_loss(self.model(x), y)
        self.losses[self.iteration] = loss.item()
        self.lr[self.iteration] = self.optimizer.param_groups[0]["lr"] * self.scale
        left_out = self.iteration in self.left_out
        if not math.isfinite(loss.item()) and not left_out:
            self.bad[self.iteration] = numbers.tolist()
            if self.action == "rollback":
                self.left_out.add(self.iteration)
                self.scale *= self.lr_factor
                return False
        if left_out or not math.isfinite(loss.item()):
            self.model.load_state_dict(running, strict=False)
        else:
            self.update(loss)
        self.scheduler.step()
        return True

    def update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 50.0)
        scheduled = self.optimizer.param_groups[0]["lr"]
        self.optimizer.param_groups[0]["lr"] = scheduled * self.scale
        self.optimizer.step()
        self.optimizer.param_groups[0]["lr"] = scheduled
