"""The memory that a preflight tells, beside what training really takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from jobs.catalog import catalog
from jobs.spec import parse
from tests.trainer.test_check import IMAGES, MULTI, spec
from workers.trainer.model import batch_rows, build, complete
from workers.trainer.optimizers import build_optimizer
from workers.trainer.param_groups import Parameters
from workers.trainer.preflight import activation_bytes, optimizer_state_bytes, preflight


def layers(*names: Any) -> dict[str, Any]:
    return {"model": {"type": "Sequential", "layers": list(names)}}


WIDE = layers({"type": "Linear", "out_features": 50}, "ReLU", "Dropout", {"type": "Linear", "out_features": 3})
CNN = layers(
    {"type": "Conv2d", "out_channels": 6, "kernel_size": 3},
    "BatchNorm2d",
    "GELU",
    {"type": "MaxPool2d", "kernel_size": 2},
    "Flatten",
    {"type": "Linear", "out_features": 3},
)


def test_the_table_and_the_sum() -> None:
    job = parse(spec(**WIDE))
    told = preflight(job, MULTI, complete(job, MULTI))
    assert [(row["name"], row["type"], row["output_shape"], row["parameters"]) for row in told["layers"]] == [
        ("0", "Linear", [50], 250),
        ("1", "ReLU", [50], 0),
        ("2", "Dropout", [50], 0),
        ("3", "Linear", [3], 153),
    ]
    memory = told["memory"]
    assert memory["parameters"] == memory["gradients"] == 403 * 4
    assert memory["data"] == 100 * (4 * 4 + 8)
    assert memory["total"] == sum(size for name, size in memory.items() if name != "total")


@pytest.mark.parametrize(("body", "description"), [(WIDE, MULTI), (CNN, IMAGES)], ids=["mlp", "cnn"])
def test_activations_are_those_of_a_real_forward(body: dict[str, Any], description: Any) -> None:
    job = parse(spec(**body))
    completed = complete(job, description)
    rows = batch_rows(job, description)
    with torch.device("meta"):
        told = activation_bytes(build(completed), description, rows)
    model = build(completed).module.train()
    x = torch.randn(rows, *description.inputs["x"].shape)
    outside = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), x)}
    kept: dict[int, torch.Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t):
        model(x)
    assert told == sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in outside)


STEPS_ON_ITS_OWN = set(catalog().section("optimizers")) - {"LBFGS", "SparseAdam", "Muon"}


@pytest.mark.parametrize("name", sorted(STEPS_ON_ITS_OWN))
def test_optimizer_state_is_that_of_a_real_step(name: str) -> None:
    job = parse(spec(optimizer=name))
    shapes = {"0.weight": (7, 5), "0.bias": (7,), "1.weight": (3, 2, 4)}
    named = [(n, nn.Parameter(torch.zeros(shape))) for n, shape in shapes.items()]
    optimizer = build_optimizer(job, Parameters(named)).optimizer
    for _, parameter in named:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = [v for _, p in named for v in optimizer.state[p].values() if isinstance(v, torch.Tensor)]
    assert optimizer_state_bytes(job, Parameters(named)) == sum(v.numel() * v.element_size() for v in states)
