"""How each form of a model stands in a spec: two of layers that run as they are, and two whose file the user uploads first."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from jobs.model_spec import MODELS_BY_POINTER
from jobs.registry import file_id

Body = dict[str, Any]

NO_FILE = file_id("0" * 64)  # stands where the id of an upload goes
SOURCE = """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, hidden: int, drop: float = 0.2):
        super().__init__()
        self.first = nn.Linear(30, hidden)
        self.drop = nn.Dropout(drop)
        self.last = nn.Linear(hidden, 1)

    def forward(self, x):
        return self.last(self.drop(torch.relu(self.first(x))))
"""
SOURCE_ID = file_id(hashlib.sha256(SOURCE.encode()).hexdigest())


@dataclass(frozen=True)
class ModelExample:
    """`placeholders` are pointers into `spec` where the id of the user's own upload goes; `files` as jobs.examples has them."""

    summary: str
    component: Body
    spec: Body
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    placeholders: tuple[str, ...] = ()


def _binary(model: Body) -> Body:
    return {
        "dataset": {"type": "builtin", "name": "breast_cancer", "normalize": "standard"},
        "split": {"train": 0.8, "val": 0.2},
        "model": model,
        "loss": "BCEWithLogitsLoss",
        "optimizer": {"type": "Adam", "lr": 0.001},
        "metrics": ["BinaryAccuracy"],
        "batch_size": 32,
        "epochs": 10,
    }


def _made(summary: str, model: Body, **more: Any) -> ModelExample:
    return ModelExample(summary, model, _binary(model), **more)


_LINEAR: Body = {"type": "Linear", "out_features": 16}
EXAMPLES: dict[str, ModelExample] = {
    "Sequential": _made(
        "Layers one after the other",
        {"type": "Sequential", "layers": [_LINEAR, "ReLU", {"type": "Linear", "out_features": 1}]},
    ),
    "Graph": _made(
        "Named nodes: a residual block between two layers",
        {
            "type": "Graph",
            "inputs": ["x"],
            "nodes": {
                "stem": {**_LINEAR, "inputs": ["x"]},
                "block": {"type": "Sequential", "layers": [_LINEAR, "ReLU"], "inputs": ["stem"]},
                "sum": {"type": "add", "inputs": ["stem", "block"]},
                "head": {"type": "Linear", "out_features": 1, "inputs": ["sum"]},
            },
            "outputs": ["head"],
        },
    ),
    "exported": _made(
        "An nn.Module that postgrad.export wrote to a .pt2; put the id of your upload in place of the zeros",
        {"type": "exported", "id": NO_FILE},
        placeholders=("/model/id",),
    ),
    "python": _made(
        "A class of an uploaded source file, where the operator allows it",
        {"type": "python", "id": SOURCE_ID, "class": "Net", "kwargs": {"hidden": 64}},
        files={SOURCE_ID: ("net.py", SOURCE.encode())},
    ),
}


def described(name: str) -> Body:
    """The first sentences of a form's documentation, and the JSON Schema of its members."""
    form = _form(name)
    return {"summary": inspect.getdoc(form), "schema": form.model_json_schema()}


def _form(name: str) -> type[BaseModel]:
    return next(form for form in MODELS_BY_POINTER["/model"] if name in form.model_json_schema()["properties"]["type"].values())
