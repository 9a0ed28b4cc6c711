"""From raw numbers to what a model sees: missing ones filled with the training part's mean, then normalised.

Both are elementwise, so a batch read by itself has the bits it has among all rows. The figures they need are taken from the
training rows: all at once where the data is held in memory, else in blocks (rule 3 of "What `seed` means").
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jobs.spec import SpecProblem
from workers.trainer.arrays import Rows
from workers.trainer.field_sources import Source
from workers.trainer.fields import InvalidData, Planned

BLOCK_NUMBERS = 2**22


class Numbers:
    """A source of float32 that is ready for a model."""

    def __init__(self, raw: Source) -> None:
        self._raw = raw
        self._fill: Tensor | None = None  # float64, of one row's shape
        self._shift: Tensor | None = None  # float32, broadcast over rows, like the scale
        self._scale: Tensor | None = None
        self._untouched: Tensor | None = None

    def read(self, rows: Rows) -> Tensor:
        x = self._filled(rows).float()
        if self._shift is None or self._scale is None:
            return x
        normalized = (x - self._shift) / self._scale
        return normalized if self._untouched is None else torch.where(self._untouched, x, normalized)

    def gaps(self, rows: Rows) -> npt.NDArray[np.bool_]:
        return self._raw.gaps(rows)

    def _filled(self, rows: Rows) -> Tensor:
        raw = self._raw.read(rows)
        return raw if self._fill is None else torch.where(raw.isnan(), self._fill, raw.double())

    # ---- figures of the training rows

    def fill_with_mean(self, blocks: list[Rows], planned: Planned) -> None:
        """What is missing becomes the mean of the training rows that have it. Raises InvalidData where none has."""
        if len(blocks) == 1:
            mean = self._raw.read(blocks[0]).double().nanmean(0)
        else:
            total, count = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
            for rows in blocks:
                raw = self._raw.read(rows).double()
                total, count = total + raw.nansum(0), count + (~raw.isnan()).sum(0)
            mean = total / count
        if mean.isnan().any():
            where = "" if mean.dim() == 0 else f" (number {int(mean.flatten().isnan().nonzero()[0]) + 1} of a row)"
            detail = f"an input has no value at all in the training part{where}, so there is no mean to fill it with"
            raise InvalidData([SpecProblem(planned.pointer, "invalid_data", detail)])
        self._fill = mean

    def normalize(self, blocks: list[Rows], how: str, untouched: tuple[bool, ...] | None) -> None:
        """Rule 3: standard in float64, minmax; per channel for images (n, c, h, w), else per number of a row."""
        shift, scale = self._at_once(blocks[0], how) if len(blocks) == 1 else self._in_blocks(blocks, how)
        scale[scale == 0] = 1
        self._shift, self._scale = shift.float(), scale.float()
        self._untouched = torch.tensor(untouched) if untouched is not None and any(untouched) else None

    def _at_once(self, rows: Rows, how: str) -> tuple[Tensor, Tensor]:
        x = self.read(rows)
        dims = _dims(x)
        if how == "standard":
            return x.double().mean(dims, keepdim=True), x.double().std(dims, correction=0, keepdim=True)
        low = x.amin(dims, keepdim=True)
        return low, x.amax(dims, keepdim=True) - low

    def _in_blocks(self, blocks: list[Rows], how: str) -> tuple[Tensor, Tensor]:
        if how == "standard":
            total, count = self._sum(blocks, None)
            mean = total / count
            squares, _ = self._sum(blocks, mean)
            return mean, (squares / count).sqrt()
        low, high = self.read(blocks[0][:1]), self.read(blocks[0][:1])
        for rows in blocks:
            x = self.read(rows)
            low = torch.minimum(low, x.amin(_dims(x), keepdim=True)).amin(_dims(x), keepdim=True)
            high = torch.maximum(high, x.amax(_dims(x), keepdim=True)).amax(_dims(x), keepdim=True)
        return low, high - low

    def _sum(self, blocks: list[Rows], mean: Tensor | None) -> tuple[Tensor, int]:
        """Of the numbers, or of their squared distances from `mean`; and how many numbers each sum has."""
        total, count = torch.zeros((), dtype=torch.float64), 0
        for rows in blocks:
            x = self.read(rows).double()
            total = total + (x if mean is None else (x - mean) ** 2).sum(_dims(x), keepdim=True)
            count += x.numel()
        return total, count // total.numel()


def _dims(x: Tensor) -> tuple[int, ...]:
    # Over the rows, and for images over the pixels as well: one figure per channel.
    return (0, 2, 3) if x.dim() == 4 else (0,)


def blocks_of(train: Tensor, numbers_per_row: int, at_once: bool) -> list[Rows]:
    """The training rows as one block in the order of the split, or as blocks of 2^22 numbers in the order of the file."""
    if at_once:
        return [train.numpy()]
    step = max(1, BLOCK_NUMBERS // numbers_per_row)
    return list(_cut(train.sort().values.numpy(), step))


def _cut(rows: Rows, step: int) -> Iterator[Rows]:
    for start in range(0, len(rows), step):
        yield rows[start : start + step]
