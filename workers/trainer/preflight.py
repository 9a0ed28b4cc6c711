"""What a job would build and how much memory it would take, told before anything is queued.

The model runs one training batch forward on the meta device, where nothing is computed; what autograd would keep for backward
is counted tensor by tensor. The optimizer takes one step on stand-ins of at most 2 elements a dimension, whose state shows how
its own grows. All of it is an estimate: the process itself, torch's workspaces and the loss's own work come on top.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from jobs.spec import JobSpec
from workers.trainer.data import DataDescription, resident
from workers.trainer.model import CompletedModel, Model, batch_rows
from workers.trainer.optimizers import build_optimizer
from workers.trainer.param_groups import Parameters
from workers.trainer.place import placeholder

BYTES = 4  # of a float32

Shape = tuple[int, ...]


def preflight(spec: JobSpec, description: DataDescription, completed: CompletedModel) -> dict[str, Any]:
    """The layer table, and the memory in bytes, as API.md's preflight gives them."""
    model = Model(completed.module, completed.inputs, [output.name for output in completed.outputs])
    parameters = list(model.module.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad) * BYTES
    memory = {
        "parameters": sum(t.numel() * t.element_size() for t in model.module.state_dict().values()),
        "gradients": trainable,
        "optimizer_state": optimizer_state_bytes(spec, Parameters.of(model.module, None)),
        "activations": activation_bytes(model, description, batch_rows(spec, description)),
        "data": data_bytes(description, batch_rows(spec, description)),
    }
    return {"layers": completed.table(), "memory": {**memory, "total": sum(memory.values())}}


def data_bytes(description: DataDescription, batch: int) -> int:
    """Of the rows that are held in memory: all of them, or of one batch where the data stays on disk."""
    fields = [*description.inputs.values(), *description.targets.values()]
    rows = description.rows if resident(description.rows, fields) else batch
    return rows * sum(field.width * field.dtype.itemsize for field in fields)


def activation_bytes(model: Model, description: DataDescription, rows: int) -> int:
    """What forward keeps for backward with a batch of `rows`: every storage once, parameters and the batch left out."""
    batch = {name: placeholder(field, [rows]).tensors[0] for name, field in description.inputs.items()}
    if not all(p.is_meta for p in model.module.parameters()):  # a user's own class
        batch = {name: torch.zeros_like(values, device="cpu") for name, values in batch.items()}
    outside = {_storage(t) for t in (*model.module.parameters(), *model.module.buffers(), *batch.values())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in outside:
            kept[_storage(tensor)] = tensor  # held, so that its storage's address is not given out again
        return tensor

    model.module.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def optimizer_state_bytes(spec: JobSpec, parameters: Parameters) -> int:
    """Of the optimizer's state after its first steps."""
    if spec.optimizer.type == "LBFGS":
        history = int(spec.optimizer.arguments().get("history_size", 100))
        return (2 * history + 3) * sum(p.numel() for _, p in parameters.named) * BYTES
    small = {name: nn.Parameter(torch.zeros([min(size, 2) for size in p.shape])) for name, p in parameters.named}
    made = build_optimizer(spec, Parameters(list(small.items()), parameters.sparse))
    for name, parameter in small.items():
        gradient = torch.zeros_like(parameter)
        parameter.grad = gradient.to_sparse(1) if name in parameters.sparse else gradient
    made.optimizer.step()
    parts = [made.main] if made.rest is None else [made.main, made.rest]
    return sum(_grown(part, small[name], p) for part in parts for name, p in parameters.named)


def _grown(optimizer: Optimizer, small: nn.Parameter, full: nn.Parameter) -> int:
    """Bytes of the state of `full`, after the state that the stand-in has: a dimension kept in it grows as the parameter's."""
    tensors = [value for value in optimizer.state.get(small, {}).values() if isinstance(value, Tensor)]
    return sum(
        math.prod(
            full.shape[axis] if state.dim() == full.dim() and size == small.shape[axis] else size
            for axis, size in enumerate(state.shape)
        )
        * state.element_size()
        for state in tensors
    )
