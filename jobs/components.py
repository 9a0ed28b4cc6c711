"""The smallest parts of a spec: strict objects, and classes of torch by name with the keyword arguments that were given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, StringConstraints, create_model

from jobs.catalog import Entry, catalog

JSON: TypeAlias = Any
# A class in a user's own source, and what it is built with.
ClassName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[^\W\d]\w*$", max_length=200)]
Kwargs: TypeAlias = Annotated[dict[str, JSON], Field(max_length=256)]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class OneOrMore:
    """The schema of a list that may be written as its only member; `parse` makes a list of it."""

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        several = handler(core_schema)
        return {"anyOf": [several["items"], several]}


class TypeAlone:
    """The schema of an object that may be written as its `type` where nothing else is said; `parse` makes the object."""

    def __init__(self, *types: str) -> None:
        self._types = types

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "enum": list(self._types)}, handler(core_schema)]}


class Component(BaseModel):
    """A class of torch (or torchmetrics) by name, and the keyword arguments that were given."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)
    section: ClassVar[str]

    type: str

    def arguments(self) -> dict[str, JSON]:
        """The given keyword arguments, under torch's names."""
        return dict(self.model_extra or {})

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return cls.any_schema()

    @classmethod
    def any_schema(cls) -> dict[str, Any]:
        """JSON Schema of any of `entries`, and of a bare name where a class needs nothing more."""
        entries, needed = cls.entries(), any(f.is_required() for n, f in cls.model_fields.items() if n != "type")
        short = [] if needed else [e.name for e in entries if not e.missing({})]
        return {"anyOf": [*([{"type": "string", "enum": short}] if short else []), *(cls.schema_of(e) for e in entries)]}

    @classmethod
    def schema_of(cls, entry: Entry) -> dict[str, Any]:
        """JSON Schema of one class in its long form: torch's arguments and postgrad's own members."""
        schema, own = entry.json_schema(), cls.own_schemas(entry)
        schema["properties"] |= own
        schema["required"] += [name for name in own if cls.model_fields[name].is_required()]
        return schema

    @classmethod
    def own_schemas(cls, entry: Entry) -> dict[str, Any]:  # noqa: ARG003  some kinds look at it
        """JSON Schemas of postgrad's own members that this class takes."""
        return field_schemas(cls, frozenset(cls.model_fields) - {"type"})

    @classmethod
    def entries(cls) -> list[Entry]:
        """What `type` may name."""
        return [e for e in catalog().section(cls.section).values() if e.refused is None]


def field_schemas(kind: type[BaseModel], names: frozenset[str]) -> dict[str, Any]:
    """JSON Schemas of some fields of a model."""
    if not names:
        return {}
    fields: dict[str, Any] = {n: (field.annotation, field) for n, field in kind.model_fields.items() if n in names}
    found: dict[str, Any] = create_model("Fields", **fields).model_json_schema()["properties"]
    return {name: {key: value for key, value in schema.items() if key != "title"} for name, schema in found.items()}


def _inputs_schema(names: Sequence[str]) -> dict[str, Any]:
    """JSON Schema of `inputs` that feed these arguments."""
    named = {"type": "string", "minLength": 1, "maxLength": 200}
    fed = {"type": "object", "properties": dict.fromkeys(names, named), "additionalProperties": False}
    return {"anyOf": [fed, {"type": "null"}], "default": None}


Named = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Inputs = Annotated[dict[Named, Named], Field(max_length=8)]


class LossComponent(Component):
    """`inputs` says which output of the model or field of the data feeds which argument of the loss's forward.

    Left out, the model's outputs feed the predictions in order, the data's targets the rest in order.
    """

    section = "losses"
    inputs: Inputs | None = None

    @classmethod
    def own_schemas(cls, entry: Entry) -> dict[str, Any]:
        return {"inputs": _inputs_schema(entry.forward)}


class LayerComponent(Component):
    """A layer of a Sequential: it takes one input."""

    section = "layers"

    @classmethod
    def entries(cls) -> list[Entry]:
        return [e for e in super().entries() if e.inputs[0] == 1]


class MetricComponent(Component):
    """`name` is the series' name, the class name where it is left out.

    `inputs` says what it sees: {"preds": an output of the model, "target": a field of the data}; left out, what the loss
    compares.

    A metric of several numbers has a series for each: `<name>/<class>` (`average` "none"; the class's place among the sorted
    labels, counted from 0), `<name>/<label or target column>`, `<name>/<true class>/<predicted class>` of a confusion matrix,
    and `<name>/tp` and the like of what it names: StatScores `tp`, `fp`, `tn`, `fn`, `support`, a figure at a fixed other one
    itself and its `threshold`. One metric may give 100 numbers, all of them 256. `monitor` names such a series in full.
    """

    section = "metrics"
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    inputs: Inputs | None = None

    @classmethod
    def own_schemas(cls, entry: Entry) -> dict[str, Any]:
        return super().own_schemas(entry) | {"inputs": _inputs_schema(("preds", "target"))}

    @property
    def series(self) -> str:
        return self.name or self.type


def own_members(kind: type[Component]) -> frozenset[str]:
    """Members that are postgrad's, not torch's: a scheduler's interval, a metric's name."""
    return frozenset(kind.model_fields) - {"type"}


def long_component(value: Any) -> Any:
    """`"BCELoss"` as `{"type": "BCELoss"}`; anything else as it is."""
    return {"type": value} if isinstance(value, str) else value
