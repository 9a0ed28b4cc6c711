"""A CSV file is read in blocks: where one ends changes nothing, and what is in memory does not grow with the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.trainer import ingest
from workers.trainer.arrays import Arrays
from workers.trainer.formats import figures, prepared, table

MB = 10**6
# Numbers in every spelling, what looks like one and is none, the forms of a missing cell, and what needs quotation marks.
CELLS = ["1", "1.0", "+1", "-1", "+-1", "++1", "0", "-0.0", "1e3", "+.5", ".", "1.", "11", "007", "2", "3", "-"]
CELLS += ["1e999", "-1e999", "1e-999", "inf", "NaN", "nan", "NA", "na", "null", "0x10", "1_0", "1e", "x", "X", "é", "x" * 30]
CELLS += ["", " ", " 1", "2 ", " na ", "\t", "\u00a0", "a,b", "two\nlines", "a\r\nb", 'a "word"', "'"]
Read = tuple[dict[str, Any], dict[str, bytes]] | str


def written(rows: list[list[str]], newline: str) -> bytes:
    def quoted(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"' if any(c in cell for c in ',"\r\n') or not cell else cell

    return newline.join(",".join(map(quoted, row)) for row in rows).encode() + newline.encode()


def outcome(content: bytes) -> Read:
    """The schema and the bytes of every array; or the sentence with which the file is refused."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "upload").write_bytes(content)
        try:
            schema = ingest.read(Path(folder) / "upload", Path(folder) / "out", "csv")
        except ingest.UnreadableFile as error:
            assert os.listdir(folder) == ["upload"]
            return str(error)
        arrays = Arrays(Path(folder) / "out", schema)
        return schema, {name: array.slice(0, len(array)).tobytes() for name, array in arrays.items()}


def in_small_blocks(content: bytes, chunk: int) -> Read:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "CHUNK_BYTES", chunk)
        patch.setattr(table, "BLOCK_BYTES", 1)
        patch.setattr(table, "FILL_ROWS", 2)
        patch.setattr(figures, "COUNTED_ROWS", 3)
        patch.setattr(prepared, "REWRITTEN_ROWS", 2)
        patch.setattr(prepared, "COPIED_BYTES", 5)
        return outcome(content)


def tables(width: int) -> st.SearchStrategy[list[list[str]]]:
    """Some columns hold numbers nearly everywhere, as most tables do."""
    columns = [st.one_of(st.sampled_from(CELLS), st.floats(width=32).map(repr), st.just("5")) for _ in range(width)]
    return st.lists(st.tuples(*columns).map(list), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4).flatmap(tables), st.sampled_from(["\n", "\r\n"]), st.integers(0, 2), st.data())
def test_where_a_block_ends_changes_nothing(rows: list[list[str]], newline: str, blank: int, data: st.DataObject) -> None:
    if data.draw(st.booleans(), label="one row is too wide"):
        rows = [*rows, [*rows[0], "1"]]
    heading = [f"c{i}" for i in range(len(rows[0]))]
    content = (newline * blank).encode() + written([heading, *rows], newline)
    assert in_small_blocks(content, data.draw(st.integers(200, 400), label="chunk")) == outcome(content)


@pytest.mark.parametrize("cell", ["x", "NA", "1.0"])
def test_a_column_changes_its_kind_late(cell: str) -> None:
    """A first number after many cells that are none, or a first text after many numbers."""
    content = written([["a", "b"], *([cell, "k"] for _ in range(300)), ["7", "k"], ["y", "l"]], "\n")
    whole = outcome(content)
    assert not isinstance(whole, str)
    schema, arrays = whole
    numbers = np.frombuffer(arrays["numbers.0"])
    assert numbers[-2] == 7
    assert np.isnan(numbers[:300]).all() == (cell != "1.0")
    assert schema["columns"][0]["first_text"]["row"] == (1 if cell == "x" else 302)
    assert in_small_blocks(content, 200) == whole


def test_categories_are_sorted_over_the_whole_file() -> None:
    """Provisional codes of the first blocks get their final place; one text too many takes them all away."""
    texts = [f"k{i}" for i in range(999, -1, -1)]
    for more, categories in ((["k5", "NA"], sorted(texts)), (["k1000"], None)):
        content = written([["a", "b"], *([t, "0"] for t in [*texts, *more])], "\n")
        read = in_small_blocks(content, 200)
        assert read == outcome(content)
        assert not isinstance(read, str)
        schema, arrays = read
        assert schema["columns"][0].get("categories") == categories
        if categories:
            codes = np.frombuffer(arrays["codes.0"], np.int32)
            assert [categories[c] if c >= 0 else None for c in codes] == [*texts, "k5", None]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [("1,2,3", "row 501 has 3 cells where the header has 2"), ("1", "row 501 has 1 cells where the header has 2")],
)
def test_a_row_of_the_wrong_width_knows_its_number_in_any_block(row: str, sentence: str) -> None:
    content = "\n\na,b\n" + "1,2\n\n" * 500 + row + "\n"
    assert in_small_blocks(content.encode(), 100) == sentence
    assert in_small_blocks(("\ufeff" + content).encode(), 100) == sentence


# ---- memory

reads_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
# VmHWM begins anew with the program; what getrusage says of a process may be its parent's, from before exec.
PEAK = """
import re, sys
from pathlib import Path
from workers.trainer import ingest
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
ingest.confine()
import pyarrow.csv, pyarrow.compute
before = peak()
code = ingest.main(["read", sys.argv[1], sys.argv[2], "csv"])
print(peak() - before)
sys.exit(code)
"""


def peak(path: Path) -> tuple[dict[str, Any], int]:
    """What reading the file says, and the bytes of memory that it took at most, beyond what the imports take."""
    command = [sys.executable, "-c", PEAK, str(path), str(path.with_name("out"))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    said, taken = ended.stdout.splitlines()
    return json.loads(said), int(taken)


def repeated(path: Path, start: bytes, block: bytes, size: int) -> Path:
    with path.open("wb") as file:
        file.write(start)
        for _ in range(size // len(block)):
            file.write(block)
    return path


@reads_proc
@pytest.mark.parametrize(
    ("start", "block"),
    [(b"a,b\n1,2\n", b"x" * MB), (b"", b"x," * MB), (b'a,b\n1,"', b"x\n" * MB), (b"a,b\n", b"1," * MB)],
    ids=["a cell", "a header", "a quotation mark that is never closed", "a row"],
)
def test_an_endless_line_is_refused_without_eating_memory(tmp_path: Path, start: bytes, block: bytes) -> None:
    said, taken = peak(repeated(tmp_path / "upload", start, block, 100 * MB))
    assert "not a CSV file" in said["problem"]
    assert taken < 60 * MB


@reads_proc
def test_a_header_of_too_many_columns_is_refused_without_eating_memory(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(b'"a\nb"' + b"," * 500_000 + b"\nx\n")
    said, taken = peak(tmp_path / "upload")
    assert "500001 columns" in said["problem"]
    assert taken < 60 * MB


def test_the_widest_table_is_read(tmp_path: Path) -> None:
    """In one file, since a trainer could not open one for every column."""
    width, rows = table.MAX_COLUMNS, 3
    (tmp_path / "upload").write_bytes(written([[f"c{i}" for i in range(width)], *[["1"] * width] * rows], "\n"))
    schema = ingest.read(tmp_path / "upload", tmp_path / "out")
    assert (schema["rows"], len(schema["columns"])) == (rows, width)
    assert len(os.listdir(tmp_path / "out")) == 2


@pytest.mark.slow
@reads_proc
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Numbers, categories and a text that is another in every one of millions of rows."""
    pairs = np.random.default_rng(0).normal(size=(10_000, 2)).tolist()
    lines = [f"{a:.6f},{b:.6f},{row % 50},kind {row % 7}" for row, (a, b) in enumerate(pairs)]
    path, taken = tmp_path / "upload", {}
    for size in (50, 200):
        with path.open("w") as file:
            file.write("a,b,count,kind,name\n")
            rows = 0
            while file.tell() < size * MB:
                file.writelines(f"{line},name {row}\n" for row, line in enumerate(lines, rows))
                rows += len(lines)
        said, taken[size] = peak(path)
        assert said["schema"]["rows"] == rows
    assert taken[200] < 1.3 * taken[50]
    assert taken[200] < 400 * MB  # read as a whole, it took 890
