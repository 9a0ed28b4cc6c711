"""What a user's Dataset gives, item by item, as named arrays: what default_collate would make of all items at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from jobs.data_spec import MAX_FIELDS
from jobs.spec import SpecProblem
from jobs.transforms import FIELD_NAME
from workers.trainer.fields import InvalidData
from workers.trainer.formats.npz import BLOCK_BYTES, MAX_DIMENSIONS, SIZES
from workers.trainer.source import user_errors

HERE = "/dataset/class"
PAIR = ("x", "y")
BLOCK_ROWS = 4096
NUMBERS = "a field of an item is a tensor, a NumPy array or a number"

Array = npt.NDArray[Any]
Row = dict[str, Array]


class Items:
    """A map-style data set, read in the order of its indices."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        """Asks for its length, once. Raises SourceProblem when it gives none."""
        self._dataset, self._class = dataset, type(dataset).__name__
        with user_errors(HERE, f"{self._class}.__len__"):
            self.rows = len(dataset)  # type: ignore[arg-type]
        self._first: Row | None = None

    def blocks(self, indices: Iterable[int]) -> Iterator[dict[str, Array]]:
        """The items at these indices, stacked: each array is (rows, *shape). The first item decides names, dtypes and shapes.

        Raises SourceProblem for what the user's code raises, and InvalidData for an item that cannot be stacked.
        """
        rows: list[Row] = []
        size = 0
        for index in indices:
            rows.append(self._row(index))
            size += sum(array.nbytes for array in rows[-1].values())
            if len(rows) == BLOCK_ROWS or size >= BLOCK_BYTES:
                yield _stacked(rows)
                rows, size = [], 0
        if rows:
            yield _stacked(rows)

    def _row(self, index: int) -> Row:
        with user_errors(HERE, f"{self._class}.__getitem__({index})"):
            item = self._dataset[index]
        try:
            row = {name: _array(name, value) for name, value in _fields(item).items()}
            self._first = row if self._first is None else self._first
            _raise_unless_alike(row, self._first)
        except _Unfit as error:
            detail = f"row {index + 1} ({self._class}[{index}]): {error}"
            raise InvalidData([SpecProblem(HERE, "invalid_data", detail)]) from error
        return row


class _Unfit(Exception):
    """The item cannot be stacked; the text says why."""


def _stacked(rows: list[Row]) -> dict[str, Array]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _fields(item: Any) -> Mapping[str, Any]:
    """The item's values by name: a mapping's own names, x and y of a pair, x alone of anything else."""
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        item = dict(zip(item._fields, item, strict=True))
    if isinstance(item, Mapping):
        return _named(item)
    if not isinstance(item, tuple | list):
        return {"x": item}
    if len(item) != len(PAIR):
        raise _Unfit(f"it is a {type(item).__name__} of {len(item)}; an item is x, (x, y) or a dict of named fields")
    return dict(zip(PAIR, item, strict=True))


def _named(item: Mapping[Any, Any]) -> Mapping[str, Any]:
    if not 0 < len(item) <= MAX_FIELDS:
        raise _Unfit(f"it has {len(item)} fields; 1 to {MAX_FIELDS} are read")
    for name in item:
        if not isinstance(name, str) or not re.fullmatch(FIELD_NAME, name):
            raise _Unfit(f"a field cannot be called {name!r:.80}; names are of small letters, digits and _")
    return item


def _array(name: str, value: Any) -> Array:
    """A copy, since a Dataset may fill the same buffer again."""
    try:
        found = _of_tensor(name, value) if isinstance(value, Tensor) else _of_number(name, value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise _Unfit(f"{name} cannot be read: {type(error).__name__}: {error!s:.200}") from error
    if found.dtype.itemsize not in SIZES.get(found.dtype.kind, ()):
        raise _Unfit(f"{name} holds elements of type {found.dtype.name}; numbers and truth values of 8 to 64 bits are read")
    if found.ndim >= MAX_DIMENSIONS or not found.size:
        raise _Unfit(
            f"{name} has the shape {_shape(found)}; a field has a number in it and fewer than {MAX_DIMENSIONS} dimensions"
        )
    return found


def _of_tensor(name: str, value: Tensor) -> Array:
    if value.layout != torch.strided or value.is_quantized or value.is_complex():
        raise _Unfit(f"{name} is a tensor of another kind ({value.dtype}, {value.layout}); dense tensors of numbers are read")
    value = value.detach().cpu()
    # NumPy has no bfloat16; float32 holds each of them exactly.
    return np.array((value.float() if value.dtype == torch.bfloat16 else value).numpy())


def _of_number(name: str, value: Any) -> Array:
    if not isinstance(value, np.ndarray | np.generic | bool | int | float):
        raise _Unfit(f"{name} is a {type(value).__name__}; {NUMBERS}")
    found = np.array(value)
    return found.astype(found.dtype.newbyteorder("<"), copy=False)


def _raise_unless_alike(row: Row, first: Row) -> None:
    if row.keys() != first.keys():
        raise _Unfit(f"it has the fields {', '.join(row)}, but the first item {', '.join(first)}")
    for name, array in row.items():
        wanted = first[name]
        if array.shape != wanted.shape:
            raise _Unfit(f"{name} has the shape {_shape(array)}, but the first item's {_shape(wanted)}")
        if array.dtype != wanted.dtype:
            raise _Unfit(f"{name} is {array.dtype.name}, but the first item's is {wanted.dtype.name}")


def _shape(array: Array) -> str:
    return str(tuple(array.shape))
