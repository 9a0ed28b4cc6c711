"""Generates jobs/catalog.json from the installed torch and torchmetrics: `python -m workers.trainer.introspect`.

Everything here is read from signatures; what a signature does not say is in jobs/supplement.py. A drift test compares the
stored file with a fresh one.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torchmetrics
from torch import nn, optim

from jobs import supplement

PATH = Path(__file__).resolve().parents[2] / "jobs" / "catalog.json"
SEVERAL_NUMBERS = ("Curve", "AtFixed", "SensitivityAt", "SpecificityAt", "PrecisionAt", "RecallAt", "ConfusionMatrix")
ROC = ("BinaryROC", "MulticlassROC")
PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", torch.Tensor: "tensor", type(None): "null"}


def classes() -> dict[str, dict[str, type]]:
    """Every public class of each section, by name."""
    losses = {n: c for n, c in _public(nn, nn.Module) if n.endswith(("Loss", "Loss2d"))}
    schedulers = dict(_public(optim.lr_scheduler, optim.lr_scheduler.LRScheduler))
    metrics = {
        n: c
        for module in (torchmetrics.classification, torchmetrics.regression)
        for n, c in _public(module, torchmetrics.Metric)
        if n.startswith(("Binary", "Multiclass")) or module is torchmetrics.regression
    }
    return {
        "losses": losses,
        "optimizers": {n: c for n, c in _public(optim, optim.Optimizer) if c is not optim.Optimizer},
        "lr_schedulers": {n: c for n, c in schedulers.items() if n != "LRScheduler"},
        "layers": {n: c for n, c in _public(nn, nn.Module) if n not in losses and not n.startswith("Lazy")},
        "metrics": {n: c for n, c in metrics.items() if not any(w in n for w in SEVERAL_NUMBERS) and n not in ROC},
    }


def _public(module: types.ModuleType, base: type) -> Iterator[tuple[str, type]]:
    for name in sorted(dir(module)):
        found = getattr(module, name)
        if inspect.isclass(found) and issubclass(found, base) and not name.startswith("_") and found.__name__ == name:
            yield name, found


def entry(section: str, name: str, cls: type) -> dict[str, Any]:
    """What the catalog holds of one class."""
    row: dict[str, Any] = {"summary": summary(cls), "arguments": [argument(section, name, p) for p in parameters(cls)]}
    if (reason := supplement.REFUSED[section].get(name)) is not None:
        row["refused"] = reason
    return row


def summary(cls: type) -> str:
    """The first sentence of torch's own docstring, without markup."""
    text = inspect.cleandoc(cls.__doc__ or "").replace("r``", "").replace("``", "").replace(":math:", "").replace("`", "")
    first = " ".join(text.split("\n\n")[0].split())
    return first.split(". ")[0].rstrip(".")[:200]


def parameters(cls: type) -> list[inspect.Parameter]:
    """The constructor's parameters that a spec could name."""
    signature = inspect.signature(cls)
    hidden = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p for p in signature.parameters.values() if p.kind not in hidden and p.name not in supplement.SUPPLIED_ARGUMENTS]


def argument(section: str, owner: str, parameter: inspect.Parameter) -> dict[str, Any]:
    """Name, forms, default, choices and bounds of one argument."""
    name, default = parameter.name, parameter.default
    known = supplement.FORMS.get(f"{owner}.{name}") or supplement.FORMS.get(name)
    row: dict[str, Any] = {"name": name, "forms": list(known or forms(parameter))}
    if default is inspect.Parameter.empty:
        row["required"] = True
    elif isinstance(default, bool | int | float | str | tuple | type(None)):
        row["default"] = list(default) if isinstance(default, tuple) else default
    choices = supplement.CHOICES.get(f"{owner}.{name}") or literal(parameter) or supplement.CHOICES.get(name)
    if choices and "string" in row["forms"]:
        row["choices"] = list(choices)
    bounds = supplement.BOUNDS.get(f"{owner}.{name}", supplement.BOUNDS.get(name))
    if bounds is not None:
        row["minimum"], row["maximum"] = bounds
    if name in supplement.REFUSED_ARGUMENTS:
        row["refused"] = supplement.REFUSED_ARGUMENTS[name]
    if name in supplement.INFERRED and section in {"layers", "metrics"}:
        row["inferred"] = True
    return row


def literal(parameter: inspect.Parameter) -> tuple[str, ...]:
    """The strings of a Literal annotation."""
    parts = _parts(_annotation(parameter))
    return tuple(v for part in parts if typing.get_origin(part) is typing.Literal for v in typing.get_args(part))


def forms(parameter: inspect.Parameter) -> list[str]:
    """What JSON value fits: null, boolean, integer, number, string, integers, numbers, tensor (a list of numbers), any."""
    found = {form for part in _parts(_annotation(parameter)) if (form := _form(part)) is not None}
    if not found:
        found = _forms_of_default(parameter.default)
    if parameter.default is None:
        found.add("null")
    if {"number", "tensor"} <= found:  # a tensor in place of a number is for capturable optimizers
        found.discard("tensor")
    return sorted(found)


def _annotation(parameter: inspect.Parameter) -> Any:
    annotation = parameter.annotation
    if isinstance(annotation, str):
        names = {"Literal": typing.Literal, "Tensor": torch.Tensor, "Optional": typing.Optional, "Union": typing.Union}
        try:
            # The text is torch's own source, never a user's.
            return eval(annotation, {**vars(typing), **names})  # noqa: S307
        except (NameError, TypeError):
            return inspect.Parameter.empty
    return annotation


def _parts(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        return tuple(p for part in typing.get_args(annotation) for p in _parts(part))
    return (annotation,)


def _form(annotation: Any) -> str | None:
    if annotation in (inspect.Parameter.empty, Any):
        return None
    if annotation in PLAIN:
        return PLAIN[annotation]
    if annotation is torch.Size:
        return "integers"
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "string"
    if origin in (tuple, list, typing.get_origin(typing.Sequence[int])) and inner:
        members = {_form(part) for member in inner if member is not Ellipsis for part in _parts(member)} - {
            None,
            "tensor",
            "null",
        }
        if members <= {"integer"}:
            return "integers"
        if members <= {"integer", "number"}:
            return "numbers"
    return None


def _forms_of_default(default: Any) -> set[str]:
    if isinstance(default, bool):
        return {"boolean"}
    if isinstance(default, int):
        return {"integer"}
    if isinstance(default, float):
        return {"number"}
    if isinstance(default, str):
        return {"string"}
    return {"any"}


def generate() -> dict[str, Any]:
    """The whole catalog, as stored."""
    sections = {section: {n: entry(section, n, c) for n, c in found.items()} for section, found in classes().items()}
    return {"torch": torch.__version__.split("+")[0], "torchmetrics": torchmetrics.__version__, "sections": sections}


def text() -> str:
    """The catalog as the file's exact text."""
    return json.dumps(generate(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
