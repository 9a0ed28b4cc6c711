"""CSV: every column as numbers, as categories, or both.

Arrays of a table: `numbers.<i>` (float64, NaN where the cell is missing or not a number) for every column that holds a number,
and `codes.<i>` (int32 index into the column's `categories`, -1 where missing) for every column with at most MAX_CATEGORIES
different cells.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.trainer.formats.codes import Codes
from workers.trainer.formats.figures import Figures
from workers.trainer.formats.prepared import MAX_CATEGORIES, PREVIEW_ROWS, UnreadableFile, Writer
from workers.trainer.formats.text import decoded

MAX_COLUMNS = 4096
CHUNK_BYTES = 2**20  # what Arrow cuts a file into; a row of more than two of them is refused
BLOCK_BYTES = 32 * 2**20  # of cells and their offsets that are looked at together: enough rows of even the widest table
FILL_ROWS = 2**20
TRIED_CELLS = 64  # Arrow writes a message for each cell that is no number: a column of texts shows it in its first cells
MISSING = frozenset({"", "na", "nan", "null"})  # compared in lower case, blanks around a cell removed
# Arrow's own message would echo the file's bytes.
NOT_CSV = "not a CSV file: expected UTF-8 text with one header line and cells separated by commas"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
FIGURES = ("min", "max", "min_row", "max_row", "integers", "distinct", "values", "counts")


def read_csv(path: Path, writer: Writer) -> dict[str, Any]:
    """The schema of a CSV file with a header line, in UTF-8; its arrays go to `writer`. Raises UnreadableFile."""
    columns = Columns()
    for block in blocks(path):
        columns.add(block, writer)
    return {"source": "csv", **columns.schema(writer)}


# ---- from the file to cells


def blocks(path: Path) -> Iterator[Any]:
    """All cells as text, in blocks of rows (pyarrow.Table of strings); at least one row in all.

    Raises UnreadableFile: a row of the wrong width, an empty or a doubled heading, what is no UTF-8 or no CSV.
    """
    import pyarrow as pa
    from pyarrow import csv

    blank = _blank_lines(path)
    names = _header(path)
    ragged: list[Any] = []

    def refuse(row: Any) -> str:
        ragged.append(row)
        return "error"

    # One thread, so that a refused row knows its number.
    read = csv.ReadOptions(use_threads=False, column_names=names, skip_rows_after_names=blank + 1, block_size=CHUNK_BYTES)
    parse = csv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse)
    texts = csv.ConvertOptions(column_types={n: pa.string() for n in names}, strings_can_be_null=False)
    rows = 0
    try:
        with csv.open_csv(path, read_options=read, parse_options=parse, convert_options=texts) as reader:
            for block in _gathered(reader):
                rows += block.num_rows
                yield block
    except pa.ArrowInvalid as error:
        raise UnreadableFile(_wrong_width(ragged[0], blank) if ragged else NOT_CSV) from error
    if not rows:
        raise UnreadableFile("the file has a header but no row")


def _wrong_width(row: Any, blank: int) -> str:
    """What is said of a pyarrow.csv.InvalidRow; Arrow counts the header and the empty lines before it."""
    return f"row {row.number - 1 - blank} has {row.actual_columns} cells where the header has {row.expected_columns}"


def _gathered(reader: Any) -> Iterator[Any]:
    """The batches of a pyarrow.csv.CSVStreamingReader, so many together that they have BLOCK_BYTES."""
    import pyarrow as pa

    batches: list[Any] = []
    size = 0
    for batch in reader:
        if not batch.num_rows:
            continue
        batches.append(batch)
        size += batch.nbytes
        if size >= BLOCK_BYTES:
            yield pa.Table.from_batches(batches)
            batches, size = [], 0
    if batches:
        yield pa.Table.from_batches(batches)


def _blank_lines(path: Path) -> int:
    """The empty lines before the header, which Arrow counts as rows to skip. Raises UnreadableFile where a byte is not UTF-8:
    Arrow would hand such a row's text to a callback that nobody can catch it from.
    """
    first = ""
    for text in decoded(path, NOT_CSV):
        first = first or text.removeprefix("\ufeff")
    blank = len(first) - len(first.lstrip("\r\n"))
    if blank == len(first):
        raise UnreadableFile(NOT_CSV)
    return len(first[:blank].splitlines())


def _header(path: Path) -> list[str]:
    import pyarrow as pa
    from pyarrow import csv

    # The first record is read as data of unnamed columns: pyarrow would accept a doubled heading without a word.
    options = csv.ReadOptions(autogenerate_column_names=True, use_threads=False)
    parse = csv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda _: "skip")
    try:
        width = _width(path)
        if width > MAX_COLUMNS:
            raise UnreadableFile(f"the file has {width} columns; at most {MAX_COLUMNS} are read")
        types = csv.ConvertOptions(column_types={f"f{i}": pa.string() for i in range(width)}, strings_can_be_null=False)
        with csv.open_csv(path, read_options=options, parse_options=parse, convert_options=types) as reader:
            names = [str(v).strip() for v in reader.read_next_batch().slice(0, 1).to_pylist()[0].values()]
    except pa.ArrowInvalid as error:
        raise UnreadableFile(NOT_CSV) from error
    for index, name in enumerate(names):
        if not name:
            raise UnreadableFile(f"column {index + 1} has no heading")
        if name in names[:index]:
            raise UnreadableFile(f"the heading {name[:80]!r} stands twice")
    return names


def _width(path: Path) -> int:
    """Cells of the first record, asked of Arrow as if there was one column: it takes 14 KB for each that it believes in."""
    import pyarrow as pa
    from pyarrow import csv

    wider: list[Any] = []

    def stop(row: Any) -> str:
        wider.append(row)
        return "error"

    options = csv.ReadOptions(column_names=["first"], use_threads=False)
    parse = csv.ParseOptions(newlines_in_values=True, invalid_row_handler=stop)
    try:
        csv.open_csv(path, read_options=options, parse_options=parse).close()
    except pa.ArrowInvalid:
        if not wider:
            raise
    return int(wider[0].actual_columns) if wider and wider[0].number == 1 else 1


# ---- from cells to columns


class Columns:
    """What the schema says of a table's columns, collected block by block."""

    def __init__(self) -> None:
        self._columns: list[Column] = []
        self._rows = 0
        self._preview: list[list[str]] = []

    def add(self, block: Any, writer: Writer) -> None:
        """The next rows, a pyarrow.Table of strings; every block has the same columns."""
        self._columns = self._columns or [Column(index, name) for index, name in enumerate(block.column_names)]
        first = block.slice(0, PREVIEW_ROWS - len(self._preview))
        self._preview += [list(row.values()) for row in first.to_pylist()]
        self._rows += block.num_rows
        for column, cells in zip(self._columns, block.columns, strict=True):
            column.add(cells.combine_chunks(), writer)

    def schema(self, writer: Writer) -> dict[str, Any]:
        """JSON values: rows, columns and the first rows."""
        return {"rows": self._rows, "columns": [c.schema(writer) for c in self._columns], "preview": self._preview}


class Column:
    def __init__(self, index: int, name: str) -> None:
        self._name, self._array = name, f"numbers.{index}"
        self._figures, self._codes = Figures(), Codes(index)
        self._rows, self._missing = 0, 0
        self._first_missing: int | None = None
        self._first_text: dict[str, Any] | None = None

    def add(self, cells: Any, writer: Writer) -> None:
        """`cells` is a pyarrow.StringArray."""
        text, numbers, missing = _understood(cells)
        numeric = np.isfinite(numbers)
        if missing.any():
            self._missing += int(missing.sum())
            self._first_missing = self._first_missing or self._rows + int(missing.argmax()) + 1
        odd = ~numeric & ~missing
        if self._first_text is None and odd.any():
            at = int(odd.argmax())
            self._first_text = {"row": self._rows + at + 1, "value": text[at].as_py()[:80]}
        if self._figures.rows or numeric.any():
            self._add_numbers(numbers, writer)
        if not self._codes.full:
            self._codes.add(text, missing, writer)
        self._rows += len(cells)

    def _add_numbers(self, numbers: npt.NDArray[np.float64], writer: Writer) -> None:
        """A column's first number may come late: all cells before it are none."""
        before = range(self._figures.rows, self._rows, FILL_ROWS)
        gaps = (np.full(min(FILL_ROWS, self._rows - start), np.nan) for start in before)
        for values in itertools.chain(gaps, (numbers,)):
            self._figures.add(values)
            writer.append(self._array, values)

    def schema(self, writer: Writer) -> dict[str, Any]:
        numeric = self._figures.rows > 0
        kind = "text" if not numeric else ("numeric" if self._first_text is None else "mixed")
        column = {"name": self._name, "type": kind, "missing": self._missing, "first_missing": self._first_missing}
        if kind == "mixed":
            column["first_text"] = self._first_text
        column |= self._codes.schema(writer)
        if kind == "text":
            return column
        column.pop("counts", None)  # of texts; numbers count by their value
        found = self._figures.schema()
        if kind == "numeric":
            column["distinct"] = MAX_CATEGORIES + 1
        wanted = FIGURES if kind == "numeric" else ("min", "max")
        return column | {key: found[key] for key in wanted if key in found}


def _understood(cells: Any) -> tuple[Any, npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The cells without blanks around them, their numbers (NaN where one is no finite decimal number), which are missing."""
    import pyarrow.compute as pc

    numbers = _parsed(cells)
    if numbers is not None and np.isfinite(numbers).all():  # then there are no blanks, and nothing is missing
        return cells, numbers, np.zeros(len(cells), dtype=bool)
    text = pc.utf8_trim_whitespace(cells)
    missing = _missing(text)
    return text, _numbers(text, missing), missing


def _parsed(cells: Any) -> npt.NDArray[np.float64] | None:
    """float64 of every cell, NaN for a null; None where a cell is no number at all."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        pc.cast(cells.slice(0, TRIED_CELLS), pa.float64())
        return np.array(pc.cast(cells, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    except pa.ArrowInvalid:
        return None


def _missing(text: Any) -> npt.NDArray[np.bool_]:
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.is_in(pc.utf8_lower(text), value_set=pa.array(sorted(MISSING)))
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)


def _numbers(text: Any, missing: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """float64 of every cell, NaN where a cell is missing or no finite decimal number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    null = pa.scalar(None, pa.string())
    values = _parsed(pc.if_else(pa.array(missing), null, text))
    if values is None or not (np.isfinite(values) | missing).all():
        # Arrow's parser takes no leading plus; a cell that is no number becomes null, then NaN.
        plain = pc.if_else(pc.match_substring_regex(text, NUMBER), text, null)
        values = _parsed(pc.replace_substring_regex(plain, r"^\+", ""))
    assert values is not None
    values[~np.isfinite(values)] = np.nan
    return values
