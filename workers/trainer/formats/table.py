"""CSV: every column as numbers, as categories, or both.

Arrays of a table: `numbers.<i>` (float64, NaN where the cell is missing or not a number) for every column that holds a number,
and `codes.<i>` (int32 index into the column's `categories`, -1 where missing) for every column with at most MAX_CATEGORIES
different cells.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.trainer.formats.figures import Figures
from workers.trainer.formats.prepared import MAX_CATEGORIES, PREVIEW_ROWS, Arrays, UnreadableFile
from workers.trainer.formats.text import decoded

MAX_COLUMNS = 4096
MISSING = frozenset({"", "na", "nan", "null"})  # compared in lower case, blanks around a cell removed
# Arrow's own message would echo the file's bytes.
NOT_CSV = "not a CSV file: expected UTF-8 text with one header line and cells separated by commas"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
FIGURES = ("min", "max", "min_row", "max_row", "integers", "distinct", "values", "counts")
BLOCK_ROWS = 65_536


def read_csv(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Schema and arrays of a CSV file with a header line, in UTF-8. Raises UnreadableFile."""
    return columns_of(read_cells(path))


def columns_of(table: Any) -> tuple[dict[str, Any], Arrays]:
    """Schema and arrays of a pyarrow.Table of strings."""
    arrays: Arrays = {}
    columns = [_column(index, name, table[name], arrays) for index, name in enumerate(table.column_names)]
    preview = [list(row.values()) for row in table.slice(0, PREVIEW_ROWS).to_pylist()]
    return {"source": "csv", "rows": table.num_rows, "columns": columns, "preview": preview}, arrays


def read_cells(path: Path) -> Any:
    """All cells as text (pyarrow.Table of strings); a row of the wrong width, an empty or a doubled heading is refused."""
    import pyarrow as pa
    from pyarrow import csv

    blank = _blank_lines(path)
    names = _header(path)
    ragged: list[Any] = []

    def refuse(row: Any) -> str:
        ragged.append(row)
        return "error"

    try:
        table = csv.read_csv(
            path,
            # One thread, so that a refused row knows its number.
            read_options=csv.ReadOptions(use_threads=False, column_names=names, skip_rows_after_names=blank + 1),
            parse_options=csv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse),
            convert_options=csv.ConvertOptions(column_types={n: pa.string() for n in names}, strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        if ragged:
            row = ragged[0]
            raise UnreadableFile(
                f"row {row.number - 1 - blank} has {row.actual_columns} cells where the header has {row.expected_columns}"
            ) from error
        raise UnreadableFile(NOT_CSV) from error
    if table.num_rows == 0:
        raise UnreadableFile("the file has a header but no row")
    return table


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
        with csv.open_csv(path, read_options=options, parse_options=parse) as reader:
            width = len(reader.schema)
        types = csv.ConvertOptions(column_types={f"f{i}": pa.string() for i in range(width)}, strings_can_be_null=False)
        with csv.open_csv(path, read_options=options, parse_options=parse, convert_options=types) as reader:
            names = [str(v).strip() for v in reader.read_next_batch().slice(0, 1).to_pylist()[0].values()]
    except pa.ArrowInvalid as error:
        raise UnreadableFile(NOT_CSV) from error
    if len(names) > MAX_COLUMNS:
        raise UnreadableFile(f"the file has {len(names)} columns; at most {MAX_COLUMNS} are read")
    for index, name in enumerate(names):
        if not name:
            raise UnreadableFile(f"column {index + 1} has no heading")
        if name in names[:index]:
            raise UnreadableFile(f"the heading {name[:80]!r} stands twice")
    return names


def _column(index: int, name: str, cells: Any, arrays: Arrays) -> dict[str, Any]:
    """What the schema says of one column; its arrays are added to `arrays`. `cells` is a pyarrow.ChunkedArray of strings."""
    import pyarrow.compute as pc

    text = pc.utf8_trim_whitespace(cells)
    missing = _missing(text)
    numbers = _numbers(text)
    numeric = np.isfinite(numbers)
    column = {"name": name, "type": _type(missing, numeric), "missing": int(missing.sum()), "first_missing": _first(missing)}
    odd = ~numeric & ~missing
    if column["type"] == "mixed":
        row = _first(odd)
        assert row is not None
        column["first_text"] = {"row": row, "value": text[row - 1].as_py()[:80]}
    if numeric.any():
        arrays[f"numbers.{index}"] = numbers
        figures = Figures()
        figures.add(numbers)
        found = figures.schema()
        wanted = FIGURES if column["type"] == "numeric" else ("min", "max")
        column |= {key: found[key] for key in wanted if key in found}
        if column["type"] == "numeric":
            column.setdefault("distinct", MAX_CATEGORIES + 1)
    _categories(index, text, missing, column, arrays)
    return column


def _missing(text: Any) -> npt.NDArray[np.bool_]:
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.is_in(pc.utf8_lower(text), value_set=pa.array(sorted(MISSING)))
    return np.asarray(found.to_numpy(), dtype=bool)


def _numbers(text: Any) -> npt.NDArray[np.float64]:
    """float64 of every cell, NaN where a cell is no finite decimal number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    number = pc.match_substring_regex(text, NUMBER)
    # Arrow's parser takes no leading plus; a cell that is no number becomes null, then NaN.
    plain = pc.if_else(number, text, pa.scalar(None, pa.string()))
    if pc.any(pc.starts_with(plain, "+")).as_py():
        plain = pc.replace_substring_regex(plain, r"^\+", "")
    values: npt.NDArray[np.float64] = pc.cast(plain, pa.float64()).to_numpy().astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    return values


def _type(missing: npt.NDArray[np.bool_], numeric: npt.NDArray[np.bool_]) -> str:
    if not numeric.any():
        return "text"
    return "numeric" if (numeric | missing).all() else "mixed"


def _first(mask: npt.NDArray[np.bool_]) -> int | None:
    """The first row (counted from 1, header left out) where the mask is true."""
    return int(mask.argmax()) + 1 if mask.any() else None


def _has_many(text: Any) -> bool:
    """Whether there are more than MAX_CATEGORIES different cells: a column of numbers shows that in its first block."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pa.chunked_array([[]], pa.string())
    for start in range(0, len(text), BLOCK_ROWS):
        known = pa.chunked_array([pc.unique(pa.chunked_array([*known.chunks, *text.slice(start, BLOCK_ROWS).chunks]))])
        if (~_missing(known)).sum() > MAX_CATEGORIES:
            return True
    return False


def _categories(index: int, text: Any, missing: npt.NDArray[np.bool_], column: dict[str, Any], arrays: Arrays) -> None:
    import pyarrow.compute as pc

    if _has_many(text):
        column.setdefault("distinct", MAX_CATEGORIES + 1)
        return
    encoded = text.combine_chunks().dictionary_encode()
    found = encoded.dictionary.to_pylist()
    kept = sorted(c for c in found if c.lower() not in MISSING)  # Python sorts strings by code point
    column.setdefault("distinct", len(kept))
    position = {category: code for code, category in enumerate(kept)}
    recode = np.array([position.get(category, -1) for category in found], dtype=np.int32)
    codes = recode[pc.fill_null(encoded.indices, 0).to_numpy()]
    codes[missing] = -1
    arrays[f"codes.{index}"] = codes
    column["categories"] = kept
    if column["type"] == "text":
        column["counts"] = np.bincount(codes[codes >= 0], minlength=len(kept)).tolist()
