"""Random jobs of a few dozen iterations, drawn from everything that has a state to resume: for test_resume.py."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.trainer.graphs import graph
from tests.trainer.nonfinite_textbook import spiked
from tests.trainer.supervised import prepare
from tests.trainer.test_fields import prepared

Body = dict[str, Any]
FILE: Body = {"type": "file", "id": "file_" + "0" * 24}
TEXT = "the quick brown fox jumps over the lazy dog, again and again; then it sleeps.\n" * 8
ITERATIONS = 60  # about so many, of one run


def folders(root: Path) -> dict[str, Path]:
    """Prepared data by the names that `random_spec` gives."""
    prepare(root)
    (root / "text").mkdir()
    return {
        **{name: root / name for name in ("iris", "wine", "breast_cancer", "diabetes", "digits")},
        "text": prepared(root / "text", TEXT.encode(), "text"),
        "spiked": spiked(root / "spiked"),
    }


def random_spec(chance: random.Random) -> tuple[str, Body]:
    """The name of a data set and a spec that trains on it."""
    name, rows, spec = chance.choice([_table, _table, _images, _text, _spiked, _sparse])(chance)
    per_epoch = chance.randint(6, 20)
    spec |= {"batch_size": max(2, rows // per_epoch), "epochs": max(2, ITERATIONS // per_epoch), "drop_last": True}
    spec |= {"seed": chance.randrange(1000), "shuffle": chance.random() < 0.8}
    val = {"train": 0.7, "val": 0.2, "test": 0.1} if chance.random() < 0.6 else {"train": 1.0}
    spec |= {"split": val} | _loop(chance, spec)
    if (scheduler := _scheduler(chance, spec)) is not None:
        spec["lr_scheduler"] = scheduler
    return name, spec


# ---- data, model and loss


# Name, rows, the model's outputs, losses, metrics.
TABLES: list[tuple[str, int, int, list[Any], list[str]]] = [
    ("iris", 150, 3, ["CrossEntropyLoss", "MultiMarginLoss"], ["MulticlassAccuracy", "MulticlassAveragePrecision"]),
    ("wine", 178, 3, ["CrossEntropyLoss"], ["MulticlassCohenKappa"]),
    ("breast_cancer", 569, 1, ["BCEWithLogitsLoss"], ["BinaryAccuracy", "BinaryAUROC"]),
    ("diabetes", 442, 1, ["MSELoss", "HuberLoss", "L1Loss"], ["MeanAbsoluteError", "R2Score"]),
    (
        "iris",
        150,
        8,
        [{"type": "AdaptiveLogSoftmaxWithLoss", "cutoffs": [1, 2], "div_value": 2.0}, "LinearCrossEntropyLoss"],
        [],
    ),
]


def _table(chance: random.Random) -> tuple[str, int, Body]:
    name, rows, outputs, losses, metrics = chance.choice(TABLES)
    width = chance.choice([8, 16, 24])
    between: list[Any] = [
        "BatchNorm1d",
        "LayerNorm",
        {"type": "Dropout", "p": 0.3},
        {"type": "AlphaDropout", "p": 0.2},
        "PReLU",
        "Tanh",
    ]
    layers = [
        {"type": "Linear", "out_features": width},
        *chance.sample(between, 3),
        {"type": "Linear", "out_features": outputs},
    ]
    spec: Body = {"dataset": {"type": "builtin", "name": name, "normalize": chance.choice(["standard", "minmax"])}}
    spec |= {"model": {"type": "Sequential", "layers": layers}, "loss": chance.choice(losses)}
    return name, rows, spec | {"metrics": metrics, "optimizer": _optimizer(chance, layers)}


def _images(chance: random.Random) -> tuple[str, int, Body]:
    random_ones: list[Body | str] = [
        "RandomHorizontalFlip",
        {"type": "RandomCrop", "padding": 1},
        {"type": "RandomAffine", "degrees": 15, "translate": [0.1, 0.1]},
        "RandomErasing",
        "GaussianNoise",
        {"type": "ColorJitter", "brightness": 0.3, "contrast": 0.3},
    ]
    layers = [
        {"type": "Conv2d", "out_channels": 4, "kernel_size": 3},
        "BatchNorm2d",
        "ReLU",
        {"type": "Dropout2d", "p": 0.2},
        "Flatten",
        {"type": "Linear", "out_features": 10},
    ]
    dataset = {"type": "builtin", "name": "digits", "transforms": chance.sample(random_ones, 3)}
    spec: Body = {"dataset": dataset, "model": {"type": "Sequential", "layers": layers}, "loss": "CrossEntropyLoss"}
    return "digits", 1797, spec | {"metrics": ["MulticlassAccuracy"], "optimizer": _optimizer(chance, layers)}


def _text(chance: random.Random) -> tuple[str, int, Body]:
    symbols, window, stride = len(set(TEXT)), 12, 3
    recurrent = {"type": chance.choice(["GRU", "LSTM", "RNN"]), "hidden_size": 12, "num_layers": 2, "dropout": 0.2}
    model = graph(
        ["x"],
        ["classes_first"],
        embedding={"type": "Embedding", "embedding_dim": 6, "inputs": ["x"]},
        recurrent=recurrent | {"inputs": ["embedding"]},
        head={"type": "Linear", "out_features": symbols, "inputs": ["recurrent"]},
        classes_first={"type": "transpose", "dim0": 1, "dim1": 2, "inputs": ["head"]},
    )
    spec: Body = {"dataset": FILE | {"window": window, "stride": stride}, "model": model, "loss": "CrossEntropyLoss"}
    return "text", len(TEXT) // stride, spec | {"optimizer": _optimizer(chance, [])}


def _spiked(chance: random.Random) -> tuple[str, int, Body]:
    """Rows that make a loss infinite, and what is to become of it."""
    layers = [{"type": "Linear", "out_features": 12}, "BatchNorm1d", "ReLU", "Dropout", {"type": "Linear", "out_features": 1}]
    rollback = {"type": "rollback", "lr_factor": chance.choice([0.5, 0.9]), "max_rollbacks": chance.choice([2, 100])}
    spec: Body = {"dataset": {"type": "builtin", "name": "diabetes", "normalize": "standard"}, "loss": "MSELoss"}
    spec |= {"model": {"type": "Sequential", "layers": layers}, "metrics": ["MeanAbsoluteError"]}
    spec |= {"on_nonfinite": chance.choice(["fail", "skip", "skip", "rollback", rollback, rollback])}
    return "spiked", 442, spec | {"optimizer": _optimizer(chance, layers)}


def _sparse(chance: random.Random) -> tuple[str, int, Body]:
    """SparseAdam or SGD over an embedding's sparse gradients."""
    model = graph(
        ["x"],
        ["head"],
        bag={"type": "EmbeddingBag", "embedding_dim": 8, "sparse": True, "inputs": ["x"]},
        drop={"type": "Dropout", "p": 0.2, "inputs": ["bag"]},
        head={"type": "Linear", "out_features": 12 * len(set(TEXT)), "inputs": ["drop"]},
        shaped={"type": "Unflatten", "dim": 1, "unflattened_size": [len(set(TEXT)), 12], "inputs": ["head"]},
    )
    model["outputs"] = ["shaped"]
    rest = {"type": "Adam", "lr": 0.01}
    optimizer = chance.choice([{"type": "SparseAdam", "lr": 0.01, "rest": rest}, {"type": "SGD", "lr": 0.1, "momentum": 0.9}])
    spec: Body = {"dataset": FILE | {"window": 12, "stride": 3}, "model": model, "loss": "CrossEntropyLoss"}
    return "text", len(TEXT) // 3, spec | {"optimizer": optimizer}


# ---- optimizer, scheduler, loop


def _optimizer(chance: random.Random, layers: list[Any]) -> Body:
    plain: list[Body] = [
        {"type": "SGD", "lr": 0.05, "momentum": 0.9, "nesterov": True},
        {"type": "Adam", "lr": 0.01, "amsgrad": True},
        {"type": "AdamW", "lr": 0.01},
        {"type": "NAdam", "lr": 0.01},
        {"type": "RAdam", "lr": 0.01},
        {"type": "Adamax", "lr": 0.01},
        {"type": "Adagrad", "lr": 0.05, "lr_decay": 0.01},
        {"type": "Adadelta", "lr": 0.5},
        {"type": "RMSprop", "lr": 0.005, "centered": True, "momentum": 0.5},
        {"type": "Rprop", "lr": 0.01},
        {"type": "ASGD", "lr": 0.02, "t0": 10},
        {"type": "LBFGS", "lr": 0.1, "history_size": 5, "max_iter": 3},
        {"type": "LBFGS", "lr": 0.5, "history_size": 3, "max_iter": 2, "line_search_fn": "strong_wolfe"},
        {"type": "Muon", "lr": 0.01, "rest": {"type": "AdamW", "lr": 0.01}},
        {"type": "Adafactor", "lr": 0.01},
    ]
    chosen = chance.choice(plain)
    if layers and "rest" not in chosen and chosen["type"] != "LBFGS" and chance.random() < 0.3:
        group = {"params": ["0"], "lr": 0.003} if chance.random() < 0.6 else {"params": ["0.bias"], "frozen": True}
        return chosen | {"param_groups": [group]}
    return chosen


def _scheduler(chance: random.Random, spec: Body) -> Body | None:
    groups = len(spec["optimizer"].get("param_groups", [])) or "rest" in spec["optimizer"]
    made: list[Callable[[], Body | None]] = [
        lambda: None,
        lambda: {"type": "StepLR", "step_size": 2, "gamma": 0.7, "interval": chance.choice(["epoch", "iteration"])},
        lambda: {"type": "ExponentialLR", "gamma": 0.97, "interval": "iteration"},
        lambda: {"type": "CosineAnnealingLR", "interval": chance.choice(["epoch", "iteration"])},
        lambda: {"type": "CosineAnnealingWarmRestarts", "T_0": 7, "interval": "iteration"},
        lambda: {"type": "ReduceLROnPlateau", "patience": 0, "threshold": 0.2, "factor": 0.5},
        lambda: {"type": "ReduceLROnPlateau", "patience": 0, "threshold": 0.2, "monitor": "train/loss"},
        lambda: {
            "type": "SequentialLR",
            "milestones": [9],
            "interval": "iteration",
            "schedulers": [{"type": "LinearLR", "total_iters": 9}, {"type": "ExponentialLR", "gamma": 0.95}],
        },
        lambda: {"type": "LambdaLR", "lr_lambda": "0.95 ** epoch", "interval": "iteration"},
    ]
    if not groups and spec["optimizer"]["type"] != "LBFGS":
        cycle = {"base_lr": 0.001, "max_lr": 0.02, "step_size_up": 7, "cycle_momentum": False}
        made += [lambda: {"type": "CyclicLR", "interval": "iteration", **cycle}]
        made += [lambda: {"type": "OneCycleLR", "max_lr": 0.02, "interval": "iteration", "cycle_momentum": False}]
    return chance.choice(made)()


def _loop(chance: random.Random, spec: Body) -> Body:
    found: Body = {}
    lbfgs, sparse = spec["optimizer"]["type"] == "LBFGS", "sparse" in str(spec["model"])
    if not lbfgs and chance.random() < 0.4:
        found["accumulate_grad_batches"] = chance.choice([2, 3, 4])
    if not lbfgs and not sparse and chance.random() < 0.4:
        found["max_grad_norm"] = 1.0
    if chance.random() < 0.3:
        patience = {"monitor": "train/loss", "patience": chance.choice([1, 2]), "min_delta": 0.05}
        found["early_stopping"] = patience
    if not sparse and chance.random() < 0.25:
        found |= {"precision": "bf16-mixed" if lbfgs else chance.choice(["16-mixed", "bf16-mixed"]), "exact": False}
    found["checkpoint"] = {"keep": chance.choice([1, 2, 3]), "every_seconds": None}
    return found
