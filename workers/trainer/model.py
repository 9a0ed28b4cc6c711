"""Step 2, the model: layers by name become modules, every size that follows from the data filled in.

`complete` walks the layers on the meta device, where nothing is computed and no memory is taken; `build` then calls the
ordinary constructors on the CPU, in order (rule 4 of "What `seed` means").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jobs.catalog import catalog
from jobs.spec import Component, JobSpec, SpecProblem
from workers.trainer.data import INPUT, Batch, DataDescription
from workers.trainer.objective import OUTPUT

MAX_PARAMETERS = 200_000_000  # 0.8 GB of float32, four times that with Adam's state and the gradients
MAX_ACTIVATIONS = 500_000_000  # elements of one layer's output for one batch
MAX_DIMENSIONS = 16  # torch's kernels take up to 64, the meta device any number

Shape = tuple[int, ...]


class BuildProblem(Exception):
    """The model cannot be built; `problems` names the layers."""

    def __init__(self, problems: list[SpecProblem]) -> None:
        super().__init__("; ".join(p.detail for p in problems))
        self.problems = problems


@dataclass(frozen=True)
class CompletedLayer:
    """One layer with all sizes filled in. `live` holds its arguments as read back from the module that was built."""

    type: str
    arguments: dict[str, Any]
    inferred: frozenset[str]
    live: dict[str, Any]
    output_shape: Shape  # of one row, without the batch dimension
    parameters: int


def complete(spec: JobSpec, description: DataDescription) -> list[CompletedLayer]:
    """The layers with every size filled in. Raises BuildProblem at the first layer that cannot follow the one before."""
    rows = batch_rows(spec, description)
    short = last_batch_rows(spec, description)
    values = [
        torch.empty((r, *description.inputs[INPUT].shape), device="meta") for r in ([rows] if short == rows else [rows, short])
    ]
    layers: list[CompletedLayer] = []
    total = 0
    for index, component in enumerate(spec.model.layers):
        where = _Place(index, component, tuple(values[0].shape))
        arguments, inferred = fill(component, where)
        module = where.construct(arguments)
        values = [where.forward(module, value, value is not values[0]) for value in values]
        parameters = sum(p.numel() for p in module.parameters())
        total += parameters
        if total > MAX_PARAMETERS:
            raise where.problem("", "out_of_range", f"the model has over {MAX_PARAMETERS:,} parameters with this layer")
        live = read_back(component, arguments, module)
        output = tuple(values[0].shape[1:])
        layers.append(CompletedLayer(component.type, arguments, inferred, live, output, parameters))
    return layers


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


def build(layers: Iterable[CompletedLayer]) -> Model:
    """The model on the CPU by ordinary constructors, in order. Draws its weights from torch's default generator."""
    module = nn.Sequential(*(construct(layer.type, layer.arguments) for layer in layers))
    return Model(module, [INPUT], [OUTPUT])


def construct(name: str, arguments: dict[str, Any]) -> nn.Module:
    """One layer of torch.nn; lists become tuples, as torch writes sizes. Raises whatever the constructor raises."""
    module: nn.Module = getattr(nn, name)(**{k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()})
    return module


# ---- sizes that follow from the layer before

# Argument, the dimension it equals (batch dimension counted), and how many dimensions the input must have (0: any).
FOLLOWS: dict[str, tuple[str, int, int]] = {
    "Linear": ("in_features", -1, 0),
    **{f"Conv{d}d": ("in_channels", 1, d + 2) for d in (1, 2, 3)},
    **{f"ConvTranspose{d}d": ("in_channels", 1, d + 2) for d in (1, 2, 3)},
    "BatchNorm1d": ("num_features", 1, 0),
    **{f"BatchNorm{d}d": ("num_features", 1, d + 2) for d in (2, 3)},
    **{f"InstanceNorm{d}d": ("num_features", 1, d + 2) for d in (1, 2, 3)},
    "GroupNorm": ("num_channels", 1, 0),
}
WHOLE_SHAPE = frozenset({"LayerNorm", "RMSNorm"})


def fill(component: Component, where: _Place) -> tuple[dict[str, Any], frozenset[str]]:
    """The arguments with inferred sizes added, and which were. Raises BuildProblem when a given size does not fit."""
    arguments = component.arguments()
    if component.type in WHOLE_SHAPE:
        return _fill_shape(arguments, where)
    if component.type not in FOLLOWS:
        return arguments, frozenset()
    argument, dimension, dimensions = FOLLOWS[component.type]
    if (dimensions and len(where.shape) != dimensions) or len(where.shape) < 2:
        wanted = f"{dimensions} dimensions" if dimensions else "at least 2 dimensions"
        raise where.problem("", "shape_mismatch", f"{where.gets}, but it wants {wanted}, the batch counted")
    size = where.shape[dimension]
    given = arguments.get(argument)
    if given is None:
        return _in_order(component, {**arguments, argument: size}), frozenset({argument})
    if given != size:
        raise where.problem(f"/{argument}", "shape_mismatch", f"{where.gets}, so {argument} is {size}, not {given}")
    return arguments, frozenset()


def _fill_shape(arguments: dict[str, Any], where: _Place) -> tuple[dict[str, Any], frozenset[str]]:
    given = arguments.get("normalized_shape")
    if given is None:
        return {"normalized_shape": list(where.shape[1:]), **arguments}, frozenset({"normalized_shape"})
    shape = tuple(given) if isinstance(given, list) else (given,)
    if not shape or where.shape[-len(shape) :] != shape:
        detail = f"{where.gets}, so normalized_shape is {list(where.shape[1:])} or its end, not {str(given)[:60]}"
        raise where.problem("/normalized_shape", "shape_mismatch", detail)
    return arguments, frozenset()


def _in_order(component: Component, arguments: dict[str, Any]) -> dict[str, Any]:
    known = catalog().section("layers")[component.type].arguments
    return {name: arguments[name] for name in known if name in arguments}


def read_back(component: Component, arguments: dict[str, Any], module: nn.Module) -> dict[str, Any]:
    """Every argument's value as the live module has it; what a module does not keep is what its constructor was given."""
    found = {}
    for name, argument in catalog().section("layers")[component.type].arguments.items():
        if argument.refused is not None:
            continue
        value = getattr(module, name, arguments.get(name, argument.default))
        # `bias=True` becomes a parameter called bias, `bias=False` the attribute None.
        if (name in arguments and isinstance(arguments[name], bool)) or isinstance(argument.default, bool):
            value = value is not None and value is not False
        found[name] = value
    return found


class _Place:
    """A layer in its place: what comes in, and how its errors are told."""

    def __init__(self, index: int, component: Component, shape: Shape) -> None:
        self.index, self.component, self.shape = index, component, shape
        self.name = f"layer {index} ({component.type})"

    @property
    def gets(self) -> str:
        return f"{self.name} gets input of shape {_written(self.shape)}"

    def problem(self, member: str, code: str, detail: str) -> BuildProblem:
        return BuildProblem([SpecProblem(f"/model/layers/{self.index}{member}", code, detail)])

    def construct(self, arguments: dict[str, Any]) -> nn.Module:
        try:
            with torch.device("meta"):
                return construct(self.component.type, arguments)
        except Exception as error:
            text = _first_line(error)
            named = next((n for n in self.component.arguments() if re.search(rf"\b{re.escape(n)}\b", text)), None)
            member = f"/{named}" if named else ""
            raise self.problem(member, "invalid_argument", f"{self.name} cannot be built: {text}") from error

    def forward(self, module: nn.Module, value: Tensor, short: bool) -> Tensor:
        dim = self.component.arguments().get("dim")
        if dim is not None and not -value.dim() <= dim < value.dim():  # a softmax does not look at it on the meta device
            raise self.problem("/dim", "out_of_range", f"{self.gets}, which has no dimension {dim}")
        try:
            with torch.no_grad():
                output = module(value)
        except Exception as error:
            if short or "more than 1 value per channel" in str(error):
                detail = (
                    f"{self.name} cannot take a batch of {len(value)} row(s), as the last one is ({_first_line(error)}); "
                    "set drop_last to leave it out, or choose another batch_size"
                )
                raise BuildProblem([SpecProblem("/batch_size", "out_of_range", detail)]) from error
            raise self.problem("", "shape_mismatch", f"{self.gets}, which it cannot take: {_first_line(error)}") from error
        if not isinstance(output, Tensor) or output.dim() < 1 or len(output) != len(value):
            raise self.problem("", "shape_mismatch", f"{self.gets} and does not keep the batch as its first dimension")
        if output.numel() == 0 or output.dim() > MAX_DIMENSIONS:
            gives = "nothing: its output" if output.numel() == 0 else f"over {MAX_DIMENSIONS} dimensions: its output"
            raise self.problem(
                "", "out_of_range", f"{self.gets} and gives {gives} has shape {_written(tuple(output.shape))[:200]}"
            )
        if output.numel() > MAX_ACTIVATIONS:
            raise self.problem(
                "", "out_of_range", f"{self.name} gives {output.numel():,} numbers a batch; the limit is {MAX_ACTIVATIONS:,}"
            )
        return output


def _written(shape: Shape) -> str:
    return "(" + ", ".join(["n", *map(str, shape[1:])]) + ")"


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
