"""Data as described to a model without a file of it, and a few iterations of the service's model on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from jobs.spec import parse
from tests.trainer.test_check import COUNTS, spec
from workers.trainer.data import Batch, DataDescription, Field
from workers.trainer.model import CompletedModel, build, complete

TARGET = Field((), 0, 2, 3)


def described(**inputs: Field) -> DataDescription:
    return DataDescription(100, inputs, {"y": TARGET}, COUNTS)


def tokens(length: int, different: int) -> Field:
    return Field((length,), 0, different - 1, integers=different)


def numbers(*shape: int) -> Field:
    return Field(shape, -1, 1)


def graph(inputs: list[str], outputs: list[str], **nodes: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Graph", "inputs": inputs, "nodes": nodes, "outputs": outputs}


def completed(model: dict[str, Any], description: DataDescription, **more: Any) -> CompletedModel:
    """Raises InvalidSpec and BuildProblem."""
    return complete(parse(spec(model=model, **more)), description)


def batch(description: DataDescription, rows: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(3)
    found = {}
    for name, field in description.inputs.items():
        if field.integers is None:
            found[name] = torch.randn(rows, *field.shape, generator=generator)
        else:
            found[name] = torch.randint(field.integers, (rows, *field.shape), generator=generator)
    return found


def losses(call: Callable[[Batch], Tensor], module: nn.Module, data: Batch) -> list[float]:
    """Four iterations on one batch, without any target: the mean of the output's squares."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    found = []
    for _ in range(4):
        loss = call(data).square().mean()
        found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return found


def agree(model: dict[str, Any], description: DataDescription, plain: Callable[[], nn.Module]) -> list[float]:
    """The service's losses and weights, which are those of the plain module called with the inputs in their order."""
    torch.set_num_threads(1)
    data = batch(description)
    torch.manual_seed(7)
    built = build(completed(model, description))
    found = losses(lambda b: next(iter(built(b).values())), built.module, data)
    torch.manual_seed(7)
    module = plain()
    assert found == losses(lambda b: module(*b.values()), module, data)
    weights, expected = built.module.state_dict(), module.state_dict()
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    return found
