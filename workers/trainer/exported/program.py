"""A program: the training graph, the eval graph, and the parameters and buffers that both use.

`read` looks at everything but the values of the weights and runs both graphs on the meta device; `Program.build` makes the
nn.Module.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workers.trainer.exported import state
from workers.trainer.exported.archive import GRAPHS, Archive
from workers.trainer.exported.arguments import DTYPES, name_of, sequence, union
from workers.trainer.exported.graph import MAX_VALUES, Graph, parse
from workers.trainer.exported.module import ExportedModule, assemble
from workers.trainer.exported.problem import UnreadableProgram
from workers.trainer.exported.run import MAX_ELEMENTS, dry_run
from workers.trainer.exported.state import Held

SCHEMA_MAJOR = 8
MAX_INPUTS = 64
INPUT_DTYPES = frozenset({torch.float32, torch.int64})
Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output. `shape` counts the batch dimension; None stands for a size that follows from the batch size."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Place:
    """What a graph's input is: a "parameter", a "buffer", a "constant" of this graph, or an "input" of the module."""

    kind: str
    name: str
    persistent: bool = True


@dataclass(frozen=True)
class Mode:
    """The module in one of its two modes. `places` says what each input of the graph is."""

    graph: Graph
    places: tuple[Place, ...]
    inputs: tuple[TensorSpec, ...]
    constants: dict[str, Held]


@dataclass(frozen=True)
class Program:
    """A file that has been read. `state` holds parameters and buffers in the order of the user's module."""

    path: Path
    modes: dict[str, Mode]  # "train" and "eval"
    state: dict[Place, Held]
    torch_version: str

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `forward` takes, in order. The first dimension is the batch."""
        return self.modes["train"].inputs

    def outputs(self, mode: str = "train") -> tuple[TensorSpec, ...]:
        """What `forward` returns in "train" or "eval" mode. Raises UnreadableProgram when it does not run with 2 and 3 rows."""
        two, three = self.run_on_meta(mode, 2), self.run_on_meta(mode, 3)
        names = [f"output_{number}" for number in range(len(two))] if len(two) > 1 else ["output"]
        return tuple(_output(*parts) for parts in zip(names, two, three, strict=True))

    def run_on_meta(self, mode: str, rows: int) -> list[Tensor]:
        """The outputs for a batch of so many rows, as meta tensors. Raises UnreadableProgram."""
        found = self.modes[mode]
        values: list[Tensor] = []
        inputs = iter(found.inputs)
        for place in found.places:
            if place.kind == "input":
                spec = next(inputs)
                shape = [rows if size is None else size for size in spec.shape]
                values.append(torch.empty(shape, dtype=spec.dtype, device="meta"))
            else:
                values.append(self.held(found, place).meta())
        return dry_run(found.graph, values)

    def held(self, mode: Mode, place: Place) -> Held:
        """The tensor of a parameter, buffer or constant."""
        return mode.constants[place.name] if place.kind == "constant" else self.state[place]

    def parameters(self) -> dict[str, int]:
        """{"total", "trainable"}: numbers in the parameters, tied ones counted once."""
        once = {held.record: held for place, held in self.state.items() if place.kind == "parameter"}.values()
        return {"total": sum(h.elements for h in once), "trainable": sum(h.elements for h in once if h.requires_grad)}

    def describe(self) -> dict[str, Any]:
        """What a preview of the file shows, in plain JSON: inputs, outputs, parameters, torch. Raises UnreadableProgram."""
        outputs = self.outputs()
        return {
            "inputs": [_plain(spec) for spec in self.inputs],
            "outputs": [_plain(spec) for spec in outputs],
            "parameters": self.parameters(),
            "torch": self.torch_version,
        }

    def build(self) -> ExportedModule:
        """The nn.Module on the CPU in training mode, with the file's weights. Draws from no generator.

        Raises UnreadableProgram when a record is damaged or a name cannot be a parameter's.
        """
        with Archive(self.path) as archive:
            held = [*self._loaded_state(archive), *self._loaded_constants(archive)]
        return assemble(held, self._graphs())

    def on_meta(self) -> ExportedModule:
        """The same module on the meta device: names and shapes without numbers, nothing read from the file."""
        shared: dict[str, Tensor] = {}
        held: list[tuple[str, Tensor, bool]] = []
        for place, one in self.state.items():
            if one.record not in shared:
                is_parameter = place.kind == "parameter"
                shared[one.record] = torch.nn.Parameter(one.meta(), one.requires_grad) if is_parameter else one.meta()
            held.append((place.name, shared[one.record], place.persistent))
        for name, mode in self.modes.items():
            constants = [place for place in mode.places if place.kind == "constant"]
            held += [(_path(name, place), mode.constants[place.name].meta(), False) for place in constants]
        return assemble(held, self._graphs())

    def _graphs(self) -> dict[str, tuple[Graph, list[str]]]:
        return {
            name: (mode.graph, [_path(name, place) for place in mode.places if place.kind != "input"])
            for name, mode in self.modes.items()
        }

    def _loaded_state(self, archive: Archive) -> Iterator[tuple[str, Tensor, bool]]:
        shared: dict[str, Tensor] = {}
        for place, held in self.state.items():
            if held.record not in shared:
                tensor = held.load(archive)
                is_parameter = place.kind == "parameter"
                shared[held.record] = torch.nn.Parameter(tensor, held.requires_grad) if is_parameter else tensor
            yield place.name, shared[held.record], place.persistent

    def _loaded_constants(self, archive: Archive) -> Iterator[tuple[str, Tensor, bool]]:
        for name, mode in self.modes.items():
            for place in mode.places:
                if place.kind == "constant":
                    yield _path(name, place), mode.constants[place.name].load(archive), False


def read(path: Path) -> Program:
    """The program in a file, its graphs tried on the meta device with 2 and 3 rows. No weights are read.

    Raises UnreadableProgram when the file is not one that `postgrad.export` makes or is not allowed here, OSError when there
    is no file.
    """
    with Archive(path) as archive:
        _check_format(archive)
        documents = {name: archive.json(f"models/{name}.json") for name in GRAPHS}
        weights = state.read(archive, "weights", "train")
        constants = {name: state.read(archive, "constants", name) for name in GRAPHS}
    versions = {_check_version(document) for document in documents.values()}
    parts = {name: _mode(document, constants[name]) for name, document in documents.items()}
    program = Program(path, parts, _state(parts, weights, constants), versions.pop())
    if [(spec.dtype, spec.shape) for spec in parts["eval"].inputs] != [(spec.dtype, spec.shape) for spec in program.inputs]:
        raise UnreadableProgram("the training graph and the eval graph take different inputs")
    program.outputs("train")
    program.outputs("eval")
    return program


def _check_format(archive: Archive) -> None:
    for record, wanted in (("archive_format", b"pt2"), ("byteorder", b"little")):
        if archive.size(record) > 100 or archive.bytes(record) != wanted:
            raise UnreadableProgram(f"its {record} is not {wanted.decode()}")


def _check_version(document: Any) -> str:
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(version, dict) or version.get("major") != SCHEMA_MAJOR:
        raise UnreadableProgram(
            f"it was written by another torch: its format is not {SCHEMA_MAJOR}.x, as torch {torch.__version__} writes"
        )
    if document.get("verifiers") != ["TRAINING"]:
        raise UnreadableProgram("it was made for inference, not for training; make it with postgrad.export")
    if document.get("guards_code") != []:
        raise UnreadableProgram("it brings code that checks its inputs, which is never run here; make it with postgrad.export")
    return str(document.get("torch_version"))[:40]


def _mode(document: Any, constants: dict[str, Held]) -> Mode:
    module = document.get("graph_module")
    signature = module.get("signature") if isinstance(module, dict) else None
    if not isinstance(module, dict) or not isinstance(signature, dict):
        raise UnreadableProgram("a graph is missing")
    graph = parse(module.get("graph"))
    specs = [union(item) for item in sequence(signature.get("input_specs"), MAX_VALUES)]
    places = tuple(_place(tag, content) for tag, content in specs)
    if [_argument_name(tag, content) for tag, content in specs] != list(graph.inputs):
        raise UnreadableProgram("the signature names other inputs than the graph")
    if any(place.kind == "input" for place in places[: len(places) - sum(p.kind == "input" for p in places)]):
        raise UnreadableProgram("the inputs of `forward` do not come after parameters and buffers")
    if any(tag != "user_output" for tag, _ in map(union, sequence(signature.get("output_specs")))):
        raise UnreadableProgram("it gives something beside the outputs of `forward`")
    used = {place.name: constants[place.name] for place in places if place.kind == "constant" and place.name in constants}
    if len(used) != sum(place.kind == "constant" for place in places):
        raise UnreadableProgram("a constant is missing")
    values = module["graph"].get("tensor_values")
    names = [name for name, place in zip(graph.inputs, places, strict=True) if place.kind == "input"]
    if not 0 < len(names) <= MAX_INPUTS or not isinstance(values, dict):
        raise UnreadableProgram(f"it takes {len(names)} inputs; 1 to {MAX_INPUTS} are allowed")
    return Mode(graph, places, tuple(_input(name, values.get(name)) for name in names), used)


PLACES = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}


def _place(tag: str, content: Any) -> Place:
    if tag == "user_input":
        return Place("input", "")
    if tag not in PLACES or not isinstance(content, dict):
        raise UnreadableProgram(f"it takes an input of the kind {tag[:40]!a}, which is not allowed")
    name = content.get(PLACES[tag])
    if not isinstance(name, str) or not 0 < len(name) <= 256 or not name.isprintable():
        raise UnreadableProgram("a parameter or buffer has no proper name")
    kind = "constant" if tag == "tensor_constant" else tag
    return Place(kind, name, content.get("persistent") is True if tag == "buffer" else kind == "parameter")


def _argument_name(tag: str, content: Any) -> str:
    argument = content.get("arg") if isinstance(content, dict) else None
    if tag != "user_input":
        return name_of(argument)
    kind, value = union(argument)
    if kind != "as_tensor":
        raise UnreadableProgram("`forward` takes something that is not a tensor")
    return name_of(value)


def _input(name: str, meta: Any) -> TensorSpec:
    dtype = meta.get("dtype") if isinstance(meta, dict) else None
    if type(dtype) is not int or DTYPES.get(dtype) not in INPUT_DTYPES:
        raise UnreadableProgram(f"its input {name[:60]!a} is neither float32 nor int64")
    sizes = [union(size) for size in sequence(meta.get("sizes"), 16)]
    if not sizes or sizes[0][0] != "as_expr":  # what the expression says does not matter, and is never looked at
        raise UnreadableProgram(f"its input {name[:60]!a} has a fixed batch size; make the file with postgrad.export")
    for tag, size in sizes[1:]:
        if tag != "as_int" or type(size) is not int or not 0 <= size <= MAX_ELEMENTS:
            raise UnreadableProgram(f"its input {name[:60]!a} has a size that is not fixed, beside the batch")
    return TensorSpec(name, DTYPES[dtype], (None, *(size for _, size in sizes[1:])))


def _state(modes: dict[str, Mode], weights: dict[str, Held], constants: dict[str, dict[str, Held]]) -> dict[Place, Held]:
    """Parameters and buffers in the order in which the file lists the weights, then buffers that are not persistent."""
    order = {name: number for number, name in enumerate(weights)}
    places = {place for mode in modes.values() for place in mode.places if place.kind in ("parameter", "buffer")}
    found: dict[Place, Held] = {}
    for place in sorted(places, key=lambda place: (order.get(place.name, len(order)), place.name)):
        held = weights.get(place.name) if place.persistent else constants["train"].get(place.name)
        if held is None:
            raise UnreadableProgram(f"the file has no values for {place.name[:80]!a}")
        if held.requires_grad and place.kind == "buffer":
            raise UnreadableProgram(f"the buffer {place.name[:80]!a} asks for gradients")
        if place.kind == "parameter" and held.dtype != torch.float32:
            raise UnreadableProgram(f"the parameter {place.name[:80]!a} is {held.dtype}; parameters are float32 here")
        found[place] = held
    _check_shared(found)
    if {place.name for place in found} != {
        place.name for place in modes["train"].places if place.kind in ("parameter", "buffer")
    }:
        raise UnreadableProgram("the eval graph uses parameters or buffers that the training graph does not have")
    return found


def _check_shared(found: dict[Place, Held]) -> None:
    """Two names with one record are one tensor, so they must agree on all but the name."""
    seen: dict[str, tuple[str, Held]] = {}
    for place, held in found.items():
        if seen.setdefault(held.record, (place.kind, held)) != (place.kind, held):
            raise UnreadableProgram(f"{place.name[:80]!a} shares its memory with a tensor of another kind or shape")


def _path(mode: str, place: Place) -> str:
    """The dotted name under which the module holds what is at a place; a constant has one that no user's tensor has."""
    constant = place.name.replace("_", "__").replace(".", "_")
    return f"_exported_constants.{mode}_{constant}" if place.kind == "constant" else place.name


def _output(name: str, two: Tensor, three: Tensor) -> TensorSpec:
    if two.dim() != three.dim() or two.dtype != three.dtype:
        raise UnreadableProgram("an output changes its dtype or number of dimensions with the batch size")
    shape = tuple(a if a == b else None for a, b in zip(two.shape, three.shape, strict=True))
    return TensorSpec(name, two.dtype, shape)


def _plain(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": str(spec.dtype).removeprefix("torch."), "shape": list(spec.shape)}
