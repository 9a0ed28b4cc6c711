"""What the data is, by names: the fields of every row, and the batches made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from jobs.spec import SpecProblem
from workers.trainer.arrays import Arrays
from workers.trainer.field_sources import AsNumber, Source

Batch = dict[str, Tensor]  # some rows of every field, by the field's name

INPUT = "x"  # the only input of a data set that names none
LENGTHS = "_lengths"  # follows the name of a field of sequences
FLOAT32_MAX = torch.finfo(torch.float32).max


class InvalidData(Exception):
    """The data does not fit the spec; `problems` says where, with row and column for a cell."""

    def __init__(self, problems: list[SpecProblem]) -> None:
        super().__init__("; ".join(p.detail for p in problems))
        self.problems = problems


@dataclass(frozen=True)
class Field:
    """One named tensor of every row."""

    shape: tuple[int, ...]  # of one row, without the batch dimension; () for a class label
    low: float
    high: float
    classes: int | None = None  # different labels of a target; None for numbers
    integers: int | None = None  # whole numbers lie in 0 ... integers - 1; None for others
    dtype: torch.dtype = torch.float32  # or int64, which labels and codes always are
    fractions: bool = False  # numbers that are not whole are among them, as far as is known
    zeros: bool = False  # 0 is among them, as far as is known
    open_ended: bool = False  # more may come than range and classes say: not all rows, or not all labels, were seen
    high_row: int | None = None  # the row of the highest number, counted from 1, where it is known

    def __post_init__(self) -> None:
        if self.shape == () or self.integers is not None:
            object.__setattr__(self, "dtype", torch.int64)

    @property
    def width(self) -> int:
        """Numbers a row: 1 for a class label."""
        return math.prod(self.shape)


def whole(shape: tuple[int, ...], low: float, high: float, classes: int | None) -> Field:
    """A field of int64: class labels, or codes for an embedding."""
    return Field(shape, low, high, classes, classes, torch.int64)


def beyond_float32(about: dict[str, Any], *, subtracted: bool = False) -> str | None:
    """The number of a schema's column or array, with its row, that float32 would make infinite: the largest, the smallest, or
    where they are `subtracted` from one another, as `normalize` does, their distance.
    """
    rows = {side: f"row {about[f'{side}_row']}: " if f"{side}_row" in about else "" for side in ("max", "min")}
    low, high = about.get("min", 0.0), about.get("max", 0.0)
    for side, value in (("max", high), ("min", -low)):
        if value > FLOAT32_MAX:
            return f"{rows[side]}{about[side]:g} is beyond float32, whose largest number is {FLOAT32_MAX:.4g}"
    if subtracted and (torch.tensor(high) - torch.tensor(low)).isinf():
        ends = f"{rows['min']}{low:g} and {rows['max']}{high:g}"
        return f"{ends} are too far apart for normalize: float32's largest number is {FLOAT32_MAX:.4g}"
    return None


@dataclass(frozen=True)
class DataDescription:
    """What a model and a loss need to know of the data before any row is read."""

    rows: int
    inputs: dict[str, Field]
    targets: dict[str, Field]
    counts: dict[str, int] = field(default_factory=dict)  # rows of "train", "val" and "test"


@dataclass(frozen=True)
class Planned:
    """A field that is still to be opened: what it will be, and how its rows are read."""

    field: Field
    open: Callable[[Arrays], Source]
    pointer: str = "/dataset"
    gaps: bool = False  # something is missing in it, and the spec says what to do about that
    fillable: bool = False  # numbers: what is missing can be filled with a mean
    normalized: bool = False  # `normalize` is for it
    untouched: tuple[bool, ...] | None = None  # one-hot columns, which `normalize` leaves alone

    def as_number(self) -> Planned:
        """The same label as float32 of shape (n, 1)."""
        opened, label = self.open, self.field
        number = Field((1,), label.low, label.high, label.classes)
        return replace(self, field=number, open=lambda arrays: AsNumber(opened(arrays)))


@dataclass(frozen=True)
class Layout:
    """The fields that a spec makes of a data set, before any row is read."""

    rows: int
    inputs: dict[str, Planned]
    targets: dict[str, Planned]

    @property
    def fields(self) -> dict[str, Planned]:
        return self.inputs | self.targets

    @property
    def has_gaps(self) -> bool:
        return any(planned.gaps for planned in self.fields.values())
