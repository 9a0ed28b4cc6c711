"""The service's numbers are the textbook's, bit for bit at every iteration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer import textbook
from tests.trainer.supervised import Supervised, job, prepare
from tests.trainer.textbook import Built, Outcome, Recipe


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("sets"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def same(service: Supervised, oracle: Outcome) -> None:
    assert service.ended[-1].state == "succeeded", service.stderr
    assert list(service.curve["train/loss"]) == list(range(1, len(oracle.train) + 1))
    assert service.values("train/loss") == oracle.train
    assert service.values("lr") == oracle.lr
    if oracle.val:
        assert service.values("val/loss") == oracle.val
        per_epoch = len(oracle.train) // len(oracle.val)
        assert list(service.curve["val/loss"]) == [per_epoch * (e + 1) for e in range(len(oracle.val))]
    if oracle.test is not None:
        assert service.curve["test/loss"] == {len(oracle.train): oracle.test}
    if oracle.grad_norm:
        assert service.values("grad_norm") == oracle.grad_norm
    weights = service.weights()
    assert set(weights) == set(oracle.weights)
    assert all(torch.equal(weights[name], tensor) for name, tensor in oracle.weights.items())


MLP: dict[str, Any] = {
    "dataset": {"type": "builtin", "name": "breast_cancer", "normalize": "standard"},
    "split": {"train": 0.8, "val": 0.2},
    "model": {
        "type": "Sequential",
        "layers": [{"type": "Linear", "out_features": 64}, "ReLU", {"type": "Linear", "out_features": 1}, "Sigmoid"],
    },
    "loss": {"type": "BCELoss", "reduction": "sum"},
    "optimizer": {"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0, "amsgrad": False},
    "batch_size": 32,
    "epochs": 4,
}


def mlp() -> Built:
    model = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 1), nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False)
    return model, nn.BCELoss(reduction="sum"), optimizer, None


@pytest.mark.parametrize("seed", [0, 7])
def test_mlp_with_summed_bce_and_adam(sets: Path, tmp_path: Path, seed: int) -> None:
    service = job(sets, tmp_path, MLP | {"seed": seed})
    service.attempt()
    recipe = Recipe(batch_size=32, epochs=4, seed=seed, val=0.2, normalize=True)
    same(service, textbook.run(textbook.breast_cancer(), recipe, mlp))


CNN: dict[str, Any] = {
    "dataset": {"type": "builtin", "name": "digits"},
    "model": {
        "type": "Sequential",
        "layers": [
            {"type": "Conv2d", "out_channels": 8, "kernel_size": 3, "padding": 1},
            "ReLU",
            {"type": "MaxPool2d", "kernel_size": 2},
            "Flatten",
            {"type": "Linear", "out_features": 10},
        ],
    },
    "loss": "CrossEntropyLoss",
    "optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9},
    "batch_size": 64,
    "epochs": 2,
    "seed": 3,
}


def cnn() -> Built:
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))
    return model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), None


def test_cnn_with_cross_entropy_and_sgd_with_momentum(sets: Path, tmp_path: Path) -> None:
    service = job(sets, tmp_path, CNN)
    service.attempt()
    same(service, textbook.run(textbook.digits(), Recipe(batch_size=64, epochs=2, seed=3), cnn))


REGRESSION: dict[str, Any] = {
    "dataset": {"type": "builtin", "name": "diabetes", "normalize": "standard"},
    "split": {"train": 0.7, "val": 0.2, "test": 0.1},
    "model": {
        "type": "Sequential",
        "layers": [{"type": "Linear", "out_features": 32}, "Tanh", {"type": "Linear", "out_features": 1}],
    },
    "loss": {"type": "HuberLoss", "delta": 1.5},
    "optimizer": {"type": "AdamW", "lr": 0.01, "weight_decay": 0.02},
    "batch_size": 16,
    "epochs": 5,
    "seed": 11,
}

SCHEDULERS: dict[str, tuple[dict[str, Any], Any]] = {
    "cosine": (
        {"type": "CosineAnnealingLR", "T_max": 5},
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5),
    ),
    "one cycle": (
        {"type": "OneCycleLR", "max_lr": 0.02, "total_steps": 200, "interval": "iteration"},
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=200),
    ),
    "plateau": (
        {"type": "ReduceLROnPlateau", "patience": 0, "threshold": 0.5},
        lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5),
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_regression_with_huber_adamw_and_a_scheduler(sets: Path, tmp_path: Path, name: str) -> None:
    scheduler, make = SCHEDULERS[name]

    def build() -> Built:
        model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.02)
        return model, nn.HuberLoss(delta=1.5), optimizer, make(optimizer)

    service = job(sets, tmp_path, REGRESSION | {"lr_scheduler": scheduler})
    service.attempt()
    interval = "iteration" if name == "one cycle" else "epoch"
    recipe = Recipe(batch_size=16, epochs=5, seed=11, val=0.2, test=0.1, normalize=True, interval=interval)
    oracle = textbook.run(textbook.diabetes(), recipe, build)
    assert len(set(oracle.lr)) > 1, "the scheduler never moved the learning rate"
    same(service, oracle)


def test_dropout_batch_norm_clipping_and_drop_last(sets: Path, tmp_path: Path) -> None:
    layers = [
        {"type": "Conv2d", "out_channels": 4, "kernel_size": 3},
        "BatchNorm2d",
        "ReLU",
        {"type": "Dropout2d", "p": 0.2},
        "Flatten",
        {"type": "Linear", "out_features": 16},
        "BatchNorm1d",
        {"type": "Dropout", "p": 0.3},
        {"type": "Linear", "out_features": 10},
    ]
    changed = {
        "model": {"type": "Sequential", "layers": layers},
        "split": {"train": 0.75, "val": 0.25},
        "max_grad_norm": 0.5,
        "drop_last": True,
        "metrics": ["MulticlassAccuracy"],
    }

    def build() -> Built:
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout2d(0.2),
            nn.Flatten(),
            nn.Linear(144, 16),
            nn.BatchNorm1d(16),
            nn.Dropout(0.3),
            nn.Linear(16, 10),
        )
        return model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), None

    service = job(sets, tmp_path, CNN | changed)
    service.attempt()
    recipe = Recipe(batch_size=64, epochs=2, seed=3, val=0.25, drop_last=True, max_grad_norm=0.5)
    same(service, textbook.run(textbook.digits(), recipe, build))
    assert len(service.values("val/MulticlassAccuracy")) == len(service.values("train/MulticlassAccuracy")) == 2


@pytest.mark.parametrize(("accumulate", "clip"), [(2, None), (3, 0.5), (100, None)])
def test_accumulated_gradients(sets: Path, tmp_path: Path, accumulate: int, clip: float | None) -> None:
    """1,797 rows in batches of 64 are 29 batches: the last group of an epoch is short."""
    service = job(sets, tmp_path, CNN | {"accumulate_grad_batches": accumulate, "max_grad_norm": clip})
    service.attempt()
    recipe = Recipe(batch_size=64, epochs=2, seed=3, accumulate=accumulate, max_grad_norm=clip)
    same(service, textbook.run(textbook.digits(), recipe, cnn))
    assert service.iteration == service.started[0].iterations == 2 * -(-29 // accumulate)


def test_early_stopping(sets: Path, tmp_path: Path) -> None:
    rough = {"optimizer": {"type": "SGD", "lr": 0.01}, "split": {"train": 0.7, "val": 0.2, "test": 0.1}, "seed": 2}
    service = job(sets, tmp_path, MLP | rough | {"epochs": 60, "early_stopping": {"patience": 2}})
    service.attempt()

    def build() -> Built:
        model, loss_function, _, scheduler = mlp()
        return model, loss_function, torch.optim.SGD(model.parameters(), lr=0.01), scheduler

    recipe = Recipe(batch_size=32, epochs=60, seed=2, val=0.2, test=0.1, normalize=True, patience=2)
    oracle = textbook.run(textbook.breast_cancer(), recipe, build)
    assert len(oracle.val) < 60
    same(service, oracle)
    assert service.ended[-1].message is not None
    assert "val/loss has not improved" in service.ended[-1].message


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)])
def test_mixed_precision(sets: Path, tmp_path: Path, precision: str, dtype: torch.dtype) -> None:
    changed = {"precision": precision, "exact": False, "split": {"train": 0.8, "val": 0.2}, "max_grad_norm": 1.0}
    service = job(sets, tmp_path, CNN | changed)
    service.attempt()
    recipe = Recipe(batch_size=64, epochs=2, seed=3, val=0.2, max_grad_norm=1.0, autocast=dtype)
    oracle = textbook.run(textbook.digits(), recipe, cnn)
    same(service, oracle)
    assert oracle.train != textbook.run(textbook.digits(), Recipe(batch_size=64, epochs=2, seed=3, val=0.2), cnn).train


def test_without_shuffle(sets: Path, tmp_path: Path) -> None:
    service = job(sets, tmp_path, CNN | {"shuffle": False})
    service.attempt()
    same(service, textbook.run(textbook.digits(), Recipe(batch_size=64, epochs=2, seed=3, shuffle=False), cnn))


def test_a_layer_that_works_in_place_leaves_the_data_alone(sets: Path, tmp_path: Path) -> None:
    layers = [{"type": "LeakyReLU", "negative_slope": 0.5, "inplace": True}, "Flatten", {"type": "Linear", "out_features": 1}]
    changed = {"model": {"type": "Sequential", "layers": layers}, "lr_scheduler": None}

    def build() -> Built:
        model = nn.Sequential(nn.LeakyReLU(0.5), nn.Flatten(), nn.Linear(10, 1))
        return model, nn.HuberLoss(delta=1.5), torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.02), None

    service = job(sets, tmp_path, REGRESSION | changed)
    service.attempt()
    recipe = Recipe(batch_size=16, epochs=5, seed=11, val=0.2, test=0.1, normalize=True)
    same(service, textbook.run(textbook.diabetes(), recipe, build))


def test_best_weights_are_those_of_the_epoch_with_the_lowest_val_loss(sets: Path, tmp_path: Path) -> None:
    # A rate this high makes the validation loss go up and down.
    rough = MLP | {"optimizer": {"type": "SGD", "lr": 0.3}, "epochs": 6, "seed": 2}
    service = job(sets, tmp_path / "all", rough)
    service.attempt()
    losses = service.values("val/loss")
    best = losses.index(min(losses)) + 1
    shorter = job(sets, tmp_path / "best", rough | {"epochs": best})
    shorter.attempt()
    weights, expected = service.weights("model.best.safetensors"), shorter.weights()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
