"""The model run on the meta device as a job will run it, for what no layer shows on its own.

A layer that works in place may overwrite what another keeps for its gradient: autograd counts the changes of every tensor, and
so does this. In eval mode the last batch of a part may be too short for a layer.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from jobs.spec import JobSpec, SpecProblem
from workers.trainer.calls import Call
from workers.trainer.data import DataDescription
from workers.trainer.graph import Graph, Owned
from workers.trainer.model import CompletedModel, batch_rows
from workers.trainer.place import first_line, placeholder
from workers.trainer.walk import INNER_INPUT, CompletedLayer

SHAPES_ONLY = frozenset({"RNN", "LSTM", "GRU", "Bilinear"})  # on the meta device they give sizes alone (calls.py)
PARTS = {"val": "validation", "test": "test"}


def check(spec: JobSpec, description: DataDescription, completed: CompletedModel) -> list[SpecProblem]:
    """What a training batch and the last one of the other parts would meet. Parameters that are frozen must be so by now."""
    if not completed.layers:  # the user's own: brought.py has run its graphs, own_model.py its code
        return []
    return [*_check_in_place(spec, description, completed), *_check_one_row(spec, description, completed)]


def _check_in_place(spec: JobSpec, description: DataDescription, completed: CompletedModel) -> list[SpecProblem]:
    if not any(_in_place(layer) for layer in completed.layers):
        return []
    try:
        _Trial(completed).train(description, batch_rows(spec, description))
    except _Failure as failure:
        member = "/inplace" if _in_place(failure.layer) else ""
        return [SpecProblem(f"{failure.layer.pointer}{member}", "not_supported", f"{_title(failure.layer)} {failure}")]
    return []


def _check_one_row(spec: JobSpec, description: DataDescription, completed: CompletedModel) -> list[SpecProblem]:
    """A layer that takes two rows takes any number; one row alone has no variance."""
    for part, name in PARTS.items():
        rows = description.counts[part]
        if rows and (rows - 1) % spec.batch_size == 0:
            try:
                _Trial(completed).evaluate(description, 1)
            except _Failure as failure:
                detail = (
                    f"{_title(failure.layer)} cannot take a batch of 1 row, as the last one of the {name} part is: {failure}"
                )
                hint = f"the part has {rows} row(s); choose another batch_size or split"
                return [SpecProblem("/batch_size", "out_of_range", f"{detail}; {hint}")]
            return []
    return []


def _in_place(layer: CompletedLayer) -> bool:
    layer = layer.shared or layer
    return layer.arguments.get("inplace") is True or any(_in_place(inner) for inner in layer.layers)


def _title(layer: CompletedLayer) -> str:
    kind = "layer" if layer.pointer.rpartition("/")[0].endswith("/layers") else "node"
    return f"{kind} {layer.name} ({layer.type})"


def _keeps_output(module: object) -> bool:
    """Whether backward needs the very output that a layer gave, as the LSTM's fused kernel on the CPU does.

    Both directions are joined in a copy of theirs, and with projections another kernel runs.
    """
    return isinstance(module, nn.LSTM) and not module.bidirectional and not module.proj_size


class _Failure(Exception):
    """The layer that the trial ended at, and what is wrong with it."""

    def __init__(self, layer: CompletedLayer, detail: str) -> None:
        super().__init__(detail)
        self.layer = layer


class _Trial:
    """One forward that knows which layer runs. Raises _Failure at the innermost layer that fails."""

    def __init__(self, completed: CompletedModel) -> None:
        self._inputs = completed.inputs
        assert isinstance(completed.module, Graph)
        self._graph = self._watched(completed.layers, completed.module.owned(), completed.inputs, completed.references)
        self._running: list[CompletedLayer] = []
        self._kept: dict[int, list[tuple[CompletedLayer, Tensor, int]]] = {}  # by storage: whose, and how often changed by then

    def _watched(self, layers: Sequence[CompletedLayer], owned: Owned, inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
        own = dict(owned)
        for layer in layers:
            inner = owned.get(layer.name)
            if layer.layers and layer.shared is None and isinstance(inner, Graph):
                own[layer.name] = self._watched(layer.layers, inner.owned(), [INNER_INPUT], [layer.layers[-1].name])
        steps = [(layer, layer.step()) for layer in layers]
        watched = [replace(step, call=functools.partial(self._called, layer, step.call)) for layer, step in steps]
        return Graph(inputs, own, watched, outputs)

    def train(self, description: DataDescription, rows: int) -> None:
        """In training mode, with what backward would need."""
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
            self._run(description, rows)

    def evaluate(self, description: DataDescription, rows: int) -> None:
        """In eval mode, without gradients."""
        self._graph.eval()
        try:
            with torch.no_grad():
                self._run(description, rows)
        finally:
            self._graph.train()

    def _run(self, description: DataDescription, rows: int) -> None:
        self._graph(*(placeholder(description.inputs[name], [rows]).tensors[0] for name in self._inputs))

    def _called(self, layer: CompletedLayer, call: Call, *given: Any) -> Any:
        source = layer.shared or layer
        self._running.append(layer)
        try:
            output = call(*given)
        except _Failure:
            raise
        except Exception as error:
            raise _Failure(layer, first_line(error)) from error
        if source.type in SHAPES_ONLY and torch.is_grad_enabled():
            output = self._as_computed(given, output)
        if source.arguments.get("inplace") is True:
            self._check(layer, given[-1])
        self._running.pop()
        return output

    def _as_computed(self, given: Sequence[Any], output: Any) -> Any:
        """Outputs that a gradient flows through, and what the layer keeps of them."""
        for tensor in given[1:]:
            self._keep(tensor)
        outputs = tuple(tensor.requires_grad_().clone() for tensor in (output if isinstance(output, tuple) else (output,)))
        if _keeps_output(given[0]):
            self._keep(outputs[0])
        return outputs if isinstance(output, tuple) else outputs[0]

    def _keep(self, tensor: Tensor) -> Tensor:
        if self._running:
            storage = int(tensor.untyped_storage()._cdata)
            self._kept.setdefault(storage, []).append((self._running[-1], tensor, tensor._version))
        return tensor

    def _check(self, layer: CompletedLayer, changed: Tensor) -> None:
        for owner, tensor, version in self._kept.get(int(changed.untyped_storage()._cdata), []):
            if tensor._version != version:
                needs = f"works in place on what {_title(owner)} needs for its gradient; set inplace to false"
                raise _Failure(layer, needs)
