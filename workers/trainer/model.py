"""Step 2, the model: layers by name, one after the other or as a graph of nodes, become one module.

`complete` walks the layers on the meta device and fills in every size that follows from the data; `build` then calls the
ordinary constructors on the CPU, in the order of the spec (rule 4 of "What `seed` means").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from jobs.catalog import catalog
from jobs.graph_spec import SHARED
from jobs.model_spec import GraphModel, NodeComponent, SequentialModel
from jobs.spec import JobSpec, SpecProblem
from workers.trainer.data import LENGTHS, Batch, DataDescription
from workers.trainer.graph import RESERVED, Graph
from workers.trainer.objective import OUTPUT
from workers.trainer.place import BuildProblem, Node, Shape, Value, placeholder
from workers.trainer.walk import CompletedLayer, Walk, leading, sequential_nodes

__all__ = ["BuildProblem", "CompletedLayer", "CompletedModel", "Model", "ModelOutput", "build", "complete"]


@dataclass(frozen=True)
class ModelOutput:
    """One output: its shape of one row, and the layers that lead to it, the nearest first, up to where several inputs meet."""

    name: str
    pointer: str
    shape: Shape
    layers: tuple[CompletedLayer, ...]


class Brought(Protocol):
    """What the user brought in place of layers."""

    def model(self, inputs: tuple[str, ...], outputs: list[str]) -> Model:
        """The model that trains, on the CPU, with its inputs and outputs named."""


@dataclass(frozen=True)
class CompletedModel:
    """All layers with every size filled in, or what the user brought in their place.

    `module` is the model on the meta device, names and shapes without numbers; a user's own class is on the CPU.
    """

    layers: tuple[CompletedLayer, ...]
    inputs: tuple[str, ...]
    outputs: tuple[ModelOutput, ...]
    references: tuple[str, ...]  # what each output is called inside
    module: nn.Module
    brought: Brought | None = None

    def table(self) -> list[dict[str, Any]]:
        """Every layer or node, those inside a Sequential behind it: name, type, output shape of one row, parameters.

        What the user brought is one row.
        """
        if self.brought is not None:
            numbers = sum(p.numel() for p in self.module.parameters())
            return [{"name": "", "type": "model", "output_shape": list(self.outputs[0].shape), "parameters": numbers}]
        return [row for layer in self.layers for row in _rows(layer, "")]

    def shapes(self) -> dict[str, Shape]:
        """Shape of one row of every output, by its name."""
        return {output.name: output.shape for output in self.outputs}


def _rows(layer: CompletedLayer, prefix: str) -> list[dict[str, Any]]:
    name = f"{prefix}{layer.name}"
    row = {"name": name, "type": layer.type, "output_shape": list(layer.output_shape), "parameters": layer.parameters}
    inner = () if layer.shared else layer.layers
    return [row, *(found for part in inner for found in _rows(part, f"{name}."))]


def complete(spec: JobSpec, description: DataDescription) -> CompletedModel:
    """A model of layers with every size filled in. Raises BuildProblem at the first that cannot take what comes in."""
    assert isinstance(spec.model, SequentialModel | GraphModel)
    rows = batch_rows(spec, description)
    short = last_batch_rows(spec, description)
    sizes = [rows] if short == rows else [rows, short]
    inputs, nodes, references = _plan(spec.model, description)
    fields = description.inputs
    values = {name: placeholder(fields[name], sizes) for name in inputs}
    walk = Walk(pooled=_pooled(nodes))
    layers, modules = walk.through(nodes, values)
    graph = Graph(inputs, modules, [layer.step() for layer in layers], references)
    outputs = _outputs(spec.model, references, values, {layer.name: layer for layer in layers})
    return CompletedModel(tuple(layers), inputs, outputs, references, graph)


def _plan(
    model: SequentialModel | GraphModel, description: DataDescription
) -> tuple[tuple[str, ...], list[Node], tuple[str, ...]]:
    """Names of the inputs, the nodes, and what the outputs are called."""
    known = list(description.inputs)
    if isinstance(model, SequentialModel):
        return _chain(model, known)
    problems = [
        SpecProblem(f"/model/inputs/{i}", "unknown_input", f"the data has no input {name!r}; it has {', '.join(known)}")
        for i, name in enumerate(model.inputs)
        if name not in known
    ]
    problems += [
        SpecProblem(f"/model/nodes/{name}", "reserved", f"torch's modules have an attribute {name!r}; call the node {name}_")
        for name in model.nodes
        if name in RESERVED
    ]
    if problems:
        raise BuildProblem(problems)
    nodes = [
        Node(name, f"node {name} ({component.type})", f"/model/nodes/{name}", component, *_taken(component, model))
        for name, component in model.nodes.items()
    ]
    return tuple(model.inputs), nodes, tuple(model.outputs)


def _chain(model: SequentialModel, known: list[str]) -> tuple[tuple[str, ...], list[Node], tuple[str, ...]]:
    """The plan of a Sequential: its one input, and beside it the lengths of that one where a layer makes a mask of them."""
    lengths = next((name for name in known if name == known[0] + LENGTHS), None)
    nodes = sequential_nodes(model.layers, "/model", known[0], lengths=lengths)
    inputs = known[:1] + ([lengths] if lengths and any(node.masks for node in nodes) else [])
    if set(known) != set(inputs):
        hint = "; a layer of attention may make its padding mask of the lengths" if lengths else ""
        detail = f"a Sequential takes one input, but the data has {', '.join(known)}; use a Graph{hint}"
        raise BuildProblem([SpecProblem("/model/type", "shape_mismatch", detail)])
    return tuple(inputs), nodes, (nodes[-1].name,)


def _taken(component: NodeComponent, model: GraphModel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a node takes, its masks last, and what those are called."""
    if isinstance(component.inputs, list):
        return tuple(component.inputs), ()
    source = model.nodes[component.arguments()["module"]] if component.type == SHARED else component
    entry = catalog().section("layers")[source.type]
    names = [name for name in entry.forward if name in component.inputs]
    return tuple(component.inputs[name] for name in names), tuple(name for name in names if name in entry.masks)


def _pooled(nodes: Sequence[Node]) -> set[str]:
    """The pooling nodes whose indices another node takes, where need be through a node that shares their module."""
    found = {reference.partition(".")[0] for node in nodes for reference in node.inputs if reference.endswith(".indices")}
    return found | {node.component.arguments().get("module", node.name) for node in nodes if node.name in found}


def _outputs(
    model: SequentialModel | GraphModel,
    references: Sequence[str],
    values: Mapping[str, Value],
    layers: Mapping[str, CompletedLayer],
) -> tuple[ModelOutput, ...]:
    found, problems = [], []
    for index, reference in enumerate(references):
        sequential = isinstance(model, SequentialModel)
        pointer = "/model/layers" if sequential else f"/model/outputs/{index}"
        value = values.get(reference)
        if value is None or value.constant or not value.is_float:
            problems.append(SpecProblem(pointer, "shape_mismatch", f"the output {reference!r} {_why_not(value)}"))
            continue
        path = tuple(leading(layers[reference.partition(".")[0]], layers))
        found.append(ModelOutput(OUTPUT if sequential else reference, pointer, value.shape[1:], path))
    if problems:
        raise BuildProblem(problems)
    return tuple(found)


def _why_not(value: Value | None) -> str:
    if value is None:
        return "is not there"
    return "is the same for every row" if value.constant else "is a mask" if value.is_mask else "holds whole numbers"


def batch_rows(spec: JobSpec, description: DataDescription) -> int:
    """Rows of a full batch. Raises BuildProblem when drop_last would leave no batch at all."""
    train = description.counts["train"]
    if spec.drop_last and train < spec.batch_size:
        detail = f"drop_last leaves no batch of {spec.batch_size}: the training part has {train} rows"
        raise BuildProblem([SpecProblem("/batch_size", "out_of_range", detail)])
    return min(spec.batch_size, train)


def last_batch_rows(spec: JobSpec, description: DataDescription) -> int:
    """Rows of an epoch's last batch, which is short unless drop_last leaves it out."""
    rest = description.counts["train"] % spec.batch_size
    return rest if rest and not spec.drop_last else batch_rows(spec, description)


class Model:
    """The module that learns, called with a batch: its inputs and outputs have names."""

    def __init__(self, module: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.module, self._inputs, self._outputs = module, tuple(inputs), tuple(outputs)

    def __call__(self, batch: Batch) -> Batch:
        """The outputs for the rows of a batch, in the order of the forward method."""
        returned = self.module(*(batch[name] for name in self._inputs))
        values = returned if isinstance(returned, tuple) else (returned,)
        return dict(zip(self._outputs, values, strict=True))


def build(completed: CompletedModel) -> Model:
    """The model on the CPU by ordinary constructors, in order. Draws its weights from torch's default generator.

    An exported program's weights are its file's: nothing is drawn.
    """
    names = [output.name for output in completed.outputs]
    if completed.brought is not None:
        return completed.brought.model(completed.inputs, names)
    owned = {layer.name: layer.construct() for layer in completed.layers if layer.has_module}
    steps = [layer.step() for layer in completed.layers]
    graph = Graph(completed.inputs, owned, steps, completed.references)
    return Model(graph, completed.inputs, names)
