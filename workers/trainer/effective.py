"""The effective spec: for every field its value as read back from the live objects, and where it came from.

It has the spec's shape; every leaf is {"value": ..., "source": "given" | "default" | "inferred"}.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from jobs.model_spec import NESTED, ExportedModel, PythonModel, SequentialModel
from jobs.spec import Component, JobSpec, PythonDataset
from workers.trainer.model import CompletedLayer, CompletedModel
from workers.trainer.objective import Criterion
from workers.trainer.optimizers import Optimizing, read_back
from workers.trainer.param_groups import REST
from workers.trainer.schedulers import CompletedScheduler
from workers.trainer.schedulers import read_back as read_back_scheduler

OF_COMPONENTS = ("model", "loss", "optimizer", "lr_scheduler", "metrics")


def effective_spec(
    spec: JobSpec,
    completed: CompletedModel,
    loss: Criterion,
    optimizing: Optimizing,
    scheduler: tuple[LRScheduler, CompletedScheduler] | None,
    device: str | None = None,
) -> dict[str, Any]:
    """`device` is the resolved one; None leaves the asked one (the checker does not know where a job will run)."""
    long = spec.long_form()
    found = {
        name: _plain(getattr(spec, name), long.get(name), name in long)
        for name in JobSpec.model_fields
        if name not in OF_COMPONENTS
    }
    if device is not None:
        found["device"] = {"value": device, "source": "given" if long.get("device") == device else "inferred"}
    if isinstance(spec.dataset, PythonDataset):
        found["dataset"]["kwargs"] = {name: _leaf(value, "given") for name, value in spec.dataset.kwargs.items()}
    found["model"] = _model(spec, completed)
    found["loss"] = _component(spec.loss, loss.read_back(), loss.loss.inferred) | {"inputs": _routes(spec.loss.inputs, loss)}
    found["optimizer"] = _optimizer(spec, optimizing)
    found["lr_scheduler"] = _leaf(None, "default")
    if spec.lr_scheduler is not None and scheduler is not None:
        given, own = long.get("lr_scheduler") or {}, spec.lr_scheduler
        members = {name: _leaf(getattr(own, name), "given" if name in given else "default") for name in ("interval", "monitor")}
        found["lr_scheduler"] = _scheduler(*scheduler) | members
    found["metrics"] = [
        {"type": _leaf(m.type, "given"), "name": _leaf(m.series, "given" if m.name else "default")}
        | {name: _leaf(value, "given") for name, value in m.arguments().items()}
        for m in spec.metrics
    ]
    return {name: found[name] for name in JobSpec.model_fields}


def _model(spec: JobSpec, completed: CompletedModel) -> dict[str, Any]:
    model, long = spec.model, spec.long_form()["model"]
    found: dict[str, Any] = {"type": _leaf(model.type, "given")}
    if isinstance(model, ExportedModel):
        found["id"] = _leaf(model.id, "given")
    elif isinstance(model, PythonModel):
        found |= {"id": _leaf(model.id, "given"), "class": _leaf(model.class_name, "given")}
        found["kwargs"] = {name: _leaf(value, "given") for name, value in model.kwargs.items()}
    elif isinstance(model, SequentialModel):
        found["layers"] = _layers(completed.layers, long["layers"])
    else:
        nodes = _layers(completed.layers, long["nodes"].values())
        taken = [{"inputs": _leaf(node["inputs"], "given")} if "inputs" in node else {} for node in long["nodes"].values()]
        found["inputs"] = _leaf(model.inputs, "given")
        found["nodes"] = {layer.name: node | more for layer, node, more in zip(completed.layers, nodes, taken, strict=True)}
        found["outputs"] = _leaf(model.outputs, "given")
    found["initializers"] = [_component(i, i.arguments()) | {"params": _leaf(i.params, "given")} for i in model.initializers]
    found["init_from"] = _plain(model.init_from, long.get("init_from"), "init_from" in long)
    return found


def _layers(layers: Iterable[CompletedLayer], given: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [_layer(layer, body) for layer, body in zip(layers, given, strict=True)]


def _layer(layer: CompletedLayer, given: dict[str, Any]) -> dict[str, Any]:
    """A layer's arguments, and the layers inside it."""
    told = _component(Component.model_validate(given), layer.live, layer.inferred)
    if "layers" in given:
        told["layers"] = _layers(layer.layers, given["layers"])
    nested = {name: layer.arguments[name] for name in NESTED if isinstance(layer.arguments.get(name), dict)}
    return told | {name: _leaf(value, "given") for name, value in nested.items()}


def _plain(value: Any, given: Any, is_given: bool) -> Any:
    if isinstance(value, BaseModel):
        members = given if isinstance(given, dict) else {}
        names = {field.alias or name: name for name, field in type(value).model_fields.items()}
        return {said: _plain(getattr(value, name), members.get(said), said in members) for said, name in names.items()}
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        return [_plain(member, one, True) for member, one in zip(value, given, strict=True)]
    if isinstance(value, dict) and any(isinstance(member, BaseModel) for member in value.values()):
        return {name: _plain(member, given[name], True) for name, member in value.items()}
    return _leaf(value, "given" if is_given else "default")


def _component(component: Component, live: dict[str, Any], inferred: frozenset[str] = frozenset()) -> dict[str, Any]:
    given = component.arguments()
    leaves = {
        name: _leaf(value, "inferred" if name in inferred else ("given" if name in given else "default"))
        for name, value in live.items()
    }
    return {"type": _leaf(component.type, "given"), **leaves}


def _scheduler(live: LRScheduler, completed: CompletedScheduler) -> dict[str, Any]:
    values = read_back_scheduler(live, completed)
    inner = values.pop("schedulers", None)
    found = _component(completed.component, values, completed.inferred)
    return found if inner is None else found | {"schedulers": [_scheduler(*pair) for pair in inner]}


def _optimizer(spec: JobSpec, optimizing: Optimizing) -> dict[str, Any]:
    """The optimizer with its groups and its rest; a group's arguments that it was not given are the optimizer's."""
    live, groups = read_back(spec, optimizing), spec.optimizer.param_groups
    found = _component(spec.optimizer, live[""])
    if groups is not None:
        found["param_groups"] = [
            {"params": _leaf(group.params, "given"), "frozen": _leaf(group.frozen, "given" if group.frozen else "default")}
            | _given_or_default(live.get(str(index), {}), group.arguments())
            for index, group in enumerate(groups)
        ]
    if spec.optimizer.rest is not None:
        params = {"params": _leaf(optimizing.matched[REST], "given" if spec.optimizer.rest.params else "inferred")}
        found["rest"] = _component(spec.optimizer.rest, live[REST]) | params
    return found


def _given_or_default(live: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    return {name: _leaf(value, "given" if name in given else "default") for name, value in live.items()}


def _routes(given: dict[str, str] | None, loss: Criterion) -> dict[str, Any]:
    return {r.argument: _leaf(r.name, "given" if r.argument in (given or {}) else "default") for r in loss.loss.routes}


def _leaf(value: Any, source: str) -> dict[str, Any]:
    return {"value": _json(value), "source": source}


def _json(value: Any) -> Any:
    """JSON of a live value; a non-finite number as the string that API.md gives it."""
    if isinstance(value, Tensor):
        return _json(value.tolist())
    if isinstance(value, tuple | list):
        return [_json(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value if isinstance(value, bool | int | float | str | None) else str(value)
