"""A layer or node in its place in the model: what comes in, and how its errors are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jobs.spec import Component, SpecProblem
from workers.trainer.fields import Field

Shape = tuple[int, ...]


class BuildProblem(Exception):
    """The model cannot be built; `problems` names the layers."""

    def __init__(self, problems: list[SpecProblem]) -> None:
        super().__init__("; ".join(p.detail for p in problems))
        self.problems = problems


@dataclass(frozen=True)
class Value:
    """What a name stands for on the meta device: one tensor for each size of batch that the run will meet."""

    tensors: tuple[Tensor, ...]
    constant: bool = False  # the same for every row, with a first dimension of 1
    integers: int | None = None  # an int64 tensor of 0 to integers - 1
    indices: bool = False  # of the elements that a pooling layer chose
    least: float | None = None  # the smallest of whole numbers that the data holds, where that is known
    hides_rows: bool = False  # a mask that may be True all over a row

    @property
    def shape(self) -> Shape:
        return tuple(self.tensors[0].shape)

    @property
    def is_float(self) -> bool:
        return self.tensors[0].is_floating_point()

    @property
    def is_mask(self) -> bool:
        return self.tensors[0].dtype == torch.bool


@dataclass(frozen=True)
class Node:
    """A layer of a Sequential or a node of a Graph, with the names that it takes; `masks` says what the last of them are."""

    name: str
    title: str  # as its errors call it
    pointer: str
    component: Component
    inputs: tuple[str, ...]
    masks: tuple[str, ...] = ()


class Place:
    """A node and the values that come in: its inputs in their order, and its masks by name."""

    def __init__(self, node: Node, values: Sequence[Value]) -> None:
        inputs = len(values) - len(node.masks)
        self.node, self.values, self.taken = node, tuple(values[:inputs]), tuple(values)
        self.masks = dict(zip(node.masks, values[inputs:], strict=True))
        self.component = node.component

    @property
    def shape(self) -> Shape:
        """Of the first input, the batch counted."""
        return self.values[0].shape

    @property
    def gets(self) -> str:
        shapes = [written(value.shape, value.constant) for value in self.values]
        what = f"input of shape {shapes[0]}" if len(shapes) == 1 else f"inputs of shapes {', '.join(shapes)}"
        return f"{self.node.title} gets {what}"

    @property
    def not_numbers(self) -> str:
        """What to say of an input that holds no numbers to compute with."""
        if any(value.is_mask for value in self.values):
            return "a mask among them; a mask goes to a layer by its name, to mean or to masked_fill"
        return "whole-number tokens; put an Embedding before it"

    def problem(self, member: str, code: str, detail: str) -> BuildProblem:
        return BuildProblem([SpecProblem(f"{self.node.pointer}{member}", code, detail)])

    def misfit(self, detail: str, member: str = "") -> BuildProblem:
        return self.problem(member, "shape_mismatch", f"{self.gets}, {detail}")


def placeholder(field: Field, rows: Sequence[int]) -> Value:
    """An input of the model: rows of a field on the meta device."""
    integers = None if field.open_ended else field.integers
    tensors = tuple(torch.empty((n, *field.shape), device="meta", dtype=field.dtype) for n in rows)
    return Value(tensors, integers=integers, least=field.low if integers is not None else None)


def written(shape: Shape, constant: bool = False) -> str:
    """A shape with its batch as `n`."""
    return "(" + ", ".join(["1" if constant else "n", *map(str, shape[1:])]) + ")"


def first_line(error: Exception) -> str:
    """An error of torch's in a sentence that fits into an answer."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def plain(value: Any) -> Any:
    """Lists as tuples, as torch writes sizes."""
    return tuple(value) if isinstance(value, list) else value
