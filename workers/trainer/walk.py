"""Walks through a model's nodes on the meta device, where nothing is computed and no memory is taken: fills sizes in, finds out
shapes, and keeps to the limits."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from jobs.catalog import catalog
from jobs.graph_spec import PARAMETER, SHARED
from jobs.spec import Component, SpecProblem
from jobs.supplement import MASKS
from workers.trainer import kernels, masks
from workers.trainer.calls import call_of, reach
from workers.trainer.graph import Graph, Owned, Step
from workers.trainer.layers import construct, construct_on_meta, fill, read_back
from workers.trainer.operations import FLOATS, FUNCTIONS, TAKES_INTEGERS, Misfit, check
from workers.trainer.place import BuildProblem, Node, Place, Shape, Value, first_line, plain, written

MAX_PARAMETERS = 200_000_000  # 0.8 GB of float32, four times that with Adam's state and the gradients
MAX_ACTIVATIONS = 500_000_000  # elements of one layer's output for one batch
MAX_DIMENSIONS = 16  # torch's kernels take up to 64, the meta device any number
MAX_MODULES = 1000  # each takes the checker a millisecond or two
INNER_INPUT = "input"  # of a Sequential inside another model


@dataclass(frozen=True)
class CompletedLayer:
    """One layer or node with all sizes filled in. `live` holds its arguments as read back from the module that was built."""

    name: str
    pointer: str
    type: str
    arguments: dict[str, Any]
    inferred: frozenset[str]
    live: dict[str, Any]
    output_shape: Shape  # of one row, without the batch dimension
    parameters: int
    inputs: tuple[str, ...]
    masks: tuple[str, ...] = ()  # what the last of its inputs are
    layers: tuple[CompletedLayer, ...] = ()  # of a Sequential
    shared: CompletedLayer | None = None  # whose module it calls, where that is not its own

    def construct(self) -> nn.Module | nn.Parameter:
        """The module, by ordinary constructors. Draws its weights from torch's default generator; a Parameter draws none."""
        if self.type == PARAMETER:
            return nn.Parameter(torch.zeros(self.arguments["shape"]))
        if self.type == "Sequential":
            return sequence(self.layers, {layer.name: layer.construct() for layer in self.layers})
        return construct(self.type, self.arguments)

    @property
    def has_module(self) -> bool:
        """Whether it has a module, or is a parameter, of its own."""
        return self.shared is None and self.type not in FUNCTIONS

    def step(self) -> Step:
        """How it is run."""
        source = self.shared or self
        if self.type == PARAMETER:
            return Step(self.name, _itself, (), (), self.name)
        if source.type in FUNCTIONS:
            arguments = {k: plain(v) for k, v in self.arguments.items()}
            call, module = functools.partial(FUNCTIONS[self.type], **arguments), None
            extras = catalog().section("operations")[self.type].outputs
            return Step(self.name, call, self.inputs, tuple(f"{self.name}.{e}" for e in extras), module)
        extras = catalog().section("layers")[source.type].outputs
        outputs = (self.name, *(f"{self.name}.{extra}" for extra in extras))
        return Step(self.name, call_of(source.type, source.arguments, self.masks), self.inputs, outputs, source.name)


def _itself(parameter: nn.Parameter) -> Tensor:
    return parameter


def sequence(layers: Sequence[CompletedLayer], owned: Owned) -> Graph:
    """A Sequential inside another model."""
    return Graph([INNER_INPUT], owned, [layer.step() for layer in layers], [layers[-1].name])


def sequential_nodes(
    layers: Sequence[Component], pointer: str, start: str, within: str = "", lengths: str | None = None
) -> list[Node]:
    """The layers of a Sequential, each taking what the one before gives, the first of them `start`; and the input `lengths`
    where it makes its mask of them. Raises BuildProblem where there are none.
    """
    inputs = [start, *map(str, range(len(layers) - 1))]
    found = []
    for index, layer in enumerate(layers):
        made = tuple(m for m in MASKS.get(layer.type, ()) if layer.arguments().get(m) is not None)
        node = Node(str(index), f"layer {index} ({layer.type}){within}", f"{pointer}/layers/{index}", layer, (inputs[index],))
        if made and lengths is None:
            detail = (
                f"{node.title} has no lengths for its mask: they come with sequences, for a Sequential that is the whole "
                "model; in a Graph a node's inputs name its mask"
            )
            raise BuildProblem([SpecProblem(f"{node.pointer}/{made[0]}", "not_supported", detail)])
        found.append(replace(node, inputs=(*node.inputs, *(str(lengths) for _ in made)), masks=made))
    return found


@dataclass
class Walk:
    """One pass through a model. `modules` and `parameters` count what has been built so far."""

    modules: int = 0
    parameters: int = 0
    pooled: set[str] = field(default_factory=set)  # pooling nodes whose indices another node takes

    def through(
        self, nodes: Sequence[Node], values: dict[str, Value], built: Mapping[str, nn.Module] | None = None
    ) -> tuple[list[CompletedLayer], Owned]:
        """The nodes completed, and their modules and parameters; `values` gains what each gives. `built` are modules that are
        called again.

        Raises BuildProblem at the first node that cannot take what comes in.
        """
        done: dict[str, CompletedLayer] = {}
        modules: dict[str, nn.Module] = dict(built or {})
        parameters: dict[str, nn.Parameter] = {}
        for node in nodes:
            place = Place(node, [self._value(values, node, i) for i in range(len(node.inputs))])
            kind = node.component.type
            if kind in FUNCTIONS:
                done[node.name] = self._operation(place, values)
            elif kind == PARAMETER:
                done[node.name] = self._parameter(place, values, parameters)
            elif kind == SHARED:
                done[node.name] = self._shared(place, values, done, modules)
            else:
                done[node.name] = self._layer(place, values, modules)
        return list(done.values()), {**modules, **parameters}

    @staticmethod
    def _value(values: dict[str, Value], node: Node, index: int) -> Value:
        name = node.inputs[index]
        if name in values:
            return values[name]
        pieces = [known for known in values if known.startswith(f"{name.partition('.')[0]}.")]
        detail = f"{node.title} takes {name!r}, which is not there; name one of {', '.join(pieces)}"
        raise BuildProblem([SpecProblem(f"{node.pointer}/inputs/{index}", "unknown_node", detail)])

    # ---- the four kinds of node

    def _operation(self, place: Place, values: dict[str, Value]) -> CompletedLayer:
        name, arguments = place.component.type, place.component.arguments()
        if name not in TAKES_INTEGERS and not all(value.is_float for value in place.values[: FLOATS.get(name)]):
            raise place.misfit(place.not_numbers)
        masks.check_operation(name, place, arguments)
        try:
            check(name, arguments, [value.shape for value in place.values])
        except Misfit as misfit:
            member = f"/{misfit.member}" if misfit.member in arguments else ""
            raise place.misfit(str(misfit), member) from misfit
        layer = self._completed(place, arguments, frozenset(), None)
        return self._run(layer, place, None, values)

    def _parameter(self, place: Place, values: dict[str, Value], parameters: dict[str, nn.Parameter]) -> CompletedLayer:
        """Numbers that are learned: a value that is the same for every row."""
        shape = place.component.arguments()["shape"]
        if shape[0] != 1 or len(shape) > MAX_DIMENSIONS:
            detail = f"{place.node.title}'s shape begins with 1, the place of the batch, and has up to {MAX_DIMENSIONS} members"
            raise place.problem("/shape", "out_of_range", detail)
        self._count_numbers(place, math.prod(shape))
        parameter = parameters[place.node.name] = nn.Parameter(torch.empty(shape, device="meta"))
        values[place.node.name] = Value((parameter.detach(),), constant=True)
        layer = self._completed(place, {"shape": shape}, frozenset(), None)
        return replace(layer, output_shape=tuple(shape[1:]), parameters=parameter.numel())

    def _shared(
        self, place: Place, values: dict[str, Value], done: Mapping[str, CompletedLayer], modules: Mapping[str, nn.Module]
    ) -> CompletedLayer:
        target = done[place.component.arguments()["module"]]
        module = modules[target.name]
        if target.layers:
            inner = Node(place.node.name, place.node.title, target.pointer, _component(target), place.node.inputs)
            self._inside(Place(inner, place.values), module)
        masks.check(target.type, place, {})
        layer = CompletedLayer(
            place.node.name, place.node.pointer, SHARED, {}, frozenset(), {"module": target.name}, (), 0, place.node.inputs,
            place.node.masks, target.layers, target,
        )  # fmt: skip
        return self._run(layer, place, module, values)

    def _layer(self, place: Place, values: dict[str, Value], modules: dict[str, nn.Module]) -> CompletedLayer:
        name = place.node.name
        if place.component.type == "Sequential":
            layers, inner = self._inside(place, modules.get(name))
            layer = self._completed(place, {}, frozenset(), None, tuple(layers))
            module: nn.Module = modules.setdefault(name, sequence(layers, inner))
        else:
            arguments, inferred = fill(place)
            masks.check(place.component.type, place, arguments)
            if name in self.pooled:
                arguments["return_indices"] = True
            known = modules.get(name)
            module = construct_on_meta(place, arguments) if known is None else known
            modules[name] = module
            if known is None:
                self._count(place, module)
            kernels.check(place, arguments)
            layer = self._completed(place, arguments, inferred, module)
        return self._run(layer, place, module, values)

    def _inside(self, place: Place, built: nn.Module | None) -> tuple[list[CompletedLayer], Owned]:
        """The layers of a Sequential that is itself a layer or node."""
        given = place.component.arguments()["layers"]
        layers = [Component.model_validate(layer) for layer in given]
        nodes = sequential_nodes(layers, place.node.pointer, INNER_INPUT, f" of {place.node.title}")
        children = None if built is None else dict(built.named_children())
        return self.through(nodes, {INNER_INPUT: place.values[0]}, children)

    def _count(self, place: Place, module: nn.Module) -> None:
        self._count_numbers(place, sum(p.numel() for p in module.parameters()))
        self.modules += sum(1 for _ in module.modules())
        if self.modules > MAX_MODULES:
            raise place.problem("", "out_of_range", f"the model is made of over {MAX_MODULES:,} modules with this layer")

    def _count_numbers(self, place: Place, numbers: int) -> None:
        self.parameters += numbers
        if self.parameters > MAX_PARAMETERS:
            raise place.problem("", "out_of_range", f"the model has over {MAX_PARAMETERS:,} parameters with this layer")

    @staticmethod
    def _completed(
        place: Place,
        arguments: dict[str, Any],
        inferred: frozenset[str],
        module: nn.Module | None,
        layers: tuple[CompletedLayer, ...] = (),
    ) -> CompletedLayer:
        kind, node = place.component.type, place.node
        parameters = sum(layer.parameters for layer in layers)
        if module is not None:
            parameters = sum(p.numel() for p in module.parameters())
        live = read_back(kind, arguments, module)
        return CompletedLayer(
            node.name, node.pointer, kind, arguments, inferred, live, (), parameters, node.inputs, node.masks, layers
        )

    # ---- running one

    def _run(self, layer: CompletedLayer, place: Place, module: nn.Module | None, values: dict[str, Value]) -> CompletedLayer:
        """The layer with its output's shape; `values` gains what it gives."""
        step = layer.step()
        runs = range(max(len(value.tensors) for value in place.taken))
        given = [self._call(place, layer, step, module, [_at(value, i) for value in place.taken], i > 0) for i in runs]
        for index, name in enumerate(step.outputs[: len(given[0])] or [layer.name]):
            tensors = tuple(run[index] for run in given)
            values[name] = _described(Value(tensors, indices=name.endswith(".indices")), layer, place)
            self._check_output(place, values[name], first=index == 0)
        shape = tuple(given[0][0].shape[1:])
        return CompletedLayer(**{**vars(layer), "output_shape": shape})

    def _call(
        self, place: Place, layer: CompletedLayer, step: Step, module: nn.Module | None, inputs: list[Tensor], short: bool
    ) -> tuple[Tensor, ...]:
        dim = layer.arguments.get("dim")
        if module is not None and isinstance(dim, int) and not -inputs[0].dim() <= dim < inputs[0].dim():
            # a softmax does not look at it on the meta device
            raise place.problem("/dim", "out_of_range", f"{place.gets}, which has no dimension {dim}")
        kind = layer.type if layer.shared is None else layer.shared.type
        try:
            with torch.no_grad():
                output = step.call(*inputs) if module is None else step.call(module, *inputs)
            if module is not None and reach(kind, module, tuple(inputs[: len(place.values)])) > MAX_ACTIVATIONS:
                raise ValueError(f"inside it a tensor has over {MAX_ACTIVATIONS:,} numbers a batch")
        except Exception as error:
            if short or "more than 1 value per channel" in str(error):
                detail = (
                    f"{place.node.title} cannot take a batch of {len(inputs[0])} row(s), as the last one is "
                    f"({first_line(error)}); set drop_last to leave it out, or choose another batch_size"
                )
                raise BuildProblem([SpecProblem("/batch_size", "out_of_range", detail)]) from error
            raise place.misfit(f"which it cannot take: {first_line(error)}") from error
        return output if isinstance(output, tuple) else (output,)

    @staticmethod
    def _check_output(place: Place, value: Value, *, first: bool) -> None:
        for index, output in enumerate(value.tensors):
            rows = 1 if value.constant else max(len(v.tensors[min(index, len(v.tensors) - 1)]) for v in place.values)
            if not isinstance(output, Tensor) or output.dim() < 1 or len(output) != rows:
                raise place.problem("", "shape_mismatch", f"{place.gets} and does not keep the batch as its first dimension")
            if output.numel() == 0 or output.dim() > MAX_DIMENSIONS:
                gives = "nothing: its output" if output.numel() == 0 else f"over {MAX_DIMENSIONS} dimensions: its output"
                shape = written(tuple(output.shape))[:200]
                raise place.problem("", "out_of_range", f"{place.gets} and gives {gives} has shape {shape}")
            if first and output.numel() > MAX_ACTIVATIONS:
                detail = f"{place.node.title} gives {output.numel():,} numbers a batch; the limit is {MAX_ACTIVATIONS:,}"
                raise place.problem("", "out_of_range", detail)


def _component(layer: CompletedLayer) -> Component:
    """A Sequential as the spec had it, for walking through it once more."""
    layers = [_body(inner) for inner in layer.layers]
    return Component.model_validate({"type": layer.type, "layers": layers})


def _body(layer: CompletedLayer) -> dict[str, Any]:
    inner = {"layers": [_body(part) for part in layer.layers]} if layer.layers else {}
    return {"type": layer.type, **layer.arguments, **inner}


def _at(value: Value, run: int) -> Tensor:
    return value.tensors[min(run, len(value.tensors) - 1)]


def _described(value: Value, layer: CompletedLayer, place: Place) -> Value:
    """An output with what is known of its numbers."""
    constant = all(taken.constant for taken in place.taken) or layer.type == "positions"
    if value.is_mask:
        return replace(value, constant=constant, hides_rows=masks.hides_rows(layer.type, place, layer.arguments))
    if value.indices or value.is_float:
        return replace(value, constant=constant)
    moved = place.values[:1] if layer.type in {"expand", "expand_as"} else place.values
    if layer.type == "positions":
        dim = place.component.arguments().get("dim", 1)
        return replace(value, constant=constant, integers=place.shape[dim], least=0)
    return replace(value, constant=constant, integers=_integers(moved), least=masks.least(moved))


def _integers(values: Sequence[Value]) -> int | None:
    """How many different whole numbers come out of an operation that only moves them about."""
    known = [value.integers for value in values]
    return None if None in known else max(n for n in known if n is not None)


def leading(layer: CompletedLayer, layers: Mapping[str, CompletedLayer]) -> Iterator[CompletedLayer]:
    """The layers that lead to a layer's output, the nearest first, up to where several inputs meet."""
    at: CompletedLayer | None = layer
    while at is not None:
        source = at.shared or at
        yield from _unfolded(source) if source.layers else [source]
        at = layers.get(at.inputs[0].partition(".")[0]) if len(at.inputs) - len(at.masks) == 1 else None


def _unfolded(layer: CompletedLayer) -> Iterator[CompletedLayer]:
    for inner in reversed(layer.layers):
        yield from _unfolded(inner) if inner.layers else [inner]
