"""The operators of allowed.py by the name a file may call them, and what their arguments may be.

A name in a file is only ever looked up in the table built here: nothing is imported or resolved by a name that came with it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from workers.trainer.exported.allowed import BINARY, OTHERS, UNARY

MOST = 2**31 - 1
INT64 = 2**63 - 1
SMALL = 2**20
DIMENSION = (-16, 15)

# What an integer may be, by the argument's name; (-MOST, MOST) otherwise. Outside of it kernels divide by zero, loop for
# hours or count past 64 bits. None of these may depend on the batch size.
RANGES: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("dim", "dim0", "dim1", "dim2", "axis0", "axis1", "dimension", "start_dim", "end_dim"), DIMENSION),
    **dict.fromkeys(("source", "destination", "dims_self", "dims_other"), DIMENSION),
    **dict.fromkeys(
        ("stride", "dilation", "groups", "kernel_size", "num_groups", "divisor_override", "step", "split_size"), (1, SMALL)
    ),
    **dict.fromkeys(("upscale_factor", "downscale_factor"), (1, 1024)),
    **dict.fromkeys(("chunks", "sections"), (1, 4096)),
    **dict.fromkeys(("interpolation_mode", "padding_mode", "mode", "reduction", "compute_mode"), (0, 2)),
    **dict.fromkeys(("padding", "output_padding"), (0, SMALL)),
    "pad": (-SMALL, SMALL),
    "num_layers": (1, 64),
    "num_classes": (1, SMALL),
}
WHOLE_RANGE = frozenset({"start", "end"})  # a slice up to the end is one up to 2**63 - 1

STRINGS: dict[str, re.Pattern[str]] = {
    "rounding_mode": re.compile("trunc|floor"),
    "indexing": re.compile("ij|xy"),
    "reduce": re.compile("sum|prod|mean|amax|amin"),
    "equation": re.compile(r"[a-zA-Z,.> -]{1,100}"),
    "padding": re.compile("same|valid"),
    "mode": re.compile("constant|reflect|replicate|circular"),
    "norm": re.compile("forward|backward|ortho"),
    "approximate": re.compile("none|tanh"),
}


@dataclass(frozen=True)
class Parameter:
    """One argument of an operator. `kind` is the type in its schema without Optional and List."""

    name: str
    kind: str
    listed: bool
    optional: bool
    keyword_only: bool
    required: bool


@dataclass(frozen=True)
class Operator:
    """An operator that a program may use. `returns` holds "Tensor", "List[Tensor]", "int", ... for each result."""

    name: str
    call: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    returns: tuple[str, ...]

    @property
    def makes_tensors(self) -> bool:
        """Whether it makes a tensor from nothing, as `zeros` does."""
        kinds = {parameter.name: parameter.kind for parameter in self.parameters}
        return "device" in kinds and "Tensor" not in kinds.values()


def operators() -> dict[str, Operator]:
    """The whole table."""
    return _TABLE


def _build() -> dict[str, Operator]:
    table = {f"torch.ops.aten.{name}": _from_torch(name) for name in _names()}
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "truediv", "eq", "ne", "lt", "le", "gt", "ge"):
        table[f"_operator.{name}"] = _of_numbers(name)
    return table


def _names() -> list[str]:
    names = OTHERS.split()
    for name in UNARY.split():
        base, _, overload = name.partition(".")
        names += _existing(f"{base}.{overload or 'default'}", f"{base}_.{overload or 'default'}")
    for base in BINARY.split():
        names += _existing(*(f"{base}{place}.{overload}" for place in ("", "_") for overload in ("Tensor", "Scalar")))
    return names


def _existing(*names: str) -> list[str]:
    return [name for name in names if hasattr(getattr(torch.ops.aten, name.partition(".")[0], None), name.partition(".")[2])]


def _from_torch(name: str) -> Operator:
    base, _, overload = name.partition(".")
    found = getattr(getattr(torch.ops.aten, base), overload)
    schema = found._schema
    parameters = tuple(_parameter(argument) for argument in schema.arguments)
    # What memory held before is nobody's business: an `empty` that is filled afterwards gives the same bits.
    call = _zeroed(found) if "empty" in base else found
    return Operator(name, call, parameters, tuple(str(result.type) for result in schema.returns))


def _zeroed(empty: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *positional, **keywords: empty(*positional, **keywords).zero_()


def _parameter(argument: Any) -> Parameter:
    kind = str(argument.real_type)
    optional = kind.startswith("Optional[")
    kind = kind.removeprefix("Optional[").removesuffix("]") if optional else kind
    listed = kind.startswith("List[")
    kind = kind.removeprefix("List[").removesuffix("]") if listed else kind
    return Parameter(
        argument.name, kind, listed, optional, bool(argument.kwarg_only), not argument.has_default_value()
    )  # fmt: skip


def _of_numbers(name: str) -> Operator:
    """Arithmetic on sizes that depend on the batch."""
    operands = ("a",) if name == "neg" else ("a", "b")
    result = "float" if name == "truediv" else "bool" if name in ("eq", "ne", "lt", "le", "gt", "ge") else "number"
    parameters = tuple(Parameter(o, "number", False, False, False, True) for o in operands)
    return Operator(name, _bounded(getattr(operator, name)), parameters, (result,))


def _bounded(arithmetic: Callable[..., Any]) -> Callable[..., Any]:
    """Python's integers grow without end; a size has 64 bits."""

    def within(*operands: Any) -> Any:
        found = arithmetic(*operands)
        if isinstance(found, int) and abs(found) > INT64:
            raise OverflowError("a size is over 64 bits")
        return found

    return within


_TABLE = _build()
