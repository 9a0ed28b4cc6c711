"""Where the rows of one field come from: a source reads the rows it is asked for, and keeps none.

`read(rows)` gives a tensor (len(rows), *shape) of float64, float32 or int64; `gaps(rows)` says which rows miss something.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.trainer.arrays import Rows, Stored


class Source(Protocol):
    def read(self, rows: Rows) -> Tensor: ...
    def gaps(self, rows: Rows) -> npt.NDArray[np.bool_]: ...


class Whole:
    """A source without anything missing."""

    def gaps(self, rows: Rows) -> npt.NDArray[np.bool_]:
        return np.zeros(len(rows), dtype=bool)


class ArraySource:
    """Rows of one array, as float32 (float64 stays where `precise`) or int64."""

    def __init__(self, array: Stored, dtype: torch.dtype, *, precise: bool = False, shape: Sequence[int] | None = None) -> None:
        self._array, self._shape = array, shape
        self._dtype = np.dtype(np.float64 if precise else (np.int64 if dtype == torch.int64 else np.float32))

    def read(self, rows: Rows) -> Tensor:
        values = self._array.take(rows).astype(self._dtype)
        return torch.from_numpy(values if self._shape is None else values.reshape(len(rows), *self._shape))

    def gaps(self, rows: Rows) -> npt.NDArray[np.bool_]:
        values = self._array.take(rows)
        if values.dtype.kind != "f":
            return np.zeros(len(rows), dtype=bool)
        missing: npt.NDArray[np.bool_] = np.isnan(values).reshape(len(rows), -1).any(axis=1)
        return missing


class LabelSource:
    """int64 labels (n,): the position of a number among the sorted `values`, or a category's code as it stands."""

    def __init__(self, array: Stored, values: Sequence[float] | None = None) -> None:
        self._array, self._values = array, None if values is None else np.array(values)

    def read(self, rows: Rows) -> Tensor:
        cells = self._array.take(rows).reshape(len(rows))
        if self._values is not None:
            cells = np.searchsorted(self._values, cells)
        return torch.from_numpy(cells.astype(np.int64))

    def gaps(self, rows: Rows) -> npt.NDArray[np.bool_]:
        cells = self._array.take(rows).reshape(len(rows))
        missing: npt.NDArray[np.bool_] = cells < 0 if self._values is None else np.isnan(cells.astype(np.float64))
        return missing


class AsNumber:
    """float32 (n, 1) of a label: what a binary or a regression loss compares with."""

    def __init__(self, labels: Source) -> None:
        self._labels = labels

    def read(self, rows: Rows) -> Tensor:
        return self._labels.read(rows).float()[:, None]

    def gaps(self, rows: Rows) -> npt.NDArray[np.bool_]:
        return self._labels.gaps(rows)


class OneHot:
    """float32 (n, width) of a label."""

    def __init__(self, labels: LabelSource, width: int) -> None:
        self._labels, self._width = labels, width

    def read(self, rows: Rows) -> Tensor:
        # A missing label (-1) is refused or dropped before; until then it must not stop the reading.
        return torch.nn.functional.one_hot(self._labels.read(rows).clamp(0, self._width - 1), self._width).float()

    def gaps(self, rows: Rows) -> npt.NDArray[np.bool_]:
        return self._labels.gaps(rows)


class Beside:
    """Columns beside one another: (n, sum of widths). A source of shape (n,) counts as one column.

    `gaps` says which of them miss something at all, where that is known: the others need not be read for it.
    """

    def __init__(self, sources: Sequence[Source], gaps: Sequence[bool] | None = None) -> None:
        self._sources = sources
        self._with_gaps = list(sources if gaps is None else itertools.compress(sources, gaps))

    def read(self, rows: Rows) -> Tensor:
        blocks = [source.read(rows) for source in self._sources]
        blocks = [block[:, None] if block.dim() == 1 else block for block in blocks]
        kind = torch.float64 if any(block.dtype == torch.float64 for block in blocks) else blocks[0].dtype
        return torch.cat([block.to(kind) for block in blocks], dim=1)

    def gaps(self, rows: Rows) -> npt.NDArray[np.bool_]:
        missing: npt.NDArray[np.bool_] = np.logical_or.reduce([source.gaps(rows) for source in self._with_gaps])
        return missing


class Sequences(Whole):
    """Sequences of different lengths, (n, longest), filled up with zeros."""

    def __init__(self, values: Stored, offsets: Stored, longest: int, dtype: torch.dtype) -> None:
        self._values, self._offsets, self._longest = values, offsets, longest
        self._dtype = np.int64 if dtype == torch.int64 else np.float32

    def read(self, rows: Rows) -> Tensor:
        starts, ends = self._offsets.take(rows).tolist(), self._offsets.take(rows + 1).tolist()
        padded = np.zeros((len(rows), self._longest), dtype=self._dtype)
        for row, start, end in zip(padded, starts, ends, strict=True):
            row[: end - start] = self._values.slice(start, end)
        return torch.from_numpy(padded)


class Lengths(Whole):
    """int64 (n,): how long each sequence is."""

    def __init__(self, offsets: Stored) -> None:
        self._offsets = offsets

    def read(self, rows: Rows) -> Tensor:
        return torch.from_numpy(self._offsets.take(rows + 1) - self._offsets.take(rows))


class Windows(Whole):
    """int64 (n, window): row i holds the tokens from `i * stride + shift` on."""

    def __init__(self, tokens: Stored, window: int, stride: int, shift: int) -> None:
        self._tokens, self._stride = tokens, stride
        self._steps = np.arange(shift, shift + window)

    def read(self, rows: Rows) -> Tensor:
        return torch.from_numpy(self._tokens.take(rows[:, None] * self._stride + self._steps).astype(np.int64))


class Pictures(Whole):
    """Images as float32 (n, c, h, w) in [0, 1]: uint8 divided by 255, then brought to one size where they differ."""

    def __init__(self, pixels: Stored, offsets: Stored, sizes: Stored, shape: tuple[int, int, int]) -> None:
        self._pixels, self._offsets, self._sizes, self._shape = pixels, offsets, sizes, shape

    def read(self, rows: Rows) -> Tensor:
        images = torch.empty(len(rows), *self._shape)
        places = zip(self._offsets.take(rows).tolist(), self._sizes.take(rows).tolist(), strict=True)
        for index, (start, (channels, height, width)) in enumerate(places):
            pixels = self._pixels.slice(start, start + channels * height * width).astype(np.float32)
            images[index] = self._sized(torch.from_numpy(pixels.reshape(channels, height, width)) / 255)
        return images

    def _sized(self, image: Tensor) -> Tensor:
        """(c, h, w) as asked: a grey image repeats its channel, another size is interpolated with antialiasing."""
        channels, height, width = self._shape
        if image.shape[1:] != (height, width):
            image = torch.nn.functional.interpolate(
                image[None], size=(height, width), mode="bilinear", align_corners=False, antialias=True
            )[0]
        return image.expand(channels, height, width)
