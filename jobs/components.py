"""The smallest parts of a spec: strict objects, and classes of torch by name with the keyword arguments that were given."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, StringConstraints

from jobs.catalog import Entry, catalog

JSON: TypeAlias = Any


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


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
        entries = cls.entries()
        own = handler(core_schema)
        extra = {k: v for k, v in own.get("properties", {}).items() if k != "type"}
        needed = [name for name in own.get("required", ()) if name != "type"]
        long = [e.json_schema() for e in entries]
        for schema in long:
            schema["properties"] |= extra
            schema["required"] += needed
        short = [] if needed else [e.name for e in entries if not e.missing({})]
        return {"anyOf": [{"type": "string", "enum": short}, *long] if short else long}

    @classmethod
    def entries(cls) -> list[Entry]:
        """What `type` may name."""
        return [e for e in catalog().section(cls.section).values() if e.refused is None]


Named = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Inputs = Annotated[dict[Named, Named], Field(max_length=8)]


class LossComponent(Component):
    """`inputs` says which output of the model or field of the data feeds which argument of the loss's forward.

    Left out, the model's outputs feed the predictions in order, the data's targets the rest in order.
    """

    section = "losses"
    inputs: Inputs | None = None


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
    """

    section = "metrics"
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    inputs: Inputs | None = None

    @property
    def series(self) -> str:
        return self.name or self.type


def own_members(kind: type[Component]) -> frozenset[str]:
    """Members that are postgrad's, not torch's: a scheduler's interval, a metric's name."""
    return frozenset(kind.model_fields) - {"type"}


def long_component(value: Any) -> Any:
    """`"BCELoss"` as `{"type": "BCELoss"}`; anything else as it is."""
    return {"type": value} if isinstance(value, str) else value
