"""Step 1, data: the prepared arrays become split, normalised tensors, by rules 1 to 3 of "What `seed` means".

`describe` tells what the data is, by the schema alone unless the spec drops rows or keeps the classes' shares; `load` makes
the parts. Both raise InvalidData with every problem.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jobs.spec import BuiltinDataset, JobSpec, SpecProblem
from workers.trainer.arrays import Arrays, Rows
from workers.trainer.field_sources import Source
from workers.trainer.fields import INPUT, LENGTHS, Batch, DataDescription, Field, InvalidData, Layout
from workers.trainer.formats.prepared import RESIDENT_BYTES
from workers.trainer.layout import plan
from workers.trainer.numbers import Numbers, blocks_of
from workers.trainer.parts import FilePart, Part, Parts, size
from workers.trainer.split import label_counts, part_sizes, split_rows, stratified_sizes
from workers.trainer.transforms import pipeline

__all__ = [
    "INPUT",
    "LENGTHS",
    "RESIDENT_BYTES",
    "Batch",
    "DataDescription",
    "Field",
    "InvalidData",
    "Part",
    "Parts",
    "describe",
    "describe_unread",
    "load",
    "read_schema",
    "resident",
    "size",
]

SCAN_ROWS = 65_536


def describe(spec: JobSpec, folder: Path) -> DataDescription:
    """What `load` will give. Raises InvalidData."""
    return _Described(spec, read_schema(folder), folder).description


def describe_unread(spec: JobSpec, schema: dict[str, Any]) -> DataDescription:
    """The same by a schema alone, of rows that are on no disk yet: as if nothing were dropped, and the parts not stratified."""
    return _Described(spec, {**schema, "arrays_at": {}}, None).description


class _Described:
    """The data as a spec sees it, before its numbers are read. Raises InvalidData."""

    def __init__(self, spec: JobSpec, schema: dict[str, Any], folder: Path | None) -> None:
        layout = self.layout = plan(spec, schema)
        self.at_once = resident(layout.rows, [planned.field for planned in layout.fields.values()])
        self.arrays = Arrays(folder or Path(), schema, mapped=self.at_once)
        self.kept = None if folder is None else _kept(spec, layout, self.arrays)
        self.rows = layout.rows if self.kept is None else len(self.kept)
        self.labels = None if folder is None else _strata(spec, layout, self.arrays, self.kept)
        counts = part_sizes(self.rows, spec.split) if self.labels is None else stratified_sizes(self.labels, spec.split)
        problems = [
            SpecProblem(f"/split/{name}", "out_of_range", f"{getattr(spec.split, name)} of {self.rows} rows is no row at all")
            for name, count in counts.items()
            if count <= 0 < getattr(spec.split, name)
        ]
        inputs = {name: planned.field for name, planned in layout.inputs.items()}
        self.transforms = pipeline(spec.dataset.transforms, inputs, problems)
        if problems:
            raise InvalidData(problems)
        targets = {name: planned.field for name, planned in layout.targets.items()}
        self.description = DataDescription(self.rows, self.transforms.fields, targets, counts)


def read_schema(folder: Path) -> dict[str, Any]:
    """The schema beside the arrays. Raises InvalidData when the folder was never prepared."""
    try:
        schema: dict[str, Any] = json.loads((folder / "schema.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidData(
            [SpecProblem("/dataset", "invalid_data", "the data set has not been prepared on this machine")]
        ) from error
    return schema


def resident(rows: int, fields: list[Field]) -> bool:
    """Whether that many rows of these fields are held in memory as a whole."""
    return rows * sum(field.width * field.dtype.itemsize for field in fields) <= RESIDENT_BYTES


def load(spec: JobSpec, folder: Path) -> Parts:
    """The three parts, split and normalised; a part that was not asked for has no rows. Raises InvalidData.

    Draws from a generator of its own only, never from torch's default generator.
    """
    data = _Described(spec, read_schema(folder), folder)
    places = split_rows(data.rows, spec, data.labels)
    parts = [place if data.kept is None else torch.from_numpy(data.kept)[place] for place in places]
    sources = _sources(spec, data, parts[0])
    return Parts(*(_part(sources, part, data) for part in parts))


def _sources(spec: JobSpec, data: _Described, train: Tensor) -> dict[str, Source]:
    """Every field ready to be read: missing numbers filled, then normalised, both by the training rows' figures."""
    missing = "error" if isinstance(spec.dataset, BuiltinDataset) else spec.dataset.missing
    found: dict[str, Source] = {}
    for name, planned in data.layout.fields.items():
        source = found[name] = planned.open(data.arrays)
        if name not in data.layout.inputs or planned.field.dtype != torch.float32:
            continue
        numbers = found[name] = Numbers(source)
        blocks = blocks_of(train, planned.field.width, data.at_once)
        if missing == "mean" and planned.gaps and planned.fillable:
            numbers.fill_with_mean(blocks, planned)
        if spec.dataset.normalize != "none" and planned.normalized:
            numbers.normalize(blocks, spec.dataset.normalize, planned.untouched)
    return found


def _part(sources: dict[str, Source], rows: Tensor, data: _Described) -> Part:
    part = FilePart(sources, rows, data.transforms)
    return Part(part.fields, data.transforms, rows) if data.at_once else part


def _kept(spec: JobSpec, layout: Layout, arrays: Arrays) -> Rows | None:
    """The rows in which no field misses anything, in the file's order; None where none is dropped. Raises InvalidData."""
    if isinstance(spec.dataset, BuiltinDataset) or spec.dataset.missing != "drop" or not layout.has_gaps:
        return None
    sources = [planned.open(arrays) for planned in layout.fields.values() if planned.gaps]
    blocks = []
    for start in range(0, layout.rows, SCAN_ROWS):
        rows = np.arange(start, min(start + SCAN_ROWS, layout.rows))
        blocks.append(rows[~np.logical_or.reduce([source.gaps(rows) for source in sources])])
    kept = np.concatenate(blocks)
    if not len(kept):
        detail = "every row misses something, and missing drop leaves none"
        raise InvalidData([SpecProblem("/dataset/missing", "invalid_data", detail)])
    return kept


def _strata(spec: JobSpec, layout: Layout, arrays: Arrays, kept: Rows | None) -> Tensor | None:
    """The label of every row (rows,) where the split keeps the classes' shares, else None. Raises InvalidData."""
    if not spec.split.stratify:
        return None
    planned = next(iter(layout.targets.values()))
    rows = np.arange(layout.rows) if kept is None else kept
    if planned.field.classes is None or planned.field.width != 1:
        detail = "stratify wants one class label a row as its (first) target"
        raise InvalidData([SpecProblem("/split/stratify", "out_of_range", detail)])
    labels = planned.open(arrays).read(rows).reshape(len(rows))
    if len(label_counts(labels)) > planned.field.classes:
        detail = "stratify wants class labels, but the target holds probabilities"
        raise InvalidData([SpecProblem("/split/stratify", "out_of_range", detail)])
    return labels
