"""The prepared arrays of a data set: rows are read from the file as they are asked for.

An array is mapped where its data is about to be held in memory anyway, which is fastest. Else rows are read by position: a
mapping would bring up to 2 MB into memory for every row that is touched, and what is resident would grow to the file's size.
A large table has its columns side by side as well, and then a batch costs one read for a row, however many its columns are.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.trainer.formats.prepared import ROWS

Rows = npt.NDArray[np.int64]
MOST_NUMBERS = 2**24  # of rows that are read with all their columns
Place = tuple[Path, str, tuple[int, ...], int]  # file, dtype, shape, offset in bytes

SAFETENSORS = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "|u1"}


class DataFile:
    """One file, which may hold many arrays: opened once, and mapped once where it is mapped at all."""

    def __init__(self, path: Path, *, mapped: bool = False) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        self.memory: mmap.mmap | None = None
        if mapped and path.stat().st_size:
            self.memory = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            self._file.close()  # the mapping keeps a descriptor of its own

    def read(self, target: memoryview, position: int) -> None:
        """Fills `target` from there on. Raises OSError."""
        while target:
            read = os.preadv(self._file.fileno(), [target], position)
            if not read:
                raise OSError(f"{self.path} is cut off")
            target, position = target[read:], position + read


class Stored:
    """One array on disk, (n, *shape)."""

    def __init__(self, file: DataFile, dtype: str, shape: tuple[int, ...], offset: int = 0) -> None:
        self._file, self._dtype, self._shape, self._offset = file, np.dtype(dtype), shape, offset
        count = int(np.prod(shape, dtype=np.int64))
        self._row_bytes = self._dtype.itemsize * (count // shape[0] if shape[0] else 0)
        self._mapped: npt.NDArray[Any] | None = None
        if file.memory is not None and count:
            self._mapped = np.frombuffer(file.memory, self._dtype, count, offset).reshape(shape)

    def __len__(self) -> int:
        return self._shape[0]

    def take(self, rows: Rows) -> npt.NDArray[Any]:
        """A copy of these rows, in the array's own dtype; `rows` may have several dimensions. Raises OSError, IndexError."""
        if self._mapped is not None:
            return self._mapped[rows]
        wanted = rows.reshape(-1)
        found = np.empty((len(wanted), *self._shape[1:]), self._dtype)
        if found.size:
            self._fill(found.data.cast("B"), wanted)
        return found.reshape(*rows.shape, *self._shape[1:])

    def slice(self, start: int, stop: int) -> npt.NDArray[Any]:
        """A copy of the rows from `start` up to `stop`."""
        return self.take(np.arange(start, stop))

    def _fill(self, target: memoryview, rows: Rows) -> None:
        """Rows that follow one another are read in one go."""
        if int(rows.min()) < 0 or int(rows.max()) >= len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        ends = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        for (start, stop), row in zip(itertools.pairwise(ends), rows[ends[:-1]].tolist(), strict=True):
            self._file.read(target[start * self._row_bytes : stop * self._row_bytes], self._offset + row * self._row_bytes)


class SideBySide:
    """All columns of a table, row after row. The rows that were read last stay, since every field of a batch asks for them."""

    def __init__(self, stored: Stored, columns: Sequence[str]) -> None:
        self._stored, self._rows = stored, np.empty(0, dtype=np.int64)
        self._block = stored.take(self._rows)
        self._places = {name: place for place, name in enumerate(columns)}

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def serves(self, rows: Rows) -> bool:
        """Whether these rows are better read here: not a stretch of a column, nor more than should be in memory."""
        if rows is self._rows:
            return True
        few = rows.ndim == 1 and len(rows) * len(self._places) <= MOST_NUMBERS
        return few and (len(rows) == 1 or bool((np.diff(rows) != 1).any()))

    def take(self, rows: Rows, name: str) -> npt.NDArray[np.float64]:
        """One column of these rows; for the very array that was asked for last nothing is read again."""
        if rows is not self._rows:
            self._block, self._rows = self._stored.take(rows), rows
        column: npt.NDArray[np.float64] = self._block[:, self._places[name]]
        return column


class StoredColumn(Stored):
    """One column of a table on disk, (n,), which is beside the others once more."""

    def __init__(self, name: str, table: SideBySide, file: DataFile, dtype: str, shape: tuple[int, ...], offset: int) -> None:
        super().__init__(file, dtype, shape, offset)
        self._name, self._table = name, table

    def take(self, rows: Rows) -> npt.NDArray[Any]:
        if self._table.serves(rows):
            return self._table.take(rows, self._name).astype(self._dtype)
        return super().take(rows)


class Arrays(Mapping[str, Stored]):
    """The arrays in a prepared folder by their names; `mapped` where all that is read is to stay in memory."""

    def __init__(self, folder: Path, schema: Mapping[str, Any], *, mapped: bool = False) -> None:
        self._mapped = mapped
        self._files: dict[Path, DataFile] = {}
        self._open: dict[str, Stored] = {}
        self._at: dict[str, Place] = {}
        self._table: SideBySide | None = None
        for name, at in schema.get("arrays_at", {}).items():
            self._at[name] = (folder / Path(at["file"]).name, at["dtype"], tuple(at["shape"]), 0)
        if (packed := folder / "arrays.safetensors").exists():
            self._at |= _in_safetensors(packed)
        rows = self._at.pop(ROWS) if "side_by_side" in schema else None
        if rows and not mapped:
            self._table = SideBySide(self._stored(rows), schema["side_by_side"])

    def __getitem__(self, name: str) -> Stored:
        if name not in self._open:
            self._open[name] = self._stored(self._at[name], name)
        return self._open[name]

    def _stored(self, place: Place, name: str = "") -> Stored:
        path, dtype, shape, offset = place
        if path not in self._files:
            self._files[path] = DataFile(path, mapped=self._mapped)
        if self._table is not None and name in self._table:
            return StoredColumn(name, self._table, self._files[path], dtype, shape, offset)
        return Stored(self._files[path], dtype, shape, offset)

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)


def _in_safetensors(path: Path) -> dict[str, Place]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {
        name: (path, SAFETENSORS[at["dtype"]], tuple(at["shape"]), 8 + length + at["data_offsets"][0])
        for name, at in header.items()
        if name != "__metadata__"
    }
