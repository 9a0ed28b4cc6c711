"""Step 2 of a spec: the model, layer by layer or as a graph of named nodes, and what its weights start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Discriminator, Field, StringConstraints, Tag

from jobs.arguments import SpecProblem, check_component, check_layers
from jobs.catalog import MAX_LAYERS, Entry, catalog
from jobs.components import (
    ClassName,
    Component,
    Kwargs,
    LayerComponent,
    OneOrMore,
    Strict,
    long_component,
    own_members,
)
from jobs.graph_spec import MAX_NAMES, NAME, REFERENCE, check_graph
from jobs.pointers import LISTED, NAMED

MAX_INITIALIZERS = 100
NESTED = ("encoder_layer", "decoder_layer", "norm")  # arguments that are a layer themselves

Pattern: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Patterns: TypeAlias = Annotated[list[Pattern], Field(min_length=1, max_length=MAX_INITIALIZERS), OneOrMore()]
Name: TypeAlias = Annotated[str, StringConstraints(pattern=NAME, max_length=64)]
FileId: TypeAlias = Annotated[str, StringConstraints(pattern=r"^file_[0-9a-f]{24}$")]
Reference: TypeAlias = Annotated[str, StringConstraints(pattern=REFERENCE, max_length=80)]


def _form(inputs: Any) -> str:
    return NAMED if isinstance(inputs, dict) else LISTED


NodeInputs: TypeAlias = Annotated[
    Annotated[list[Reference], Field(max_length=MAX_NAMES), Tag(LISTED)]
    | Annotated[dict[str, Reference], Field(max_length=MAX_NAMES), Tag(NAMED)],
    Discriminator(_form),
]


class Initializer(Component):
    """A function of torch.nn.init for the parameters that `params` mean, patterns as in a shell: `encoder`, `*.weight`."""

    section = "initializers"
    params: Patterns


class InitFrom(Strict):
    """Weights of another job, by the names in its state_dict: all of them, or those that match `params`.

    `strict`: no name may be missing on either side; otherwise what both have is taken. The server notes the artifact's digest
    in `sha256`; when it is given, the artifact must have it.
    """

    job: Annotated[str, StringConstraints(pattern=r"^job_[0-9a-z]{26}$")]
    artifact: Literal["model.safetensors", "model.best.safetensors"] = "model.safetensors"
    params: Patterns | None = None
    strict: bool = True
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None


class _Model(Strict):
    initializers: Annotated[list[Initializer], Field(max_length=MAX_INITIALIZERS)] = []
    init_from: InitFrom | None = None


class SequentialModel(_Model):
    """One layer after the other."""

    type: Literal["Sequential"]
    layers: Annotated[list[LayerComponent], Field(min_length=1, max_length=MAX_LAYERS)]


class NodeComponent(Component):
    """A layer of torch.nn or an operation between tensors, and the inputs or earlier nodes that it takes.

    `encoder` is a node's output; `lstm.hidden`, `pool.indices` or `pieces.0` is what else a node gives. A layer that takes
    masks may have its `inputs` by the names of torch's forward: {"src": "words", "src_key_padding_mask": "mask"}.
    """

    section = "layers"
    inputs: NodeInputs = []

    @classmethod
    def schema_of(cls, entry: Entry) -> dict[str, Any]:
        schema = super().schema_of(entry)
        schema["required"] += ["inputs"] if entry.inputs[0] else []
        return schema

    @classmethod
    def any_schema(cls) -> dict[str, Any]:
        return {"anyOf": [cls.schema_of(entry) for entry in cls.entries()]}

    @classmethod
    def own_schemas(cls, entry: Entry) -> dict[str, Any]:
        least, most = entry.inputs
        name = {"type": "string", "pattern": REFERENCE, "maxLength": 80}
        listed = {"type": "array", "items": name, "minItems": least, "maxItems": most}
        if not entry.forward:
            return {"inputs": listed} if most else {}
        named = {"type": "object", "properties": dict.fromkeys(entry.forward, name), "additionalProperties": False}
        return {"inputs": {"anyOf": [listed, {**named, "required": list(entry.forward[:least])}]}}

    @classmethod
    def entries(cls) -> list[Entry]:
        return [*super().entries(), *catalog().section("operations").values()]


class GraphModel(_Model):
    """Named nodes in the order in which they are built and run. The outputs are named by their nodes."""

    type: Literal["Graph"]
    inputs: Annotated[list[Name], Field(min_length=1, max_length=MAX_NAMES)]
    nodes: Annotated[dict[Name, NodeComponent], Field(min_length=1, max_length=MAX_LAYERS)]
    outputs: Annotated[list[Reference], Field(min_length=1, max_length=MAX_NAMES)]


class ExportedModel(_Model):
    """A module that `postgrad.export` wrote to a file, uploaded to /v1/files. Its weights are the file's (docs/exported.md)."""

    type: Literal["exported"]
    id: FileId


class PythonModel(_Model):
    """A class that inherits nn.Module, in a source file that was uploaded to /v1/files, built with `kwargs`.

    Only where the operator has set POSTGRAD_ALLOW_PYTHON=1 (docs/python.md).
    """

    type: Literal["python"]
    id: FileId
    class_name: ClassName = Field(alias="class")
    kwargs: Kwargs = {}


ModelSpec: TypeAlias = SequentialModel | GraphModel | ExportedModel | PythonModel
# Models that need the sandbox profile strict: what runs is the user's, not ours.
BROUGHT = (ExportedModel, PythonModel)

# Which fields an object may have, by its pointer.
MODELS_BY_POINTER: Mapping[str, Sequence[type[BaseModel]]] = {
    "/model": [SequentialModel, GraphModel, ExportedModel, PythonModel],
    "/model/init_from": [InitFrom],
}


# ---- short forms


def long_model(model: Any) -> Any:
    """The model with short forms written long."""
    if not isinstance(model, dict):
        return model
    long = dict(model)
    if isinstance(long.get("layers"), list):
        long["layers"] = [_long_layer(layer) for layer in long["layers"]]
    if isinstance(long.get("nodes"), dict):
        long["nodes"] = {name: _long_layer(node) for name, node in long["nodes"].items()}
    if isinstance(long.get("initializers"), list):
        long["initializers"] = [_long_patterns(initializer) for initializer in long["initializers"]]
    if "init_from" in long:
        long["init_from"] = _long_patterns(long["init_from"])
    return long


def _long_layer(layer: Any) -> Any:
    long = long_component(layer)
    if not isinstance(long, dict):
        return long
    found = {name: _long_layer(value) if name in NESTED else value for name, value in long.items()}
    if isinstance(found.get("layers"), list):
        found["layers"] = [_long_layer(inner) for inner in found["layers"]]
    return found


def _long_patterns(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(value.get("params"), str):
        return {**value, "params": [value["params"]]}
    return value


# ---- what is wrong with it


def check_model(model: Any) -> Iterator[SpecProblem]:
    """Every problem with the arguments of a long-form model's layers, nodes and initialisers."""
    if not isinstance(model, dict):
        return
    if model.get("type") == "Graph":
        yield from check_graph(model)
    elif isinstance(model.get("layers"), list) and model["layers"]:
        yield from check_layers(model["layers"], "/model/layers")
    initializers = model.get("initializers")
    for index, initializer in enumerate(initializers[:MAX_INITIALIZERS] if isinstance(initializers, list) else []):
        yield from check_component("initializers", initializer, f"/model/initializers/{index}", own_members(Initializer))
