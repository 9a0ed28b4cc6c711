"""The rows of one part of the data, held in memory or read from disk as they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.trainer.field_sources import Source
from workers.trainer.fields import Batch
from workers.trainer.transforms import Pipeline


class Part:
    """Rows held in memory: every field (n, *shape) by its name, float32 or int64; class labels are int64 (n,)."""

    def __init__(self, fields: Batch, transforms: Pipeline | None = None, rows: Tensor | None = None) -> None:
        """`rows` (int64 (n,), on the CPU) are the places in the data set that the part's rows come from, else they are all."""
        self._fields, self._rows = fields, rows
        self.transforms = transforms or Pipeline()

    def __len__(self) -> int:
        return size(self._fields)

    @property
    def fields(self) -> Batch:
        """All rows of every field at once, before transforms. A part on disk reads them all for it."""
        return self._fields

    def field(self, name: str) -> Tensor:
        """All rows of one field, before transforms."""
        return self._fields[name]

    def numbers(self, rows: Tensor) -> list[int]:
        """The places of these rows in the data set, counted from 1."""
        rows = rows.cpu()
        return ((rows if self._rows is None else self._rows[rows]) + 1).tolist()

    def take(self, rows: Tensor) -> Batch:
        """Copies of these rows (int64, on the part's device), before transforms."""
        return {name: values.index_select(0, rows) for name, values in self._fields.items()}

    def slice(self, start: int, stop: int) -> Batch:
        """Copies of the rows from `start` up to `stop`, as a model in eval mode sees them, which a layer may change."""
        return self.transforms.evaluate({name: values[start:stop].clone() for name, values in self._fields.items()})

    def to(self, device: torch.device) -> Part:
        """The part with its rows on `device`."""
        return Part({name: values.to(device) for name, values in self._fields.items()}, self.transforms, self._rows)


class FilePart(Part):
    """Rows that stay on disk: only the batch that was asked for is in memory, and on `device`."""

    def __init__(
        self, sources: Mapping[str, Source], rows: Tensor, transforms: Pipeline, device: torch.device | None = None
    ) -> None:
        super().__init__({}, transforms, rows)
        self._sources, self._places, self._device = sources, rows, device or torch.device("cpu")

    def __len__(self) -> int:
        return len(self._places)

    @property
    def fields(self) -> Batch:
        return self._read(self._places)

    def field(self, name: str) -> Tensor:
        return self._sources[name].read(self._places.numpy()).to(self._device)

    def take(self, rows: Tensor) -> Batch:
        return self._read(self._places[rows.cpu()])

    def slice(self, start: int, stop: int) -> Batch:
        return self.transforms.evaluate(self._read(self._places[start:stop]))

    def to(self, device: torch.device) -> Part:
        return FilePart(self._sources, self._places, self.transforms, device)

    def _read(self, rows: Tensor) -> Batch:
        places = rows.numpy()  # one array for all fields: a table's rows are then read once
        return {name: source.read(places).to(self._device) for name, source in self._sources.items()}


def size(batch: Batch) -> int:
    """Rows of a batch."""
    return len(next(iter(batch.values())))


@dataclass(frozen=True)
class Parts:
    train: Part
    val: Part
    test: Part
