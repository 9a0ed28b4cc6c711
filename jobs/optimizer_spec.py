"""Step 3 of a spec, its optimizer: parameter groups, and a second optimizer for what the first one cannot take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from jobs.arguments import SpecProblem, check_arguments, check_component
from jobs.catalog import Entry, catalog
from jobs.components import JSON, Component, OneOrMore, field_schemas, long_component, own_members

MAX_GROUPS = 64
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Patterns = Annotated[list[Pattern], Field(min_length=1, max_length=256), OneOrMore()]
TAKES_REST = {"Muon": "matrices", "SparseAdam": "parameters with sparse gradients"}
NEVER_REST = ("LBFGS", *TAKES_REST)
WITHOUT_GROUPS = frozenset({"LBFGS"})


class ParamGroup(BaseModel):
    """Parameters by pattern, with arguments of the optimizer of their own; or `frozen`, which are not trained at all.

    A pattern is a parameter's name ("0.weight") or a layer's ("0", every parameter in it), with `*`, `?` and `[...]` as in
    file names. A posted string is short for a list of one.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    params: Patterns
    frozen: bool = False

    def arguments(self) -> dict[str, JSON]:
        """The group's own keyword arguments, under torch's names."""
        return dict(self.model_extra or {})


class RestOptimizer(Component):
    """The optimizer of the parameters that the first one cannot take, and of those that match `params` too."""

    section = "optimizers"
    params: Patterns | None = None

    @classmethod
    def entries(cls) -> list[Entry]:
        return [e for e in super().entries() if e.name not in NEVER_REST]


class OptimizerComponent(Component):
    """`param_groups` give some parameters arguments of their own or freeze them; the others share the optimizer's arguments.

    `rest` is another optimizer, for what Muon (no matrix) or SparseAdam (no sparse gradient) cannot take.
    """

    section = "optimizers"
    param_groups: Annotated[list[ParamGroup], Field(min_length=1, max_length=MAX_GROUPS)] | None = None
    rest: RestOptimizer | None = None

    @classmethod
    def own_schemas(cls, entry: Entry) -> dict[str, Any]:
        groups = {"type": "array", "items": _group_schema(entry), "minItems": 1, "maxItems": MAX_GROUPS}
        rest = {"anyOf": [RestOptimizer.any_schema(), {"type": "null"}], "default": None}
        own = {} if entry.name in WITHOUT_GROUPS else {"param_groups": {"anyOf": [groups, {"type": "null"}], "default": None}}
        return own | ({"rest": rest} if entry.name in TAKES_REST else {})


def _group_schema(entry: Entry) -> dict[str, Any]:
    """JSON Schema of a parameter group: with arguments of the optimizer, without their defaults, or frozen."""
    params = field_schemas(ParamGroup, frozenset({"params"}))["params"]
    arguments = {n: {k: v for k, v in a.json_schema().items() if k != "default"} for n, a in entry.usable().items()}
    trained = {"params": params, "frozen": {"const": False}, **arguments}
    frozen = {"params": params, "frozen": {"const": True}}
    alike = {"type": "object", "required": ["params"], "additionalProperties": False}
    return {"anyOf": [{**alike, "properties": trained}, {**alike, "properties": frozen}]}


def long_optimizer(value: Any) -> Any:
    """The optimizer with short forms written long."""
    body = long_component(value)
    if not isinstance(body, dict):
        return body
    if isinstance(body.get("param_groups"), list):
        body = {**body, "param_groups": [_long_patterns(group) for group in body["param_groups"]]}
    return {**body, "rest": _long_patterns(long_component(body["rest"]))} if body.get("rest") is not None else body


def _long_patterns(holder: Any) -> Any:
    alone = isinstance(holder, dict) and isinstance(holder.get("params"), str)
    return {**holder, "params": [holder["params"]]} if alone else holder


def check_optimizer(body: Any) -> Iterator[SpecProblem]:
    """Every problem with the arguments of a long-form optimizer, of its groups and of its rest."""
    yield from check_component("optimizers", body, "/optimizer", own_members(OptimizerComponent))
    if not isinstance(body, Mapping) or not isinstance(body.get("type"), str):
        return
    entry = catalog().section("optimizers").get(body["type"])
    groups = body.get("param_groups")
    for index, group in enumerate(groups[:MAX_GROUPS] if isinstance(groups, list) and entry is not None else []):
        if isinstance(group, Mapping) and entry is not None:
            where = f"/optimizer/param_groups/{index}"
            own = {name: value for name, value in group.items() if name not in {"params", "frozen"}}
            if group.get("frozen") is True and own:
                detail = "a frozen group is not trained: it takes no argument of the optimizer"
                yield SpecProblem(f"{where}/{next(iter(own))}", "out_of_range", detail)
            else:
                yield from check_arguments(entry, own, where, whole=False)
    if body.get("rest") is not None:
        yield from _check_rest(body["type"], body["rest"])


def _check_rest(first: str, rest: Any) -> Iterator[SpecProblem]:
    if first not in TAKES_REST:
        detail = f"{first} takes every parameter; rest is for {' and '.join(TAKES_REST)}, use param_groups here"
        yield SpecProblem("/optimizer/rest", "not_supported", detail)
        return
    yield from check_component("optimizers", rest, "/optimizer/rest", own_members(RestOptimizer))
    if isinstance(rest, Mapping) and rest.get("type") in NEVER_REST:
        detail = f"{rest['type']} cannot take what {first} leaves; use AdamW, SGD or another optimizer of any parameter"
        yield SpecProblem("/optimizer/rest/type", "not_supported", detail)
