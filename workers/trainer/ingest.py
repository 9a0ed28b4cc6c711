"""Reads a file once into arrays and a schema: `python -m workers.trainer.ingest read FILE FOLDER [FORMAT]`.

What the file is its first bytes say, never its name. Every later reader (the checker, the trainer) sees only what lies in
FOLDER afterwards, never the upload itself: a stranger's bytes are parsed in this one disposable process, under limits of
memory, time and output. The schema is written last, so that a folder with a schema is whole.

`... builtins FOLDER` prepares the sets that come inside scikit-learn: `x` float32, `y` int64 labels (n,) or float32 (n, 1).
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from workers.trainer.formats.images import read_images
from workers.trainer.formats.npz import SUFFIX, read_npz
from workers.trainer.formats.parquet import read_parquet
from workers.trainer.formats.prepared import (
    MAX_OUTPUT_BYTES,
    Arrays,
    UnreadableFile,
    Writer,
    most_bytes,
    publish,
    write_schema,
)
from workers.trainer.formats.program import is_program, read_program
from workers.trainer.formats.source import is_source, read_source
from workers.trainer.formats.table import read_csv
from workers.trainer.formats.text import read_text
from workers.trainer.formats.zipped import opened

__all__ = ["UnreadableFile", "builtins", "main", "read", "write"]

MEMORY_BYTES = 8 * 2**30
CPU_SECONDS = 600
USAGE = (
    "usage: python -m workers.trainer.ingest read FILE FOLDER [auto | csv | text | python] | csv FILE FOLDER | builtins FOLDER"
)

Reader = Callable[[Path, Path], dict[str, Any]]  # reads a file into a folder; the schema


def write(folder: Path, schema: dict[str, Any], arrays: Arrays) -> None:
    """Schema and arrays under their final names, the schema last."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"arrays.{os.getpid()}.tmp"
    save_file(arrays, temporary)
    publish(temporary, folder / "arrays.safetensors")
    write_schema(folder, schema)


# ---- what a file is


def read(path: Path, folder: Path, asked: str = "auto") -> dict[str, Any]:
    """Reads a file of any known format into `folder`; the schema. Raises UnreadableFile."""
    return (READERS[asked] if asked in READERS else recognise(path))(path, folder)


def recognise(path: Path) -> Reader:
    """The reader for a file, by its first bytes. Raises UnreadableFile."""
    with path.open("rb") as file:
        head = file.read(16)
    for magic, kind in MAGIC:
        if head.startswith(magic):
            return READERS[kind] if kind in READERS else _refused(kind)
    return _text_or_table


def _refused(what: str) -> Reader:
    raise UnreadableFile(f"{what} cannot be a data set; upload CSV, Parquet, NPZ, a ZIP of images, or plain text")


def _streamed(reader: Callable[[Path, Writer], dict[str, Any]], *, packed: bool = False) -> Reader:
    """Arrays are files of their own, or `packed` into one where there may be more than a process may have open."""

    def into(path: Path, folder: Path) -> dict[str, Any]:
        writer = Writer(folder, most_bytes(path))
        try:
            schema = reader(path, writer)
            writer.finish(schema, packed=packed)
        except BaseException:
            writer.discard()
            raise
        return schema

    return into


def _zip(path: Path, folder: Path) -> dict[str, Any]:
    if is_program(path):
        return READERS["exported"](path, folder)
    with opened(path) as (_, entries):
        arrays = bool(entries) and all(entry.filename.endswith(SUFFIX) for entry in entries)
    return READERS["npz" if arrays else "images"](path, folder)


def _no_data(reader: Callable[[Path], dict[str, Any]]) -> Reader:
    """A model: nothing but its schema lies in the folder, and jobs read the upload itself."""

    def into(path: Path, folder: Path) -> dict[str, Any]:
        schema = reader(path)
        folder.mkdir(parents=True, exist_ok=True)
        write_schema(folder, schema)
        return schema

    return into


def _text_or_table(path: Path, folder: Path) -> dict[str, Any]:
    """Python where it defines a class, a CSV file where it reads as one.

    Else prose, when its first line holds no comma and so promised no table.
    """
    if is_source(path):
        return READERS["python"](path, folder)
    try:
        return READERS["csv"](path, folder)
    except UnreadableFile as error:
        with path.open("rb") as file:
            first, more = file.readline(2**16), file.read(1)
        if not more or b"," in first:
            raise UnreadableFile(f"{error} (plain text for a language model is uploaded with ?format=text)") from error
    return READERS["text"](path, folder)


READERS: dict[str, Reader] = {
    "csv": _streamed(read_csv, packed=True),
    "parquet": _streamed(read_parquet),
    "npz": _streamed(read_npz),
    "images": _streamed(read_images),
    "text": _streamed(read_text),
    "zip": _zip,
    "exported": _no_data(read_program),
    "python": _no_data(read_source),
}
# The first match counts. What has no reader is refused by its name.
MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PAR1", "parquet"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x89PNG", "a single image"),
    (b"\xff\xd8\xff", "a single image"),
    (b"\x93NUMPY", "a single .npy array (save it with numpy.savez)"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x89HDF", "an HDF5 file"),
)


# ---- the sets that come inside scikit-learn


def builtins() -> dict[str, tuple[dict[str, Any], Arrays]]:
    """Schema and arrays of the five built-in sets, rows in the package's order."""
    from sklearn import datasets

    sets = {}
    for name in ("iris", "wine", "breast_cancer", "diabetes", "digits"):
        bunch = getattr(datasets, f"load_{name}")()
        if name == "digits":
            x = (bunch.images[:, None, :, :] / 16.0).astype(np.float32)
        else:
            x = bunch.data.astype(np.float32)
        regression = name == "diabetes"
        y = bunch.target.astype(np.float32)[:, None] if regression else bunch.target.astype(np.int64)
        classes = None if regression else [str(c) for c in bunch.target_names]
        schema = {
            "source": "builtin",
            "name": name,
            "rows": len(x),
            "input_shape": list(x.shape[1:]),
            "task": "regression" if regression else ("binary" if len(classes or ()) == 2 else "multiclass"),
            "classes": classes,
            "input_min": float(x.min()),
            "input_max": float(x.max()),
            "target_min": float(y.min()),
            "target_max": float(y.max()),
            "feature_names": [str(f) for f in getattr(bunch, "feature_names", [])] if name != "digits" else [],
        }
        sets[name] = (schema, {"x": np.ascontiguousarray(x), "y": np.ascontiguousarray(y)})
    return sets


# ---- the command


def main(arguments: list[str]) -> int:
    """Exit code 0 and one JSON line {"schema": ...}; or 1 and {"problem": sentence} when the file cannot be read."""
    match arguments:
        case ["csv", path, folder]:
            return _answer(path, folder, "csv")
        case ["read", path, folder]:
            return _answer(path, folder, "auto")
        case ["read", path, folder, ("auto" | "csv" | "text" | "python") as asked]:
            return _answer(path, folder, asked)
        case ["builtins", folder]:
            for name, (schema, arrays) in builtins().items():
                write(Path(folder) / name, schema, arrays)
            return 0
    print(USAGE, file=sys.stderr)
    return 2


def _answer(path: str, folder: str, asked: str) -> int:
    try:
        schema = read(Path(path), Path(folder), asked)
    except UnreadableFile as error:
        print(json.dumps({"problem": str(error)}))
        return 1
    except MemoryError:
        print(json.dumps({"problem": f"reading the file takes more than {MEMORY_BYTES:,} bytes of memory"}))
        return 1
    columns = len(schema.get("columns", schema.get("arrays", ())))
    print(json.dumps({"schema": {"rows": schema.get("rows"), "columns": columns}}))
    return 0


def confine() -> None:
    """Limits of this process: memory, processor time, the size of a file it writes. For good."""
    limits = {
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_FSIZE: MAX_OUTPUT_BYTES,
        resource.RLIMIT_CORE: 0,
    }
    for limit, most in limits.items():
        _, hard = resource.getrlimit(limit)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, hard))


if __name__ == "__main__":
    confine()
    sys.exit(main(sys.argv[1:]))
