"""The operations between tensors that a node of a Graph may name (jobs/operations.py says which, and with what arguments).

Every value has the batch as its first dimension; `check` refuses whatever would touch it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from workers.trainer.masks import masked_mean, padding_mask

Shape = tuple[int, ...]
Operation = Callable[..., Tensor | tuple[Tensor, ...]]

ELEMENTWISE = frozenset({"add", "sub", "mul", "div", "maximum", "minimum"})
NEEDS_TWO = frozenset({"sub", "div"})
WITH_OTHER = frozenset({"add", "sub", "mul", "div"})
# They move numbers about or count positions, so whole numbers pass as they are.
TAKES_INTEGERS = frozenset(
    {
        "cat", "stack", "reshape", "view", "flatten", "permute", "transpose", "squeeze", "unsqueeze", "select", "slice",
        "split", "chunk", "positions", "padding_mask", "expand", "expand_as",
    }
)  # fmt: skip
FLOATS = {"mean": 1, "masked_fill": 1}  # how many of the inputs are numbers, where that is not all
NEW_DIMENSION = frozenset({"stack", "unsqueeze"})
DIMENSIONS = ("dim", "dim0", "dim1", "start_dim", "end_dim")


class Misfit(Exception):
    """An operation that its inputs do not fit; `member` is the argument at fault, or empty."""

    def __init__(self, member: str, detail: str) -> None:
        super().__init__(detail)
        self.member = member


def check(name: str, arguments: Mapping[str, Any], shapes: Sequence[Shape]) -> None:
    """Whether the operation leaves the batch alone. Raises Misfit; torch itself says the rest."""
    if name in ELEMENTWISE or name in {"matmul", "cat", "stack"}:
        _same_dimensions(name, shapes)
    if name == "matmul" and len(shapes[0]) < 3:
        raise Misfit("", "matmul wants at least 3 dimensions, the batch counted: with 2 it would mix the rows of the batch")
    if name in {"masked_fill", "expand_as"}:
        _same_dimensions(name, shapes)
    if name == "expand" and len(arguments.get("shape") or shapes[0][1:]) != len(shapes[0]) - 1:
        raise Misfit("shape", f"shape has {len(shapes[0]) - 1} members, one for each dimension but the batch")
    if name in WITH_OTHER:
        _one_operand(name, arguments, len(shapes))
    if name == "permute" and list(arguments["dims"])[:1] != [0]:
        raise Misfit("dims", "dims begins with 0: the batch stays the first dimension")
    dimensions = len(shapes[0]) + (name in NEW_DIMENSION)
    for member in DIMENSIONS:
        given = arguments.get(member, 1 if member == "dim" and name in DEFAULT_DIM else None)
        for dim in given if isinstance(given, list) else [given]:
            _within(member, dim, dimensions)


DEFAULT_DIM = frozenset({"cat", "stack", "select", "slice", "split", "chunk", "positions"})


def _within(member: str, dim: int | None, dimensions: int) -> None:
    if dim is None:
        return
    if not -dimensions <= dim < dimensions:
        raise Misfit(member, f"there is no dimension {dim} in {dimensions}")
    if dim % dimensions == 0:
        raise Misfit(member, "dimension 0 is the batch, which stays as it is; count from 1, or from the end with -1")


def _same_dimensions(name: str, shapes: Sequence[Shape]) -> None:
    if len({len(shape) for shape in shapes}) > 1:
        raise Misfit("", f"{name} wants inputs with the same number of dimensions; reshape or unsqueeze one of them")


def _one_operand(name: str, arguments: Mapping[str, Any], inputs: int) -> None:
    other = arguments.get("other") is not None
    if other and inputs > 1:
        raise Misfit("other", f"{name} takes either several inputs or one and the number other")
    if not other and inputs == 1:
        raise Misfit("", f"{name} of one input wants the number other")


# ---- what they do


def _combined(function: Callable[[Any, Any], Tensor]) -> Operation:
    """`function` over the inputs from left to right, or over one input and a number."""

    def combined(*inputs: Tensor, other: float | None = None) -> Tensor:
        return function(inputs[0], other) if other is not None else functools.reduce(function, inputs)

    return combined


def _cat(*inputs: Tensor, dim: int = 1) -> Tensor:
    return torch.cat(inputs, dim)


def _stack(*inputs: Tensor, dim: int = 1) -> Tensor:
    return torch.stack(inputs, dim)


def _reshape(x: Tensor, *, shape: Sequence[int]) -> Tensor:
    return x.reshape(len(x), *shape)


def _view(x: Tensor, *, shape: Sequence[int]) -> Tensor:
    return x.view(len(x), *shape)


def _flatten(x: Tensor, *, start_dim: int = 1, end_dim: int = -1) -> Tensor:
    return x.flatten(start_dim, end_dim)


def _squeeze(x: Tensor, *, dim: int) -> Tensor:
    if x.shape[dim] != 1:  # torch would leave it as it is, without a word
        raise ValueError(f"dimension {dim} has size {x.shape[dim]}, not 1")
    return x.squeeze(dim)


def _max(x: Tensor, *, dim: int, keepdim: bool = False) -> Tensor:
    return x.max(dim, keepdim).values


def _min(x: Tensor, *, dim: int, keepdim: bool = False) -> Tensor:
    return x.min(dim, keepdim).values


def _select(x: Tensor, *, index: int, dim: int = 1) -> Tensor:
    return x.select(dim, index)


def _slice(x: Tensor, *, dim: int = 1, start: int = 0, end: int | None = None, step: int = 1) -> Tensor:
    return x[(slice(None),) * (dim % x.dim()) + (slice(start, end, step),)]


def _split(x: Tensor, *, split_size: int | Sequence[int], dim: int = 1) -> tuple[Tensor, ...]:
    # The annotation of torch's split leaves out the list that its documentation has.
    pieces: tuple[Tensor, ...] = x.split(split_size if isinstance(split_size, int) else list(split_size), dim)  # type: ignore[no-untyped-call]
    return pieces


def _chunk(x: Tensor, *, chunks: int, dim: int = 1) -> tuple[Tensor, ...]:
    return x.chunk(chunks, dim)


def _positions(x: Tensor, *, dim: int = 1) -> Tensor:
    return torch.arange(x.shape[dim], device=x.device)[None]


def _mean(x: Tensor, *mask: Tensor, dim: int | list[int] | tuple[int, ...], keepdim: bool = False) -> Tensor:
    return masked_mean(x, mask[0], keepdim=keepdim) if mask else torch.mean(x, dim, keepdim)


def _masked_fill(x: Tensor, mask: Tensor, *, value: float) -> Tensor:
    return x.masked_fill(mask, value)


def _expand(x: Tensor, rows: Tensor, *, shape: Sequence[int] | None = None) -> Tensor:
    return x.expand(len(rows), *(shape or [-1] * (x.dim() - 1)))


def _expand_as(x: Tensor, other: Tensor) -> Tensor:
    return x.expand_as(other)


FUNCTIONS: dict[str, Operation] = {
    "add": _combined(operator.add),
    "sub": _combined(operator.sub),
    "mul": _combined(operator.mul),
    "div": _combined(operator.truediv),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "matmul": torch.matmul,
    "cat": _cat,
    "stack": _stack,
    "reshape": _reshape,
    "view": _view,
    "flatten": _flatten,
    "permute": torch.permute,
    "transpose": torch.transpose,
    "squeeze": _squeeze,
    "unsqueeze": torch.unsqueeze,
    "mean": _mean,
    "sum": torch.sum,
    "amax": torch.amax,
    "amin": torch.amin,
    "max": _max,
    "min": _min,
    "select": _select,
    "slice": _slice,
    "split": _split,
    "chunk": _chunk,
    "positions": _positions,
    "padding_mask": padding_mask,
    "masked_fill": _masked_fill,
    "expand": _expand,
    "expand_as": _expand_as,
}
