"""Step 1 for a data set that is a class in the user's own source, under profile strict only.

Its items are read once, in order, into a prepared folder of the job's own, as an upload's arrays are; everything after that is
the same for all data. The folder is whole when its manifest is there, and later attempts read what it holds.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from jobs.spec import JobSpec, PythonDataset, SpecProblem
from workers.trainer.artifacts import write_whole
from workers.trainer.data import describe_unread
from workers.trainer.fields import DataDescription, InvalidData
from workers.trainer.formats.figures import Figures
from workers.trainer.formats.prepared import MAX_OUTPUT_BYTES, UnreadableFile, Writer
from workers.trainer.items import HERE, Items
from workers.trainer.source import SourceProblem, build, file_name, load_class

MANIFEST = "manifest.json"
# What the check at POST reads, in a child that has 3 seconds for everything.
FIRST_ROWS = 256
FIRST_SECONDS = 1.0


def opened(spec: JobSpec, source: Path) -> Items:
    """The class in the file at `source`, built after every generator that it may draw from was seeded. Raises SourceProblem."""
    assert isinstance(spec.dataset, PythonDataset)
    torch.manual_seed(spec.seed)
    np.random.seed(spec.seed % 2**32)
    random.seed(spec.seed)
    try:
        cls = load_class(source.read_bytes(), spec.dataset.class_name, Dataset, file_name(spec, "data"))
        return Items(build(cls, spec.dataset.kwargs))
    except SourceProblem as problem:
        raise problem.within("/dataset") from problem


# ---- before the job runs


def foreseen(spec: JobSpec, source: Path) -> DataDescription:
    """What the data will be, by its length and its first items. Raises SourceProblem and InvalidData."""
    items = opened(spec, source)
    arrays = _Arrays()
    for block in items.blocks(_for_a_while(min(items.rows, FIRST_ROWS))):
        arrays.add(block)
    return describe_unread(spec, arrays.schema(items.rows))


def _for_a_while(rows: int) -> Iterator[int]:
    end = time.monotonic() + FIRST_SECONDS
    for index in range(rows):
        yield index
        if time.monotonic() > end:
            return


class _Arrays:
    """What a schema says of the arrays, of all blocks added so far."""

    def __init__(self) -> None:
        self._figures: dict[str, Figures] = {}
        self._kinds: dict[str, tuple[str, tuple[int, ...]]] = {}

    def add(self, block: dict[str, Any]) -> None:
        for name, array in block.items():
            self._figures.setdefault(name, Figures()).add(array)
            self._kinds[name] = (array.dtype.name, array.shape[1:])

    def schema(self, rows: int) -> dict[str, Any]:
        """Of a data set of so many rows; where fewer were added, their figures are those of the first ones."""
        partial = {"partial": True} if any(figures.rows < rows for figures in self._figures.values()) else {}
        arrays = {
            name: {"dtype": dtype, "shape": [rows, *shape], **self._figures[name].schema(), **partial}
            for name, (dtype, shape) in self._kinds.items()
        }
        return {"source": "python", "rows": rows, "arrays": arrays}


# ---- in the job


def prepare(spec: JobSpec, source: Path, folder: Path, disk_bytes: int) -> list[str]:
    """Leaves the whole data set in `folder`, at most `disk_bytes` large; a sentence for the job's events where it was damaged.

    What an earlier attempt read is kept. Raises SourceProblem and InvalidData.
    """
    known = _manifest(folder)
    if known is not None and _digests(folder) == known:
        return []
    if folder.is_dir():  # of an attempt that ended while it read, or not what the manifest says any more
        for path in folder.iterdir():
            if path.name != MANIFEST:
                path.unlink()
    _read(opened(spec, source), folder, disk_bytes)
    found = _digests(folder)
    if known is None:
        write_whole(folder / MANIFEST, lambda path: path.write_text(json.dumps(found), encoding="utf-8"))
        return []
    if found != known:
        why = "it draws from something that `seed` does not reach"
        detail = f"the rows of an earlier attempt were damaged on the disk, and the class gives others now: {why}"
        raise InvalidData([SpecProblem(HERE, "invalid_data", detail)])
    return ["the rows of the data set were damaged on the disk and have been read again"]


def discard(folder: Path) -> None:
    """Removes the rows once the job has ended."""
    shutil.rmtree(folder, ignore_errors=True)


def _read(items: Items, folder: Path, disk_bytes: int) -> None:
    writer, arrays = Writer(folder, min(disk_bytes, MAX_OUTPUT_BYTES)), _Arrays()
    try:
        for block in items.blocks(range(items.rows)):
            arrays.add(block)
            for name, array in block.items():
                writer.append(name, array)
    except UnreadableFile as error:
        writer.discard()
        detail = f"the rows take more than the {disk_bytes:,} bytes of disk that a job may have (POSTGRAD_PYTHON_DISK_BYTES)"
        raise InvalidData([SpecProblem(HERE, "out_of_range", detail)]) from error
    writer.finish(arrays.schema(items.rows))


def _manifest(folder: Path) -> dict[str, str] | None:
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the manifest, by name."""
    files: Iterable[Path] = (path for path in folder.iterdir() if path.name != MANIFEST)
    return {path.name: _sha256(path) for path in sorted(files)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
