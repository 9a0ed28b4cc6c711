"""Generates jobs/catalog.json from the installed torch and torchmetrics: `python -m workers.trainer.introspect`.

Everything here is read from signatures; what a signature does not say is in jobs/supplement.py. A drift test compares the
stored file with a fresh one.
"""

from __future__ import annotations

import collections.abc
import importlib
import inspect
import json
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torchmetrics
from torch import nn, optim

from jobs import supplement

PATH = Path(__file__).resolve().parents[2] / "jobs" / "catalog.json"
PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", torch.Tensor: "tensor", type(None): "null"}
HIDDEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
METRICS = (torchmetrics.classification, torchmetrics.regression)
OTHERS = [importlib.import_module(f"torchmetrics.{name}") for name in supplement.OTHER_METRICS]


def classes() -> dict[str, dict[str, Any]]:
    """Every public class of each section, by name; of the initialisers every function that fills a tensor in place."""
    modules = dict(_public(nn, nn.Module))
    losses = {n: c for n, c in modules.items() if c.__module__ == nn.MSELoss.__module__ or n.endswith("Loss")}
    optimizers = dict(_public(optim, optim.Optimizer))
    schedulers = dict(_public(optim.lr_scheduler, optim.lr_scheduler.LRScheduler))
    return {
        "losses": losses,
        "optimizers": {n: c for n, c in optimizers.items() if n != "Optimizer"},
        "lr_schedulers": {n: c for n, c in schedulers.items() if n != "LRScheduler"},
        "layers": {n: c for n, c in modules.items() if n not in losses},
        "initializers": dict(_initializers()),
        "metrics": {n: c for module in (*METRICS, *OTHERS) for n, c in _public(module, torchmetrics.Metric) if n != "Metric"},
    }


def _public(module: types.ModuleType, base: type) -> Iterator[tuple[str, type]]:
    for name in sorted(dir(module)):
        found = getattr(module, name)
        if inspect.isclass(found) and issubclass(found, base) and not name.startswith("_") and found.__name__ == name:
            yield name, found


def _initializers() -> Iterator[tuple[str, Any]]:
    for name in sorted(dir(nn.init)):
        if name.endswith("_") and not name.startswith("_") and inspect.isfunction(getattr(nn.init, name)):
            yield name, getattr(nn.init, name)


def entry(section: str, name: str, cls: Any) -> dict[str, Any]:
    """What the catalog holds of one class."""
    other = section == "metrics" and domain(cls) in supplement.OTHER_METRICS
    arguments = [argument(section, name, p) for p in parameters(cls)] if not other else []
    row: dict[str, Any] = {"summary": summary(cls), "arguments": [*arguments, *supplement.MORE_ARGUMENTS.get(name, ())]}
    if section == "layers" and name in supplement.INPUTS:
        row["inputs"] = list(supplement.INPUTS[name])
    if section == "layers" and name in supplement.OUTPUTS:
        row["outputs"] = list(supplement.OUTPUTS[name])
    if section == "layers" and name in supplement.MASKS:
        most = supplement.INPUTS.get(name, (1, 1))[1]
        row["forward"] = [*_forward(cls)[:most], *supplement.MASKS[name]]
    if section == "losses":
        row["forward"] = _forward(cls)
    if (reason := refusal(section, name, cls)) is not None:
        row["refused"] = reason
    return row


def _forward(cls: Any) -> list[str]:
    return [name for name in inspect.signature(cls.forward).parameters if name != "self"]


def refusal(section: str, name: str, cls: Any) -> str | None:
    """Why a spec may not use the class, or None."""
    if (reason := supplement.REFUSED[section].get(name)) is not None:
        return reason
    if section == "metrics" and (reason := supplement.OTHER_METRICS.get(domain(cls))) is not None:
        return reason
    for pattern, reason in supplement.REFUSED_FAMILIES[section]:
        if re.fullmatch(pattern, name):
            return reason
    if "__new__" in vars(cls) and section == "metrics":  # torchmetrics' Accuracy(task="binary") gives a BinaryAccuracy
        tasks = (f"{task}{name}" for task in ("Binary", "Multiclass", "Multilabel"))
        return supplement.TASK_WRAPPER.format(names=" or ".join(t for t in tasks if hasattr(torchmetrics.classification, t)))
    return None


def domain(cls: Any) -> str:
    """The module of torchmetrics that a metric is from, such as "classification"."""
    return str(cls.__module__).split(".")[1]


def summary(cls: Any) -> str:
    """The first sentence of torch's own docstring, without markup."""
    paragraphs = inspect.cleandoc(cls.__doc__ or "").split("\n\n")
    first = next(p for p in [*paragraphs, ""] if not p.startswith("__init__("))  # the recurrent layers begin with a signature
    first = re.sub(r"(?::\w+:)?`~?([^`]*)`_?", r"\1", first).replace("`", "").replace(r"\_", "_").replace(r"\leq", "<=")
    first = re.sub(r"\\(?:text\{(\w+)\}|(\w+))", r"\1\2", first)  # LaTeX
    return textwrap.shorten(" ".join(first.split()).split(". ")[0].rstrip(".:"), 200, placeholder=" ...")


def parameters(cls: Any) -> list[inspect.Parameter]:
    """The constructor's parameters that a spec could name."""
    source = getattr(nn, supplement.SIGNATURES.get(cls.__name__, ""), cls)
    named = [p for p in inspect.signature(source).parameters.values() if p.kind not in HIDDEN]
    apart = supplement.SUPPLIED_ARGUMENTS | supplement.NOT_THEIRS
    return [p for p in named if not {p.name, f"{cls.__name__}.{p.name}"} & apart]


def argument(section: str, owner: str, parameter: inspect.Parameter) -> dict[str, Any]:
    """Name, forms, default, choices and bounds of one argument."""
    name, default = parameter.name, parameter.default
    annotation = Annotation(parameter)
    row: dict[str, Any] = {"name": name, "forms": list(_for(supplement.FORMS, owner, name) or annotation.forms(default))}
    if default is inspect.Parameter.empty:
        row["required"] = True
    elif name in supplement.DEFAULTS and callable(default):
        row["default"] = supplement.DEFAULTS[name]
    elif isinstance(default, bool | int | float | str | tuple | type(None)):
        row["default"] = list(default) if isinstance(default, tuple) else default
    choices = _for(supplement.CHOICES, owner, name) or annotation.choices()
    if choices and {"string", "layer"} & set(row["forms"]):
        row["choices"] = list(choices)
    row |= _for(supplement.BOUNDS, owner, name) or {}
    row |= annotation.members(owner, name) if {"integers", "numbers"} & set(row["forms"]) else {}
    if name in supplement.REFUSED_ARGUMENTS:
        row["refused"] = supplement.REFUSED_ARGUMENTS[name]
    if {name, f"{owner}.{name}"} & supplement.INFERRED and section != "optimizers":
        row["inferred"] = True
    return row


def _for(table: Mapping[str, Any], owner: str, name: str) -> Any:
    return table.get(f"{owner}.{name}", table.get(name))


class Annotation:
    """What a parameter's annotation says, with unions taken apart."""

    def __init__(self, parameter: inspect.Parameter) -> None:
        self.parts = list(_parts(_resolved(parameter.annotation)))

    def choices(self) -> tuple[str, ...]:
        """The strings of a Literal."""
        literals = (typing.get_args(part) for part in self.parts if typing.get_origin(part) is typing.Literal)
        return tuple(value for values in literals for value in values if isinstance(value, str))

    def forms(self, default: Any) -> list[str]:
        """What JSON value fits: null, boolean, integer, number, string, integers, numbers, tensor (a list of numbers)."""
        found = {form for part in self.parts if (form := _form(part)) is not None} or {PLAIN.get(type(default), "null")}
        if default is None:
            found.add("null")
        if {"number", "numbers"} & found:  # a tensor in place of numbers is for capturable optimizers and the like
            found.discard("tensor")
        return sorted(found)

    def members(self, owner: str, name: str) -> dict[str, Any]:
        """How many members a list has, and whether one may be null."""
        inner = [typing.get_args(part) for part in self.parts if typing.get_origin(part) in (tuple, list)]
        fixed = {len(args) for args in inner if Ellipsis not in args and args[1:]} or self._per_dimension(owner, name)
        nulls = any(type(None) in _parts(member) for args in inner for member in args)
        return ({"length": fixed.pop()} if len(fixed) == 1 else {}) | ({"null_members": True} if nulls else {})

    @staticmethod
    def _per_dimension(owner: str, name: str) -> set[int]:
        dimensions = re.fullmatch(r".*([123])d", owner)
        return {int(dimensions[1])} if dimensions and name in supplement.PER_DIMENSION and "Pad" not in owner else set()


def _resolved(annotation: Any) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        # The text is torch's own source, never a user's.
        return eval(annotation, {**vars(typing), **vars(collections.abc), "Tensor": torch.Tensor})  # noqa: S307
    except NameError:  # a name of torch's that no JSON value has the type of
        return inspect.Parameter.empty


def _parts(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        return tuple(p for part in typing.get_args(annotation) for p in _parts(part))
    return (annotation,)


def _form(annotation: Any) -> str | None:
    if annotation is torch.Size:
        return "integers"
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "string"
    if origin in (tuple, list, collections.abc.Sequence):
        members = {_form(part) for member in inner if member is not Ellipsis for part in _parts(member)}
        members -= {"tensor", "null"}
        return "integers" if members == {"integer"} else "numbers" if members <= {"integer", "number"} else None
    return PLAIN.get(annotation) if isinstance(annotation, type) and annotation is not inspect.Parameter.empty else None


def generate() -> dict[str, Any]:
    """The whole catalog, as stored."""
    sections = {section: {n: entry(section, n, c) for n, c in found.items()} for section, found in classes().items()}
    return {"torch": torch.__version__.split("+")[0], "torchmetrics": torchmetrics.__version__, "sections": sections}


def text() -> str:
    """The catalog as the file's exact text."""
    return json.dumps(generate(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
