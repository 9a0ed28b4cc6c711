"""For every class of the catalog that a spec may use, a small job that uses it: few rows, ten iterations, all of it named.

Most of it follows from the catalog: an argument that must be given takes the value that VALUES has under its name, and a layer
stands between two others, in the shape that its name tells. What is kept by hand is what a class wants beyond that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.catalog import DATASETS, Entry, catalog
from jobs.example_data import (
    CLASSES,
    LABELS,
    NUMBERS,
    SENTENCES,
    SHARES,
    SIGNS,
    SPEECH,
    TABLE,
    TABLE_ID,
    THREE_CLASSES,
    TOKENS,
    TWO_CLASSES,
    Body,
    builtin,
)


@dataclass(frozen=True)
class Example:
    """`component` is the class as it stands in `spec`. `files` are the uploads that the spec names: by id the name and content;
    the id of an upload follows from its content."""

    component: Body
    spec: Body
    files: Mapping[str, tuple[str, bytes]]


# ---- models


def _linear(size: int) -> Body:
    return {"type": "Linear", "out_features": size}


def _sequential(*layers: Any) -> Body:
    return {"type": "Sequential", "layers": list(layers)}


def _dense(size: int, *more: Any) -> Body:
    return _sequential(_linear(8), "Tanh", _linear(size), *more)


def _graph(outputs: list[str], **nodes: Body) -> Body:
    return {"type": "Graph", "inputs": ["x"], "nodes": nodes, "outputs": outputs}


def _towers(size: int, *names: str) -> Body:
    """One output for each name, all of the input."""
    return _graph(list(names), **{name: {**_linear(size), "inputs": ["x"]} for name in names})


def _in_shape(shape: tuple[int, ...]) -> list[Body]:
    """Layers that make rows of that shape."""
    unflatten = {"type": "Unflatten", "dim": 1, "unflattened_size": list(shape)}
    return [_linear(math.prod(shape)), *([unflatten] if len(shape) > 1 else [])]


def _gaussian() -> Body:
    nodes = {"mean": {**_linear(1), "inputs": ["x"]}, "raw": {**_linear(1), "inputs": ["x"]}}
    return _graph(["mean", "variance"], **nodes, variance={"type": "Softplus", "inputs": ["raw"]})


def _ensemble() -> Body:
    return _graph(["output", "guesses"], output={**_linear(1), "inputs": ["x"]}, guesses={**_linear(5), "inputs": ["x"]})


# ---- arguments

# Of an argument that must be given, by its name.
VALUES: dict[str, Any] = {
    **dict.fromkeys(("out_features", "out_channels", "hidden_size", "embedding_dim"), 4),
    **dict.fromkeys(("kernel_size", "output_size", "size", "norm_type", "groups", "num_groups", "num_heads", "nhead"), 2),
    **dict.fromkeys(("upscale_factor", "downscale_factor", "num_layers", "step_size", "T_0"), 2),
    **dict.fromkeys(("padding", "dim", "dim0"), 1),
    **dict.fromkeys(("value", "threshold", "beta", "sparsity", "val"), 0.5),
    "dim1": 2,
    "unflattened_size": [2, 2],
    "layers": [_linear(4), "ReLU"],
    "encoder_layer": {"type": "TransformerEncoderLayer", "nhead": 2, "dim_feedforward": 8},
    "decoder_layer": {"type": "TransformerDecoderLayer", "nhead": 2, "dim_feedforward": 8},
    "milestones": [1],
    "base_lr": 0.01,
    "max_lr": 0.1,
    "gamma": 0.9,
    "lr_lambda": "0.9 ** epoch",
    "schedulers": [{"type": "LinearLR", "total_iters": 2}, {"type": "ExponentialLR", "gamma": 0.5}],
    "cutoffs": [1, 2],
    **dict.fromkeys(("min_precision", "min_recall", "min_sensitivity", "min_specificity"), 0.5),
    "p": 2,
    "shape": [6, -1],
    "dims": [0, 2, 1],
    "index": -1,
    "split_size": [1, 2],
    "chunks": 2,
    "module": "left",
}
# What else a class wants.
MORE: dict[str, Body] = {
    "LBFGS": {"line_search_fn": "strong_wolfe"},  # without one its steps may run away
    "Muon": {"rest": {"type": "AdamW", "lr": 0.01}},
    **{name: {"dim": 1} for name in ("Softmax", "LogSoftmax", "Softmin")},
    **{name: {"scale_factor": 2} for name in ("Upsample", "UpsamplingBilinear2d", "UpsamplingNearest2d")},
    **{name: {"output_size": 2} for name in ("FractionalMaxPool2d", "FractionalMaxPool3d")},
    **{name: {"dim_feedforward": 8} for name in ("TransformerEncoderLayer", "TransformerDecoderLayer")},
    "Transformer": {"nhead": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "dim_feedforward": 8},
    "Fold": {"output_size": 4, "stride": 2},
    "Parameter": {"shape": [1, 3, 4]},
}


def arguments(entry: Entry) -> Body:
    """The keyword arguments of the class in its example."""
    return {name: VALUES[name] for name in entry.missing({})} | MORE.get(entry.name, {})


# ---- losses, optimizers, schedulers

LOSSES: dict[str, tuple[Body, Body]] = {
    **dict.fromkeys(("CrossEntropyLoss", "MultiMarginLoss"), (CLASSES, _dense(3))),
    **dict.fromkeys(("LinearCrossEntropyLoss", "AdaptiveLogSoftmaxWithLoss"), (CLASSES, _dense(8))),
    **dict.fromkeys(("SoftMarginLoss", "HingeEmbeddingLoss"), (SIGNS, _dense(1))),
    **dict.fromkeys(("MultiLabelMarginLoss", "MultiLabelSoftMarginLoss"), (LABELS, _dense(3))),
    **dict.fromkeys(
        ("TripletMarginLoss", "TripletMarginWithDistanceLoss"), (NUMBERS, _towers(4, "anchor", "positive", "negative"))
    ),
    "NLLLoss": (CLASSES, _dense(3, {"type": "LogSoftmax", "dim": 1})),
    "BCELoss": (TWO_CLASSES, _dense(1, "Sigmoid")),
    "BCEWithLogitsLoss": (TWO_CLASSES, _dense(1)),
    "KLDivLoss": (SHARES, _dense(2, {"type": "LogSoftmax", "dim": 1})),
    "CosineEmbeddingLoss": (SIGNS, _towers(4, "left", "right")),
    "MarginRankingLoss": (SIGNS, _towers(1, "left", "right")),
    "GaussianNLLLoss": (NUMBERS, _gaussian()),
    "CTCLoss": (SPEECH, _sequential(*_in_shape((6, 5)), {"type": "LogSoftmax", "dim": 2})),
}


def _loss(_entry: Entry, component: Body) -> Body:
    dataset, model = LOSSES.get(component["type"], (NUMBERS, _dense(1)))
    return _job(dataset, model, component)


def _optimizer(_entry: Entry, component: Body) -> Body:
    if component["type"] == "SparseAdam":
        words = {"type": "EmbeddingBag", "embedding_dim": 3, "sparse": True}
        return _job(TOKENS, _sequential(words), optimizer=component)
    return _job(optimizer=component)


def _scheduler(_entry: Entry, component: Body) -> Body:
    return _job(optimizer={"type": "SGD", "lr": 0.1, "momentum": 0.9}, lr_scheduler=component)


# ---- layers, operations, initialisers

# Shapes of one row: by the dimensions that end a layer's name, else by the name.
BY_DIMENSIONS = {1: (4, 8), 2: (4, 8, 8), 3: (4, 4, 4, 4)}
SEQUENCE, IMAGE = (5, 4), BY_DIMENSIONS[2]
SHAPES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("RNN", "LSTM", "GRU", "MultiheadAttention"), SEQUENCE),
    **dict.fromkeys(("ChannelShuffle", "PixelShuffle", "PixelUnshuffle", "Unfold", "Flatten"), IMAGE),
    **dict.fromkeys(("Upsample", "GroupNorm", "LocalResponseNorm"), IMAGE),
    "Fold": (16, 4),
}
SCALARS = frozenset({"CosineSimilarity", "PairwiseDistance"})  # they give one number a row


def shape_for(layer: str) -> tuple[int, ...]:
    """The shape of one row of what the layer's example passes to it."""
    if layer.startswith("Transformer"):
        return SEQUENCE
    named = re.fullmatch(r".*([123])d", layer)
    return BY_DIMENSIONS[int(named[1])] if named else SHAPES.get(layer, (4,))


def _layer(entry: Entry, component: Body) -> Body:
    if entry.name in {"Embedding", "EmbeddingBag"}:
        return _job(TOKENS, _sequential(component, "Flatten", _linear(3)))
    shape = shape_for(entry.name)
    if entry.inputs[0] == 1:
        return _job(model=_sequential(*_in_shape(shape), component, "Flatten", _linear(3)))
    before = {"left": _sequential(*_in_shape(shape)) | {"inputs": ["x"]}}
    if entry.name.startswith("MaxUnpool"):
        before["pool"] = {"type": entry.name.replace("Unp", "P"), "kernel_size": 2, "inputs": ["left"]}
    else:
        before["right"] = _sequential(*_in_shape(shape)) | {"inputs": ["x"]}
    flat = {"type": "unsqueeze", "dim": 1} if entry.name in SCALARS else {"type": "Flatten"}
    return _job(model=_with_head({**before, "node": component}, flat))


def _with_head(nodes: dict[str, Body], flat: Body, output: str = "node") -> Body:
    """The nodes, and a Linear of what `flat` makes of their output."""
    return _graph(["head"], **nodes, flat={**flat, "inputs": [output]}, head={**_linear(3), "inputs": ["flat"]})


def _operation(entry: Entry, component: Body) -> Body:
    sides = {"left": (3, 4), "right": (4, 3) if entry.name == "matmul" else (3, 4)}
    used = {"left", *component.get("inputs", [])}
    nodes = {s: _sequential(*_in_shape(shape)) | {"inputs": ["x"]} for s, shape in sides.items() if s in used}
    output = "node.1" if entry.outputs else "node"
    if entry.name == "squeeze":
        nodes["column"] = {"type": "slice", "end": 1, "inputs": ["left"]}
    if "token" in used:
        nodes["token"] = {"type": "Parameter", "shape": [1, 1, 4]}
    if entry.name in MASKING:
        return _masking(entry, component, nodes)
    nodes["node"] = component
    if entry.name == "Parameter":
        nodes["sum"] = {"type": "add", "inputs": ["left", "node"]}
        output = "sum"
    if entry.name == "positions":
        nodes["places"] = {"type": "Embedding", "embedding_dim": 4, "inputs": ["node"]}
        nodes["sum"] = {"type": "add", "inputs": ["left", "places"]}
        output = "sum"
    return _job(model=_with_head(nodes, {"type": "Flatten"}, output))


MASKING = frozenset({"padding_mask", "masked_fill"})


def _masking(entry: Entry, component: Body, nodes: dict[str, Body]) -> Body:
    """Sequences of different lengths, whose padding is left out."""
    mask: Body = {"type": "padding_mask", "inputs": ["left", "long"]}
    if entry.name == "padding_mask":
        nodes |= {"node": component, "mean": {"type": "mean", "dim": 1, "inputs": ["left", "node"]}}
    else:
        nodes |= {"mask": mask, "hidden": {"type": "unsqueeze", "dim": -1, "inputs": ["mask"]}, "node": component}
    model = _with_head(nodes, {"type": "Flatten"}, "mean" if entry.name == "padding_mask" else "node")
    return _job(SENTENCES, {**model, "inputs": ["x", "long"]})


# A node takes as many of these as its class needs, but for some.
SIDES = ["left", "right"]
INPUTS: dict[str, list[str]] = {
    **dict.fromkeys(("add", "sub", "mul", "div"), SIDES),
    "squeeze": ["column"],
    "shared": ["x"],
    "padding_mask": ["left", "long"],
    "masked_fill": ["left", "hidden"],
    **{name: ["token", "left"] for name in ("expand", "expand_as")},
    **{f"MaxUnpool{d}d": ["pool", "pool.indices"] for d in (1, 2, 3)},
}


def _initializer(entry: Entry, component: Body) -> Body:
    if entry.name == "dirac_":
        model = _layer(catalog().section("layers")["Conv1d"], {"type": "Conv1d", "out_channels": 4, "kernel_size": 2})["model"]
        return _job(model=model | {"initializers": [component]})
    return _job(model=_dense(3) | {"initializers": [component]})


# ---- metrics

METRICS: dict[str, tuple[Body, Body, str]] = {
    "MulticlassExactMatch": (THREE_CLASSES, _sequential(*_in_shape((3, 3))), "CrossEntropyLoss"),
    "ContinuousRankedProbabilityScore": (NUMBERS, _ensemble(), "MSELoss"),
    # They compare rows of several columns, as directions or as distributions.
    **dict.fromkeys(
        ("CosineSimilarity", "JensenShannonDivergence", "KLDivergence"),
        (SHARES, _dense(2, {"type": "Softmax", "dim": 1}), "MSELoss"),
    ),
    "MeanSquaredLogError": (NUMBERS, _dense(1, "Softplus"), "MSELoss"),
    "LogCoshError": (SIGNS, _dense(1), "MSELoss"),  # the cosh of a large difference is infinite
}
TASKS: dict[str, tuple[Body, Body, str]] = {
    "Binary": (TWO_CLASSES, _dense(1), "BCEWithLogitsLoss"),
    "Multiclass": (CLASSES, _dense(3), "CrossEntropyLoss"),
    "Multilabel": (LABELS, _dense(3), "BCEWithLogitsLoss"),
}


def _metric(entry: Entry, component: Body) -> Body:
    task = next((task for task in TASKS if entry.name.startswith(task)), "")
    dataset, model, loss = METRICS.get(entry.name, TASKS.get(task, (NUMBERS, _dense(1), "MSELoss")))
    return _job(dataset, model, {"type": loss}, metrics=[component], split={"train": 0.7, "val": 0.3})


# ---- all of them


def _job(dataset: Body = CLASSES, model: Body | None = None, loss: Body | None = None, **more: Any) -> Body:
    return {
        "dataset": dataset,
        "model": model or _dense(3),
        "loss": loss or {"type": "CrossEntropyLoss"},
        "optimizer": {"type": "Adam", "lr": 0.01},
        "batch_size": 500,  # nearly all rows at once, so that the loss falls from one iteration to the next
        "epochs": 10,
        **more,
    }


JOBS = {
    "losses": _loss,
    "optimizers": _optimizer,
    "lr_schedulers": _scheduler,
    "layers": _layer,
    "operations": _operation,
    "initializers": _initializer,
    "metrics": _metric,
}
TASK_JOBS: dict[str, tuple[int, str]] = {
    "multiclass": (3, "CrossEntropyLoss"),
    "binary": (1, "BCEWithLogitsLoss"),
    "regression": (1, "MSELoss"),
}


def example(section: str, name: str) -> Example | None:
    """A job that uses the class (or data set), or None where a spec may not use it. Raises KeyError for an unknown name."""
    if section == "datasets":
        return _example(builtin(name), _of_dataset(name))
    entry = catalog().section(section)[name]
    if entry.refused is not None:
        return None
    component: Body = {"type": name, **arguments(entry)}
    if section == "initializers":
        component["params"] = ["2.weight"]
    if name == "ContinuousRankedProbabilityScore":
        component["inputs"] = {"preds": "guesses"}
    if (section == "operations" and entry.inputs[1]) or entry.inputs[0] > 1:
        component["inputs"] = INPUTS.get(name, SIDES[: entry.inputs[0]])
    return _example(component, JOBS[section](entry, component))


def _example(component: Body, spec: Body) -> Example:
    files = {TABLE_ID: ("table.csv", TABLE)} if spec["dataset"]["type"] == "file" else {}
    return Example(component, spec, files)


def _of_dataset(name: str) -> Body:
    row = DATASETS[name]
    size, loss = TASK_JOBS[row["task"]]
    model = _sequential("Flatten", _linear(8), "Tanh", _linear(row["classes"] if row["task"] == "multiclass" else size))
    return _job(builtin(name), model, {"type": loss})
