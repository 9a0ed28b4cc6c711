"""NPZ: every array a field by its name. Headers are read as literals; np.load, and with it pickle, is never called."""

from __future__ import annotations

import ast
import math
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from workers.trainer.formats.figures import Figures
from workers.trainer.formats.prepared import PREVIEW_ROWS, UnreadableFile, Writer
from workers.trainer.formats.zipped import opened, reading

MAGIC = b"\x93NUMPY"
SUFFIX = ".npy"
MAX_HEADER_BYTES = 10_000
MAX_ARRAYS = 4096
MAX_DIMENSIONS = 16
BLOCK_BYTES = 8 * 2**20
WHOLE_BYTES = 2**30  # an array in Fortran order is turned round in memory
PREVIEW_NUMBERS = 16
SIZES = {"b": {1}, "i": {1, 2, 4, 8}, "u": {1, 2, 4, 8}, "f": {2, 4, 8}}


@dataclass(frozen=True)
class Header:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool

    @property
    def bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def read_npz(path: Path, writer: Writer) -> dict[str, Any]:
    """The schema; the arrays go to `writer` in their own dtype, little-endian. Raises UnreadableFile."""
    with opened(path) as (archive, entries):
        if not entries:
            raise UnreadableFile("the NPZ file holds no array")
        if len(entries) > MAX_ARRAYS:
            raise UnreadableFile(f"the NPZ file has {len(entries)} arrays; at most {MAX_ARRAYS} are read")
        writer.expect(sum(entry.file_size for entry in entries))
        arrays = {entry.filename.removesuffix(SUFFIX): _read(archive, entry, writer) for entry in entries}
    first = arrays.get("x") or next((a for a in arrays.values() if a["shape"]), None)
    if first is None:
        raise UnreadableFile("no array of the NPZ file has rows")
    return {"source": "npz", "rows": first["shape"][0], "arrays": arrays}


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, writer: Writer) -> dict[str, Any]:
    name = entry.filename.removesuffix(SUFFIX)
    with reading(archive, entry) as stream:
        header = read_header(stream, name, entry.file_size)
        schema: dict[str, Any] = {"dtype": header.dtype.name, "shape": list(header.shape)}
        if not header.shape:
            return schema  # a lone number has no rows
        if header.shape[0] == 0:
            raise UnreadableFile(f"array {name!r} has no row")
        figures, preview = Figures(), None
        for block in _blocks(stream, header, name):
            preview = block[:PREVIEW_ROWS].reshape(len(block[:PREVIEW_ROWS]), -1) if preview is None else preview
            figures.add(block)
            writer.append(name, block)
    assert preview is not None
    first = [[_json(number) for number in row[:PREVIEW_NUMBERS].tolist()] for row in preview]
    return schema | figures.schema() | {"preview": first}


def _json(number: Any) -> Any:
    return number if not isinstance(number, float) or math.isfinite(number) else None


def read_header(stream: IO[bytes], name: str, size: int) -> Header:
    """The header of one .npy of `size` bytes; `stream` then stands at the numbers. Raises UnreadableFile."""
    start = stream.read(8)
    if start[:6] != MAGIC or len(start) < 8 or start[6] not in (1, 2, 3):
        raise UnreadableFile(f"array {name!r} is no .npy file")
    width = 2 if start[6] == 1 else 4
    length_bytes = stream.read(width)
    length = struct.unpack("<H" if width == 2 else "<I", length_bytes)[0] if len(length_bytes) == width else 0
    text = stream.read(length) if 0 < length <= MAX_HEADER_BYTES else b""
    if not text or len(text) < length:
        raise UnreadableFile(f"array {name!r} has a header that cannot be read")
    header = _parsed(text, name)
    if 8 + width + length + header.bytes != size:
        raise UnreadableFile(f"array {name!r} is not as long as its shape {list(header.shape)} says")
    return header


def _parsed(text: bytes, name: str) -> Header:
    try:
        found = ast.literal_eval(text.decode("latin-1").strip())
        descr, fortran, shape = found["descr"], found["fortran_order"], found["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise UnreadableFile(f"array {name!r} has a header that cannot be read") from error
    if not isinstance(descr, str) or len(descr) < 3 or descr[1] not in SIZES or not descr[2:].isdigit():
        kind = "Python objects" if "O" in str(descr) else f"elements of type {str(descr)[:40]}"
        raise UnreadableFile(f"array {name!r} holds {kind}; numbers and truth values are read")
    if descr[0] not in "<>|=" or int(descr[2:]) not in SIZES[descr[1]]:
        raise UnreadableFile(f"array {name!r} holds elements of type {descr[:40]}; numbers of 8 to 64 bits are read")
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n < 2**48 for n in shape) or type(fortran) is not bool:
        raise UnreadableFile(f"array {name!r} has a header that cannot be read")
    if len(shape) > MAX_DIMENSIONS:
        raise UnreadableFile(f"array {name!r} has {len(shape)} dimensions; at most {MAX_DIMENSIONS} are read")
    return Header(np.dtype(descr), shape, fortran and len(shape) > 1)


def _blocks(stream: IO[bytes], header: Header, name: str) -> Iterator[npt.NDArray[Any]]:
    """The array in blocks of rows, little-endian, in C order."""
    little = header.dtype.newbyteorder("<")
    row = header.dtype.itemsize * math.prod(header.shape[1:])
    if header.fortran:
        if header.bytes > WHOLE_BYTES:
            raise UnreadableFile(f"array {name!r} is in Fortran order and too large to be turned round; save it in C order")
        whole = np.frombuffer(stream.read(header.bytes), header.dtype).reshape(header.shape, order="F")
        yield np.ascontiguousarray(whole, dtype=little)
        return
    if not row:
        raise UnreadableFile(f"array {name!r} has rows without a number in them")
    if row > WHOLE_BYTES:
        raise UnreadableFile(f"one row of array {name!r} takes {row:,} bytes; at most {WHOLE_BYTES:,} are read")
    step = max(1, BLOCK_BYTES // row)
    for start in range(0, header.shape[0], step):
        rows = min(step, header.shape[0] - start)
        block = np.frombuffer(stream.read(rows * row), header.dtype).reshape(rows, *header.shape[1:])
        yield block.astype(little, copy=False)
