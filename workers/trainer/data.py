"""Step 1, data: the prepared arrays become split, normalised tensors, by rules 1 to 3 of "What `seed` means".

`describe` tells what the data is without touching a row; `load` makes the tensors. Both raise InvalidData with every problem.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from jobs.spec import FileDataset, JobSpec, SpecProblem, Split
from workers.trainer.objective import TARGET, TargetForm, target_form

MAX_CLASSES = 1000
MAX_INPUT_WIDTH = 65536


class InvalidData(Exception):
    """The data does not fit the spec; `problems` says where, with row and column for a cell."""

    def __init__(self, problems: list[SpecProblem]) -> None:
        super().__init__("; ".join(p.detail for p in problems))
        self.problems = problems


Batch = dict[str, Tensor]  # some rows of every field, by the field's name

INPUT = "x"  # the only input of a data set that names none


@dataclass(frozen=True)
class Field:
    """One named tensor of every row."""

    shape: tuple[int, ...]  # of one row, without the batch dimension; () for a class label
    low: float
    high: float
    classes: int | None = None  # different labels of a target; None for numbers
    integers: int | None = None  # an int64 input holds 0 to integers - 1; None for float32

    @property
    def width(self) -> int:
        """Numbers a row: 1 for a class label."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class DataDescription:
    """What a model and a loss need to know of the data before any row is read."""

    rows: int
    inputs: dict[str, Field]
    targets: dict[str, Field]
    counts: dict[str, int] = field(default_factory=dict)  # rows of "train", "val" and "test"


@dataclass(frozen=True)
class Part:
    """Rows of one part: every field (n, *shape) by its name, float32 or int64; class labels are int64 (n,)."""

    fields: Batch

    def __len__(self) -> int:
        return size(self.fields)

    def slice(self, start: int, stop: int) -> Batch:
        """Copies of the rows from `start` up to `stop`: a layer may work in place on what it is given."""
        return {name: rows[start:stop].clone() for name, rows in self.fields.items()}

    def to(self, device: torch.device) -> Part:
        return Part({name: rows.to(device) for name, rows in self.fields.items()})


def size(batch: Batch) -> int:
    """Rows of a batch."""
    return len(next(iter(batch.values())))


@dataclass(frozen=True)
class Parts:
    train: Part
    val: Part
    test: Part


# ---- what is there


def describe(spec: JobSpec, folder: Path) -> DataDescription:
    """What `load` will give, from the schema alone. Raises InvalidData."""
    schema = read_schema(folder)
    table = _Table(spec, schema, target_form(spec.loss)) if isinstance(spec.dataset, FileDataset) else None
    rows = int(schema["rows"])
    counts = part_sizes(rows, spec.split)
    problems = [
        SpecProblem(f"/split/{name}", "out_of_range", f"{getattr(spec.split, name)} of {rows} rows is no row at all")
        for name, count in counts.items()
        if count <= 0 < getattr(spec.split, name)
    ]
    if table is not None:
        problems += table.problems
    if problems:
        raise InvalidData(problems)
    return table.description(counts) if table is not None else _builtin(schema, counts)


def read_schema(folder: Path) -> dict[str, Any]:
    """The schema beside the arrays. Raises InvalidData when the folder was never prepared."""
    try:
        schema: dict[str, Any] = json.loads((folder / "schema.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidData(
            [SpecProblem("/dataset", "invalid_data", "the data set has not been prepared on this machine")]
        ) from error
    return schema


def part_sizes(rows: int, split: Split) -> dict[str, int]:
    """Rows of each part: the fractions times the rows in IEEE doubles, cut off; training gets the rest (rule 2)."""
    n_val, n_test = int(rows * split.val), int(rows * split.test)
    return {"train": rows - n_val - n_test, "val": n_val, "test": n_test}


def _builtin(schema: dict[str, Any], counts: dict[str, int]) -> DataDescription:
    classes = len(schema["classes"]) if schema["classes"] else None
    x = Field(tuple(schema["input_shape"]), schema["input_min"], schema["input_max"])
    y = Field((1,) if classes is None else (), schema["target_min"], schema["target_max"], classes)
    return DataDescription(schema["rows"], {INPUT: x}, {TARGET: y}, counts)


class _Table:
    """A CSV file seen through a spec: which columns are features, which the target, and what is wrong with them."""

    def __init__(self, spec: JobSpec, schema: dict[str, Any], form: TargetForm) -> None:
        assert isinstance(spec.dataset, FileDataset)
        self.dataset, self.rows = spec.dataset, int(schema["rows"])
        self.form: TargetForm = "float" if form == "tokens" else form  # labels of a sequence are numbers in their columns
        self.columns: dict[str, dict[str, Any]] = {c["name"]: {**c, "index": i} for i, c in enumerate(schema["columns"])}
        self.problems: list[SpecProblem] = []
        self._names("target", self.dataset.target)
        self._names("features", self.dataset.features or [])
        self._names("categorical", self.dataset.categorical)
        targets = set(self.dataset.target)
        given = self.dataset.features
        self.features = [n for n in (given if given is not None else self.columns) if n in self.columns and n not in targets]
        self.targets = [n for n in self.dataset.target if n in self.columns]
        self._check_features(targets)
        self._check_target()

    def _names(self, member: str, names: list[str]) -> None:
        for index, name in enumerate(names):
            if name not in self.columns:
                known = ", ".join(list(self.columns)[:12])
                detail = f"the file has no column {name!r}; it has {known}"
                self._problem(f"/dataset/{member}/{index}", "unknown_column", detail)

    def _problem(self, pointer: str, code: str, detail: str) -> None:
        self.problems.append(SpecProblem(pointer, code, detail))

    def categorical(self, name: str) -> bool:
        """One-hot: listed as categorical, or a column without one numeric cell."""
        return name in self.dataset.categorical or self.columns[name]["type"] == "text"

    def _check_features(self, targets: set[str]) -> None:
        for index, name in enumerate(self.dataset.features or []):
            if name in targets:
                self._problem(
                    f"/dataset/features/{index}", "out_of_range", f"{name!r} is the target and cannot be a feature too"
                )
        for name in self.features:
            self._check_cells(name, "/dataset/features" if self.dataset.features else "/dataset", self.categorical(name))
        if not self.features and not self.problems:
            self._problem("/dataset", "invalid_data", "no feature column is left beside the target")
        if not self.problems and self.width() > MAX_INPUT_WIDTH:
            self._problem(
                "/dataset", "out_of_range", f"one-hot columns make {self.width()} inputs; the limit is {MAX_INPUT_WIDTH}"
            )

    def _check_cells(self, name: str, pointer: str, as_text: bool) -> None:
        column = self.columns[name]
        if column["missing"]:
            detail = f"row {column['first_missing']}, column {name!r}: the cell is missing ({column['missing']} in this column)"
            self._problem(pointer, "invalid_data", detail)
        elif as_text and "categories" not in column:
            detail = f"column {name!r} has {column['distinct']} different texts; at most 1000 can be told apart"
            self._problem(pointer, "invalid_data", detail)
        elif column["type"] == "mixed" and not as_text:
            odd = column["first_text"]
            detail = (
                f"row {odd['row']}, column {name!r}: {odd['value']!r} is not a finite number, but other cells are; "
                "list the column in dataset.categorical if they are names"
            )
            self._problem(pointer, "invalid_data", detail)

    def _check_target(self) -> None:
        pointer = "/dataset/target"
        if self.form != "float" and len(self.targets) > 1:
            detail = f"this loss takes one target column, {len(self.targets)} are given; several need a regression loss"
            self._problem(pointer, "not_supported", detail)
        for name in self.targets:
            labels = self.form != "float"
            self._check_cells(name, pointer, labels and self.columns[name]["type"] != "numeric")
            if not labels and self.categorical(name):
                self._problem(pointer, "wrong_type", f"column {name!r} holds class labels, but this loss wants numbers")
        if self.targets and not self.problems:
            self._check_classes(self.targets[0], pointer)

    def _check_classes(self, name: str, pointer: str) -> None:
        if self.form == "float" or self._soft(name):
            return
        count = len(self.labels(name)) if self.columns[name]["distinct"] <= MAX_CLASSES else MAX_CLASSES + 1
        if count > MAX_CLASSES:
            detail = f"column {name!r} has {self.columns[name]['distinct']} different values, which is too many for classes"
            self._problem(pointer, "invalid_data", detail)
        elif self.form == "binary" and count != 2:
            detail = f"column {name!r} has {count} classes, but this loss wants two (or numbers between 0 and 1)"
            self._problem(pointer, "wrong_type", detail)
        elif count < 2:
            self._problem(pointer, "invalid_data", f"column {name!r} holds one class only")

    def _soft(self, name: str) -> bool:
        """A binary target that already is a probability: numbers within [0, 1] are taken as they are."""
        column = self.columns[name]
        numeric = self.form == "binary" and column["type"] == "numeric" and not self.categorical(name)
        return bool(numeric and column["min"] >= 0 and column["max"] <= 1)

    def labels(self, name: str) -> list[Any]:
        """Class labels in sorted order: by number when all are numbers, else by code point."""
        column = self.columns[name]
        values: list[Any] = column["values"] if column["type"] == "numeric" else column["categories"]
        return values

    def width(self) -> int:
        return sum(len(self.columns[n]["categories"]) if self.categorical(n) else 1 for n in self.features)

    def description(self, counts: dict[str, int]) -> DataDescription:
        first = self.targets[0]
        hard = self.form != "float" and not self._soft(first)
        classes = len(self.labels(first)) if hard else (2 if self.form == "binary" else None)
        used = [self.columns[n] for n in self.targets]
        numbers = [self.columns[n] for n in self.features if not self.categorical(n)]
        x = Field(
            (self.width(),),
            min((c["min"] for c in numbers), default=0.0),
            max((c["max"] for c in numbers), default=1.0),
        )
        y = Field(
            () if hard else (len(self.targets),),
            0.0 if hard else min(c["min"] for c in used),
            float((classes or 1) - 1) if hard else max(c["max"] for c in used),
            classes,
        )
        return DataDescription(self.rows, {INPUT: x}, {TARGET: y}, counts)

    def input(self, read: Callable[[str], np.ndarray[Any, Any]]) -> tuple[Tensor, Tensor]:
        """x float32 (rows, width), and a mask (width,) of the columns that `normalize` leaves alone."""
        blocks, onehot = [], []
        for name in self.features:
            column = self.columns[name]
            if self.categorical(name):
                codes = torch.from_numpy(read(f"codes.{column['index']}")).long()
                blocks.append(torch.nn.functional.one_hot(codes, len(column["categories"])).float())
            else:
                blocks.append(torch.from_numpy(read(f"numbers.{column['index']}").astype(np.float32))[:, None])
            onehot += [self.categorical(name)] * blocks[-1].shape[1]
        return torch.cat(blocks, dim=1), torch.tensor(onehot)

    def target(self, read: Callable[[str], np.ndarray[Any, Any]]) -> Tensor:
        """y: int64 labels (rows,), or float64 numbers (rows, k)."""
        first = self.targets[0]
        if self.form == "float" or self._soft(first):
            columns = [read(f"numbers.{self.columns[n]['index']}") for n in self.targets]
            return torch.from_numpy(np.stack(columns, axis=1))
        column = self.columns[first]
        if column["type"] != "numeric":
            return torch.from_numpy(read(f"codes.{column['index']}")).long()
        numbers = read(f"numbers.{column['index']}")
        return torch.from_numpy(np.searchsorted(np.array(self.labels(first)), numbers)).long()


# ---- the tensors


def load(spec: JobSpec, folder: Path) -> Parts:
    """The three parts, split and normalised; a part that was not asked for has no rows. Raises InvalidData.

    Draws from a generator of its own only, never from torch's default generator.
    """
    counts = describe(spec, folder).counts
    x, y, untouched = _arrays(spec, folder)
    y = shape_target(y, target_form(spec.loss))
    seed = spec.seed if spec.split.seed is None else spec.split.seed
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x = normalize(x, order[: counts["train"]], spec.dataset.normalize, untouched)
    ends = np.cumsum(list(counts.values())).tolist()
    indices = (order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] :])
    return Parts(*(Part({INPUT: x[index], TARGET: y[index]}) for index in indices))


def _arrays(spec: JobSpec, folder: Path) -> tuple[Tensor, Tensor, Tensor | None]:
    with safe_open(folder / "arrays.safetensors", framework="numpy") as arrays:
        if not isinstance(spec.dataset, FileDataset):
            return torch.from_numpy(arrays.get_tensor("x")), torch.from_numpy(arrays.get_tensor("y")), None
        table = _Table(spec, read_schema(folder), target_form(spec.loss))
        x, onehot = table.input(arrays.get_tensor)
        return x, table.target(arrays.get_tensor), onehot


def shape_target(y: Tensor, form: TargetForm) -> Tensor:
    """int64 (n,) for a loss on class labels, int64 (n, k) for one on sequences of them, else float32 (n, k) (rule 1)."""
    if form == "class":
        return y
    columns = y[:, None] if y.dim() == 1 else y
    return columns.long() if form == "tokens" else columns.float()


def normalize(x: Tensor, train: Tensor, how: str, untouched: Tensor | None = None) -> Tensor:
    """Rule 3: statistics of the training rows (standard: in float64), applied in float32; per channel for images (n, c, h, w).

    `untouched` (width,) marks one-hot columns, which are left alone.
    """
    if how == "none":
        return x
    # Over the rows, and for images over the pixels as well: one figure per channel.
    dims = (0, 2, 3) if x.dim() == 4 else (0,)
    rows = x[train]
    if how == "standard":
        shift = rows.double().mean(dims, keepdim=True)
        scale = rows.double().std(dims, correction=0, keepdim=True)
    else:
        shift = rows.amin(dims, keepdim=True)
        scale = rows.amax(dims, keepdim=True) - shift
    scale[scale == 0] = 1
    normalized = (x - shift.float()) / scale.float()
    return normalized if untouched is None else torch.where(untouched, x, normalized)
