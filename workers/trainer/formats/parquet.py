"""Parquet: numbers, truth values, texts and lists of numbers, read in batches so that the whole need never fit in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from workers.trainer.formats.codes import Codes
from workers.trainer.formats.figures import Figures
from workers.trainer.formats.prepared import MAX_CATEGORIES, PREVIEW_ROWS, UnreadableFile, Writer

MAX_COLUMNS = 2000  # each is a file of its own, and a trainer may have 4,096 open
BATCH_ROWS = 65_536
BUFFER_BYTES = 2**20
PREVIEW_ITEMS = 8
NOT_PARQUET = "the Parquet file is damaged, cut off or of a kind that cannot be read"


class Column(Protocol):
    """One column on its way from Arrow batches to arrays and figures."""

    bytes_per_row: int

    def add(self, cells: Any, writer: Writer) -> None: ...
    def schema(self, writer: Writer) -> dict[str, Any]: ...


def read_parquet(path: Path, writer: Writer) -> dict[str, Any]:
    """The schema; the arrays of a CSV file, and for lists `values.<i>` and `offsets.<i>`, go to `writer`.

    Missing is a null, or NaN among numbers. Raises UnreadableFile.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            return _read(file, writer)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UnreadableFile(NOT_PARQUET) from error


def _read(file: Any, writer: Writer) -> dict[str, Any]:
    names = _names(file)
    if file.metadata.num_rows == 0:
        raise UnreadableFile("the file has no row")
    columns = [_column(index, file.schema_arrow.field(index).type) for index in range(len(names))]
    # A few bytes of a run-length code can stand for any number of rows.
    writer.expect(file.metadata.num_rows * sum(column.bytes_per_row for column in columns))
    rows, preview = 0, None
    read = [name for name, column in zip(names, columns, strict=True) if not isinstance(column, Unsupported)]
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=read, use_threads=False):
        cells = dict(zip(batch.schema.names, batch.columns, strict=True))
        for name, column in zip(names, columns, strict=True):
            if name in cells:
                column.add(cells[name], writer)
        preview = _preview(cells, names) if preview is None else preview
        rows += batch.num_rows
    if rows != file.metadata.num_rows:
        raise UnreadableFile(NOT_PARQUET)
    schemas = [{"name": name, **column.schema(writer)} for name, column in zip(names, columns, strict=True)]
    return {"source": "parquet", "rows": rows, "columns": schemas, "preview": preview}


def _names(file: Any) -> list[str]:
    names = [str(name) for name in file.schema_arrow.names]
    if len(names) > MAX_COLUMNS:
        raise UnreadableFile(f"the file has {len(names)} columns; at most {MAX_COLUMNS} are read")
    if not all(names) or len(set(names)) < len(names):
        raise UnreadableFile("a column of the file has no name, or a name stands twice")
    return names


def _preview(cells: dict[str, Any], names: list[str]) -> list[list[Any]]:
    return [[_shown(cells[n][row].as_py()) if n in cells else None for n in names] for row in range(_few(cells))]


def _few(cells: dict[str, Any]) -> int:
    return min(PREVIEW_ROWS, *(len(column) for column in cells.values())) if cells else 0


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return [_shown(item) for item in value[:PREVIEW_ITEMS]]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float) else str(value)[:200]


def _column(index: int, kind: Any) -> Column:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if _is_number(kind):
        return Numbers(index)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return Texts(index)
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return Lists(index) if lists and _is_number(kind.value_type) else Unsupported(str(kind)[:80])


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind))


def _numbers(cells: Any) -> Any:
    """float64, NaN where a cell is null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if pa.types.is_boolean(cells.type):
        cells = pc.cast(cells, pa.uint8())
    if pa.types.is_decimal(cells.type):
        return np.array([np.nan if v is None else float(v) for v in cells.to_pylist()], dtype=np.float64)
    values = pc.cast(cells, pa.float64(), safe=False)
    return np.array(values.to_numpy(zero_copy_only=False), dtype=np.float64)


class Numbers:
    bytes_per_row = 8

    def __init__(self, index: int) -> None:
        self._name, self._figures = f"numbers.{index}", Figures()

    def add(self, cells: Any, writer: Writer) -> None:
        values = _numbers(cells)
        self._figures.add(values)
        writer.append(self._name, values)

    def schema(self, writer: Writer) -> dict[str, Any]:
        del writer
        return {"type": "numeric", "distinct": MAX_CATEGORIES + 1, **self._figures.schema()}


class Texts:
    bytes_per_row = 4

    def __init__(self, index: int) -> None:
        self._codes = Codes(index)
        self._rows, self._missing = 0, 0
        self._first_missing: int | None = None

    def add(self, cells: Any, writer: Writer) -> None:
        import pyarrow.compute as pc

        nulls = np.asarray(pc.is_null(cells).to_numpy(zero_copy_only=False))
        if nulls.any():
            self._missing += int(nulls.sum())
            self._first_missing = self._first_missing or self._rows + int(nulls.argmax()) + 1
        self._rows += len(cells)
        if not self._codes.full:
            self._codes.add(cells, nulls, writer)

    def schema(self, writer: Writer) -> dict[str, Any]:
        missing = {"missing": self._missing, "first_missing": self._first_missing}
        return {"type": "text", **missing, **self._codes.schema(writer)}


class Lists:
    """Sequences of numbers: all values in a row, and where each sequence begins."""

    bytes_per_row = 8

    def __init__(self, index: int) -> None:
        self._index, self._figures, self._end = index, Figures(), 0
        self._rows, self._missing, self._longest, self._shortest = 0, 0, 0, 2**62
        self._first_missing: int | None = None

    def add(self, cells: Any, writer: Writer) -> None:
        import pyarrow.compute as pc

        if self._rows == 0:
            writer.append(f"offsets.{self._index}", np.zeros(1, dtype=np.int64))
        lengths = pc.list_value_length(cells)
        nulls = np.asarray(pc.is_null(lengths).to_numpy(zero_copy_only=False))
        if nulls.any():
            self._missing += int(nulls.sum())
            self._first_missing = self._first_missing or self._rows + int(nulls.argmax()) + 1
        sizes = pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False).astype(np.int64)
        self._longest, self._shortest = max(self._longest, int(sizes.max())), min(self._shortest, int(sizes.min()))
        values = _numbers(pc.list_flatten(cells))
        self._figures.add(values)
        writer.append(f"values.{self._index}", values)
        writer.append(f"offsets.{self._index}", self._end + np.cumsum(sizes))
        self._end += int(sizes.sum())
        self._rows += len(cells)

    def schema(self, writer: Writer) -> dict[str, Any]:
        del writer
        items = self._figures.schema()
        found = {"type": "list", "missing": self._missing, "first_missing": self._first_missing}
        sizes = {"longest": self._longest, "shortest": self._shortest, "gaps": items["missing"] + items["infinite"]}
        return found | sizes | {key: items[key] for key in ("min", "max", "integers") if key in items}


class Unsupported:
    bytes_per_row = 0

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def add(self, cells: Any, writer: Writer) -> None: ...

    def schema(self, writer: Writer) -> dict[str, Any]:
        del writer
        return {"type": "unsupported", "arrow": self._kind, "missing": 0, "first_missing": None}
