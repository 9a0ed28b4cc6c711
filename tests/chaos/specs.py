"""Jobs whose state is hard to keep: each holds something that a careless resume would lose."""

from __future__ import annotations

import copy
from typing import Any

MOST_ATTEMPTS = 100  # the script's kills are no fault of the job
CHECKPOINT = {"every_seconds": 0.3, "every_n_epochs": 10}

CANCER = {"type": "builtin", "name": "breast_cancer", "normalize": "standard"}
DIGITS = {"type": "builtin", "name": "digits"}
LOSS = "CrossEntropyLoss"


def _mlp(*between: dict[str, Any], out: int = 1) -> dict[str, Any]:
    layers = [{"type": "Linear", "out_features": 48}, *between, {"type": "ReLU"}, {"type": "Linear", "out_features": out}]
    return {"type": "Sequential", "layers": layers}


def _spec(**members: Any) -> dict[str, Any]:
    usual = {
        "dataset": CANCER,
        "split": {"train": 0.7, "val": 0.2, "test": 0.1},
        "model": _mlp(),
        "loss": "BCEWithLogitsLoss",
        "optimizer": {"type": "Adam", "lr": 1e-3},
        "metrics": ["BinaryAccuracy"],
        "batch_size": 16,
        "epochs": 200,
        "checkpoint": CHECKPOINT,
        "max_attempts": MOST_ATTEMPTS,
    }
    return usual | members


CNN = {
    "type": "Sequential",
    "layers": [
        {"type": "Conv2d", "out_channels": 8, "kernel_size": 3},
        {"type": "BatchNorm2d"},
        {"type": "ReLU"},
        {"type": "Flatten"},
        {"type": "Dropout", "p": 0.2},
        {"type": "Linear", "out_features": 10},
    ],
}
LSTM = {
    "type": "Sequential",
    "layers": [
        {"type": "Flatten", "start_dim": 1, "end_dim": 2},
        {"type": "LSTM", "hidden_size": 16, "batch_first": True, "output": "last"},
        {"type": "Linear", "out_features": 10},
    ],
}

SPECS: dict[str, dict[str, Any]] = {
    "adam": _spec(),
    "dropout": _spec(model=_mlp({"type": "Dropout", "p": 0.3})),
    "batch norm, no shuffle": _spec(model=_mlp({"type": "BatchNorm1d"}), shuffle=False, drop_last=True),
    "one cycle, per iteration": _spec(lr_scheduler={"type": "OneCycleLR", "max_lr": 0.01, "interval": "iteration"}),
    "plateau": _spec(lr_scheduler={"type": "ReduceLROnPlateau", "patience": 3, "factor": 0.7}),
    "accumulation and clipping": _spec(accumulate_grad_batches=3, max_grad_norm=0.5, epochs=400),
    "early stopping": _spec(early_stopping={"patience": 40}, optimizer={"type": "SGD", "lr": 0.002, "momentum": 0.9}),
    "lbfgs": _spec(optimizer={"type": "LBFGS", "lr": 0.001, "max_iter": 4, "history_size": 5}, epochs=60),
    "images, augmented": _spec(
        dataset=DIGITS | {"transforms": [{"type": "RandomCrop", "padding": 1}]},
        model=CNN, loss=LOSS, metrics=["MulticlassAccuracy"], batch_size=64, epochs=80,
    ),
    "lstm": _spec(dataset=DIGITS, model=LSTM, loss=LOSS, metrics=["MulticlassF1Score"], batch_size=64, epochs=80),
}  # fmt: skip


def spec(kind: str, seed: int) -> dict[str, Any]:
    """The job of that kind; the same kind and seed give the same curve and the same weights."""
    return copy.deepcopy(SPECS[kind]) | {"name": f"{kind} {seed}", "seed": seed}
