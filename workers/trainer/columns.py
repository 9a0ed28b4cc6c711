"""A table's columns (CSV, Parquet, the labels of images) seen through a spec: which fields they make, and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from jobs.spec import FileDataset, SpecProblem
from workers.trainer.arrays import Arrays
from workers.trainer.field_sources import ArraySource, Beside, LabelSource, Lengths, OneHot, Sequences, Source
from workers.trainer.fields import LENGTHS, Field, Planned, beyond_float32, whole
from workers.trainer.objective import TargetForm

MAX_CLASSES = 1000
MAX_INPUT_WIDTH = 65536
Column = dict[str, Any]


class Columns:
    """Makes fields of columns; every problem is added to `problems`, and the field is then not to be used."""

    def __init__(self, dataset: FileDataset, schema: dict[str, Any], form: TargetForm, problems: list[SpecProblem]) -> None:
        self._dataset, self._form, self._problems = dataset, form, problems
        self._columns: dict[str, Column] = {c["name"]: {**c, "index": i} for i, c in enumerate(schema["columns"])}
        self.known(dataset.categorical, "/dataset/categorical")

    @property
    def names(self) -> list[str]:
        return list(self._columns)

    def known(self, names: Sequence[str], pointer: str) -> list[Column]:
        """The columns of these names; those that there are not become problems."""
        for index, name in enumerate(names):
            if name not in self._columns:
                there = ", ".join(list(self._columns)[:12])
                self._problem(f"{pointer}/{index}", "unknown_column", f"the file has no column {name!r}; it has {there}")
        return [self._columns[name] for name in names if name in self._columns]

    def _problem(self, pointer: str, code: str, detail: str) -> None:
        self._problems.append(SpecProblem(pointer, code, detail))

    def categorical(self, column: Column) -> bool:
        """One-hot: listed as categorical, or a column without one numeric cell."""
        return column["name"] in self._dataset.categorical or column["type"] == "text"

    # ---- inputs

    def input(self, name: str, columns: list[Column], pointer: str, dtype: str | None = None) -> dict[str, Planned]:
        """One input of several columns side by side, or of one column of sequences, with its lengths beside it."""
        if len(columns) == 1 and columns[0]["type"] == "list":
            return self._sequences(name, columns[0], pointer, dtype)
        if dtype == "int64":
            return {name: self._whole(columns, pointer)}
        for column in columns:
            self._check_cells(column, pointer, as_text=self.categorical(column))
            if not self.categorical(column):
                self._check_float32(column, pointer, subtracted=self._dataset.normalize != "none")
        widths = [len(_texts(c)) if self.categorical(c) else 1 for c in columns]
        if not self._problems and sum(widths) > MAX_INPUT_WIDTH:
            detail = f"one-hot columns make {sum(widths)} inputs; the limit is {MAX_INPUT_WIDTH}"
            self._problem("/dataset", "out_of_range", detail)
        onehot = [self.categorical(c) for c, width in zip(columns, widths, strict=True) for _ in range(width)]
        ends = [(0.0, 1.0) if self.categorical(c) else (c.get("min", 0.0), c.get("max", 1.0)) for c in columns]
        field = Field((sum(widths),), min(low for low, _ in ends), max(high for _, high in ends))
        planned = Planned(
            field,
            lambda arrays: Beside([self._cells(c, arrays) for c in columns], [bool(c["missing"]) for c in columns]),
            pointer,
            gaps=any(c["missing"] for c in columns),
            fillable=True,
            normalized=True,
            untouched=tuple(onehot),
        )
        return {name: planned}

    def _cells(self, column: Column, arrays: Arrays) -> Source:
        if self.categorical(column):
            return OneHot(_text_source(column, arrays), len(_texts(column)))
        precise = self._dataset.missing == "mean"
        return ArraySource(arrays[f"numbers.{column['index']}"], torch.float32, precise=precise)

    def _whole(self, columns: list[Column], pointer: str, *, as_target: bool = False) -> Planned:
        """int64 (n, k), or (n,) for one target column: category codes, and whole numbers as they stand."""
        for column in columns:
            self._check_cells(column, pointer, as_text=column["type"] == "text", fillable=False)
            low = column.get("min", 0.0)
            if column["type"] == "numeric" and (not column.get("integers", False) or (low < 0 and not as_target)):
                row = f" (row {column['min_row']}: {low:g})" if low < 0 else ""
                detail = f"column {column['name']!r} holds numbers that are not whole numbers from 0{row}"
                self._problem(pointer, "invalid_data", detail)
        texts = [c["type"] == "text" for c in columns]
        highs = [
            len(c.get("categories", "x")) - 1 if text else c.get("max", 0.0) for c, text in zip(columns, texts, strict=True)
        ]
        low, high = min(0.0 if text else c.get("min", 0.0) for c, text in zip(columns, texts, strict=True)), float(max(highs))
        shape = () if as_target and len(columns) == 1 else (len(columns),)
        field = whole(shape, low, high, int(high) + 1 if low >= 0 else None)

        def opened(arrays: Arrays) -> Source:
            sources = [_label_source(c, arrays) if t else _as_int(c, arrays) for c, t in zip(columns, texts, strict=True)]
            return sources[0] if shape == () else Beside(sources)

        return Planned(field, opened, pointer, gaps=any(c["missing"] for c in columns))

    def _sequences(self, name: str, column: Column, pointer: str, dtype: str | None) -> dict[str, Planned]:
        self._check_cells(column, pointer, as_text=False, fillable=False, droppable=False)
        if column.get("gaps"):
            self._problem(pointer, "invalid_data", f"column {column['name']!r} misses numbers inside its sequences")
        if not column["longest"]:
            self._problem(pointer, "invalid_data", f"column {column['name']!r} holds empty sequences only")
        if column["longest"] > MAX_INPUT_WIDTH:
            detail = f"column {column['name']!r} has a sequence of {column['longest']} numbers; the limit is {MAX_INPUT_WIDTH}"
            self._problem(pointer, "out_of_range", detail)
        kind = torch.int64 if dtype == "int64" else torch.float32
        if kind == torch.float32:
            self._check_float32(column, pointer)
        low, high = min(0.0, column.get("min", 0.0)), max(0.0, column.get("max", 0.0))  # the filling counts
        if kind == torch.int64 and not (column["integers"] and low >= 0):
            self._problem(pointer, "invalid_data", f"column {column['name']!r} holds numbers that are not whole numbers from 0")
        integers = int(high) + 1
        field = whole((column["longest"],), low, high, integers) if dtype == "int64" else Field((column["longest"],), low, high)
        longest, index = column["longest"], column["index"]
        return {
            name: Planned(
                field,
                lambda arrays: Sequences(arrays[f"values.{index}"], arrays[f"offsets.{index}"], longest, kind),
                pointer,
            ),
            name + LENGTHS: Planned(
                Field((), column["shortest"], longest, None, longest + 1, torch.int64),
                lambda arrays: Lengths(arrays[f"offsets.{index}"]),
                pointer,
            ),
        }

    # ---- targets

    def target(
        self, name: str, columns: list[Column], pointer: str, dtype: str | None = None, classes: int | None = None
    ) -> dict[str, Planned]:
        """One target: class labels (n,), or numbers (n, k), as the loss wants them unless `dtype` says which."""
        if dtype is None and self._form == "tokens":
            dtype = "int64"
        if len(columns) == 1 and columns[0]["type"] == "list":
            return self._sequences(name, columns[0], pointer, dtype)
        if classes is not None or dtype == "int64":
            planned = self._whole(columns, pointer, as_target=self._form != "tokens")
            if classes is not None:
                planned = Planned(given_classes(planned.field, classes), planned.open, pointer, planned.gaps)
                for column in columns:
                    self._check_range(column, pointer, classes - 1, f"a label of {classes} classes (0 to {classes - 1})")
            return {name: planned}
        form: TargetForm = "float" if dtype == "float32" else self._form
        if form == "float" or (form == "binary" and (len(columns) > 1 or self._soft(columns[0]))):
            return {name: self._numbers(columns, pointer, form)}
        return {name: self._label(columns, pointer, form)}

    def _numbers(self, columns: list[Column], pointer: str, form: TargetForm) -> Planned:
        for column in columns:
            self._check_cells(column, pointer, as_text=False, fillable=False)
            if self.categorical(column):
                detail = f"column {column['name']!r} holds class labels, but this loss wants numbers"
                self._problem(pointer, "wrong_type", detail)
            elif form == "binary":
                self._check_range(column, pointer, 1, "between 0 and 1, as this loss wants it")
            else:
                self._check_float32(column, pointer)
        field = Field(
            (len(columns),),
            min(c.get("min", 0.0) for c in columns),
            max(c.get("max", 0.0) for c in columns),
            2 if form == "binary" else None,
            fractions=any(not c.get("integers", True) for c in columns),
            zeros=any(0 in c.get("values", []) for c in columns),
        )
        return Planned(
            field,
            lambda arrays: Beside([ArraySource(arrays[f"numbers.{c['index']}"], torch.float32) for c in columns]),
            pointer,
            gaps=any(c["missing"] for c in columns),
        )

    def _label(self, columns: list[Column], pointer: str, form: TargetForm) -> Planned:
        if len(columns) > 1:
            detail = f"this loss takes one target column, {len(columns)} are given; several need a regression loss"
            self._problem(pointer, "not_supported", detail)
        column = columns[0]
        before = len(self._problems)
        self._check_cells(column, pointer, as_text=column["type"] != "numeric", fillable=False)
        if len(self._problems) == before:
            self._check_classes(column, pointer, form)
        count = len(_categories(column))
        field = whole((), 0.0, float(max(count, 1) - 1), count)
        planned = Planned(field, lambda arrays: _label_source(column, arrays), pointer, gaps=bool(column["missing"]))
        return planned if form == "class" else planned.as_number()

    def _soft(self, column: Column) -> bool:
        """A binary target that already is a probability: numbers within [0, 1] are taken as they are."""
        numeric = column["type"] == "numeric" and not self.categorical(column)
        return bool(numeric and column.get("min", 0) >= 0 and column.get("max", 0) <= 1)

    # ---- what can be wrong

    def _check_cells(
        self, column: Column, pointer: str, *, as_text: bool, fillable: bool = True, droppable: bool = True
    ) -> None:
        name, missing = column["name"], self._dataset.missing
        if column["type"] == "unsupported":
            detail = f"column {name!r} is of Parquet type {column['arrow']}, which is not read"
            self._problem(pointer, "invalid_data", detail)
        elif column["type"] == "list" and droppable:
            detail = f"column {name!r} holds sequences: make it a field of its own, by naming it in dataset.inputs"
            self._problem(pointer, "invalid_data", detail)
        elif column.get("infinite"):
            self._problem(pointer, "invalid_data", f"row {column['first_infinite']}, column {name!r}: the number is infinite")
        elif (
            column["missing"] and not (missing == "drop" and droppable) and not (missing == "mean" and fillable and not as_text)
        ):
            detail = f"row {column['first_missing']}, column {name!r}: the cell is missing ({column['missing']} in this column)"
            if missing == "mean":
                what = "texts have no mean" if as_text else "only inputs of numbers are filled with a mean"
                detail += f"; {what}, so use missing drop"
            self._problem(pointer, "invalid_data", detail)
        elif as_text and not _can_be_told_apart(column):
            detail = f"column {name!r} has {_distinct(column)} different texts; at most 1000 can be told apart"
            self._problem(pointer, "invalid_data", detail)
        elif column["type"] == "mixed" and not as_text:
            odd = column["first_text"]
            detail = (
                f"row {odd['row']}, column {name!r}: {odd['value']!r} is not a finite number, but other cells are; "
                "list the column in dataset.categorical if they are names"
            )
            self._problem(pointer, "invalid_data", detail)

    def _check_float32(self, column: Column, pointer: str, *, subtracted: bool = False) -> None:
        if (detail := beyond_float32(column, subtracted=subtracted)) is not None:
            self._problem(pointer, "invalid_data", f"column {column['name']!r}, {detail}")

    def _check_classes(self, column: Column, pointer: str, form: TargetForm) -> None:
        name = column["name"]
        count = len(_categories(column)) if column["distinct"] <= MAX_CLASSES else MAX_CLASSES + 1
        if count > MAX_CLASSES:
            detail = f"column {name!r} has {_distinct(column)} different values, which is too many for classes"
            self._problem(pointer, "invalid_data", detail)
        elif form == "binary" and count > 2 and column["type"] == "numeric":
            row, value = _outside(column, 1)
            detail = (
                f"column {name!r} has {count} classes, but this loss wants two (or numbers between 0 and 1): "
                f"row {row} holds {value:g}"
            )
            self._problem(pointer, "invalid_data", detail)
        elif count < 2:
            self._problem(pointer, "invalid_data", f"column {name!r} holds one class only")
        elif form == "binary" and count != 2:
            self._problem(pointer, "wrong_type", f"column {name!r} has {count} classes, but this loss wants two")

    def _check_range(self, column: Column, pointer: str, high: float, what: str) -> None:
        if column.get("max", 0) > high or column.get("min", 0) < 0:
            row, value = _outside(column, high)
            self._problem(pointer, "invalid_data", f"row {row}, column {column['name']!r}: {value:g} is not {what}")


def given_classes(field: Field, classes: int) -> Field:
    """The field of labels whose number of classes was given."""
    return whole(field.shape, 0.0, float(classes - 1), classes)


def _outside(column: Column, high: float) -> tuple[Any, float]:
    side = "max" if column["max"] > high else "min"
    return column.get(f"{side}_row", "?"), column[side]


def _categories(column: Column) -> list[Any]:
    """Class labels in sorted order: by number when all are numbers, else by code point."""
    found: list[Any] = column.get("values", []) if column["type"] == "numeric" else column.get("categories", [])
    return found


def _texts(column: Column) -> list[Any]:
    """The categories of a one-hot column: texts by code point; a Parquet file's numbers are no texts and sort as numbers."""
    found: list[Any] = column["categories"] if "categories" in column else column.get("values", [])
    return found


def _can_be_told_apart(column: Column) -> bool:
    return "categories" in column or "values" in column


def _distinct(column: Column) -> str:
    return str(column["distinct"]) if column["distinct"] <= MAX_CLASSES or "categories" in column else "more than 1000"


def _label_source(column: Column, arrays: Arrays) -> LabelSource:
    if column["type"] == "numeric":
        return LabelSource(arrays[f"numbers.{column['index']}"], column["values"])
    return LabelSource(arrays[f"codes.{column['index']}"])


def _text_source(column: Column, arrays: Arrays) -> LabelSource:
    if "categories" in column:
        return LabelSource(arrays[f"codes.{column['index']}"])
    return LabelSource(arrays[f"numbers.{column['index']}"], column["values"])


def _as_int(column: Column, arrays: Arrays) -> ArraySource:
    return ArraySource(arrays[f"numbers.{column['index']}"], torch.int64)
