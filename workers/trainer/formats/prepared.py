"""What reading an upload leaves behind: arrays appended block by block to raw files, and a schema that is written last.

`schema.json` names each array: {"arrays_at": {name: {"file", "dtype", "shape"}}}. A file holds the array's numbers and nothing
else, little-endian in C order, so that a trainer can map it. The arrays of a CSV file or a built-in set lie in one
`arrays.safetensors` instead. A table too large to be held in memory has its columns once more in ROWS, float64 (n, k), and
"side_by_side" names them: a row of it is one read, where the columns take one read each.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FORMAT = 1
READABLE = 0o644
MAX_CATEGORIES = 1000  # different values of one column that are told apart
PREVIEW_ROWS = 5
MAX_OUTPUT_BYTES = 32 * 2**30
FREE_OUTPUT_BYTES = 256 * 2**20  # what even the smallest upload may become
MOST_TIMES_LARGER = 100  # deflate alone can reach 1,000
COPIED_BYTES = 2**22
REWRITTEN_ROWS = 2**20
RESIDENT_BYTES = 2**30  # data of more, counted as the tensors it becomes, stays on disk while a model trains on it
ROWS = "rows"
ROWS_BLOCK_NUMBERS = 2**22
SAFETENSORS = {"<f8": "F64", "<i4": "I32"}

Arrays = dict[str, npt.NDArray[Any]]


class UnreadableFile(Exception):
    """The upload is no data set that can be read; the text says where and why."""


def most_bytes(upload: Path) -> int:
    """What an upload's arrays may take on disk: a bomb is much larger than what was sent."""
    return min(MAX_OUTPUT_BYTES, max(FREE_OUTPUT_BYTES, MOST_TIMES_LARGER * upload.stat().st_size))


class Writer:
    """The arrays of one data set on their way to `folder`. Nothing is there under its final name before `finish`."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit, self._written = folder, limit, 0
        self._files: dict[str, Path] = {}
        self._kinds: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self._rows: dict[str, int] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def expect(self, total: int) -> None:
        """Raises UnreadableFile when `total` more bytes would be too many: asked before they are read."""
        if self._written + total > self._limit:
            raise UnreadableFile(
                f"the file unpacks to more than {self._limit:,} bytes, which is too much for a file of its size"
            )

    def append(self, name: str, block: npt.NDArray[Any]) -> None:
        """Adds rows to the array `name`; every block has one dtype and one row shape. Raises UnreadableFile, OSError."""
        self.expect(block.nbytes)
        if name not in self._files:
            self._files[name] = self._folder / f"array-{len(self._kinds)}.{os.getpid()}.tmp"
            self._files[name].write_bytes(b"")
            self._kinds[name], self._rows[name] = (block.dtype, block.shape[1:]), 0
        assert self._kinds[name] == (block.dtype, block.shape[1:])
        with self._files[name].open("ab") as file:  # not kept open: there may be more arrays than descriptors
            file.write(np.ascontiguousarray(block).data.cast("B") if block.size else b"")
        self._rows[name] += len(block)
        self._written += block.nbytes

    def drop(self, name: str) -> None:
        """Forgets an array that turned out to be of no use."""
        if name in self._files:
            self._files.pop(name).unlink()

    def rewrite(self, name: str, new: npt.NDArray[Any]) -> None:
        """Replaces every value v of an integer array by new[v], in place."""
        dtype = self._kinds[name][0]
        with self._files[name].open("r+b") as file:  # a mapping of the whole would all be resident in the end
            for start in range(0, self._rows[name], REWRITTEN_ROWS):
                file.seek(start * dtype.itemsize)
                values = np.fromfile(file, dtype, REWRITTEN_ROWS)
                file.seek(start * dtype.itemsize)
                file.write(new[values].data.cast("B"))

    def finish(self, schema: dict[str, Any], *, packed: bool = False) -> None:
        """Makes the data set whole: arrays first, the schema last; `packed`, the arrays are one file. Raises OSError."""
        columns = side_by_side(schema)
        if columns and self._add_rows(columns):
            schema = {**schema, "side_by_side": columns}
        if packed:
            self._pack([name for name in self._files if name != ROWS])
        arrays = {}
        for name, file in self._files.items():
            final = file.with_name(file.name.partition(".")[0] + ".bin")
            publish(file, final)
            arrays[name] = {"file": final.name, "dtype": self._kinds[name][0].str, "shape": self._shape(name)}
        write_schema(self._folder, {**schema, "arrays_at": arrays})

    def _add_rows(self, columns: list[str]) -> bool:
        """Appends ROWS, unless the data set would be too large with them."""
        rows = self._rows[columns[0]]
        if self._written + rows * len(columns) * 8 > self._limit:
            return False
        step = max(1, ROWS_BLOCK_NUMBERS // len(columns))
        for start in range(0, rows, step):
            block = np.empty((min(step, rows - start), len(columns)))
            for place, name in enumerate(columns):
                dtype = self._kinds[name][0]
                block[:, place] = np.fromfile(self._files[name], dtype, len(block), offset=start * dtype.itemsize)
            self.append(ROWS, block)
        return True

    def _shape(self, name: str) -> list[int]:
        return [self._rows[name], *self._kinds[name][1]]

    def _pack(self, names: list[str]) -> None:
        """These arrays become one safetensors file; each is gone from the disk before the next is copied."""
        at, offset = {}, 0
        names = sorted(names, key=lambda name: -self._kinds[name][0].itemsize)  # every number at a multiple of its size
        for name in names:
            end = offset + self._files[name].stat().st_size
            at[name] = {
                "dtype": SAFETENSORS[self._kinds[name][0].str],
                "shape": self._shape(name),
                "data_offsets": [offset, end],
            }
            offset = end
        header = json.dumps(at).encode()
        header += b" " * (-len(header) % 8)
        packed = self._files[""] = self._folder / f"arrays.{os.getpid()}.tmp"
        with packed.open("wb") as target:
            target.write(len(header).to_bytes(8, "little") + header)
            for name in names:
                with self._files[name].open("rb") as source:
                    shutil.copyfileobj(source, target, COPIED_BYTES)
                self.drop(name)
        publish(packed, self._folder / "arrays.safetensors")
        del self._files[""]

    def discard(self) -> None:
        """Removes what was written so far."""
        for file in self._files.values():
            file.unlink(missing_ok=True)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()


def side_by_side(schema: dict[str, Any]) -> list[str]:
    """The arrays of a table that a batch may need, one for each column that can be used; none of one that fits in memory."""
    found, width = [], 0
    for index, column in enumerate(schema.get("columns", [])):
        if column["type"] == "numeric":
            found.append(f"numbers.{index}")
            width += 1
        elif "categories" in column:
            found.append(f"codes.{index}")
            width += len(column["categories"])
    return found if len(found) > 1 and schema["rows"] * width * 4 > RESIDENT_BYTES else []


def write_schema(folder: Path, schema: dict[str, Any]) -> None:
    """The schema under its final name."""
    temporary = folder / f"schema.{os.getpid()}.tmp"
    temporary.write_text(json.dumps({"format": FORMAT, **schema}, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    publish(temporary, folder / "schema.json")


def publish(temporary: Path, final: Path) -> None:
    """Renames a file that is safe on the disk by then."""
    # safetensors writes for its own user only; the one who trains may be another. Under profile strict, which has no chmod,
    # it is the same.
    with contextlib.suppress(PermissionError):
        temporary.chmod(READABLE)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    directory = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
