"""What a schema says of an array of numbers, collected block by block: range, missing values, different values and counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from workers.trainer.formats.prepared import MAX_CATEGORIES

COUNTED_ROWS = 65_536  # a column of many values shows that in the first of them


class Figures:
    """Of all blocks added so far. NaN counts as missing; rows count from 1."""

    def __init__(self) -> None:
        self.rows = 0
        self._found: dict[str, Any] = {"missing": 0, "first_missing": None, "infinite": 0, "first_infinite": None}
        self._integers, self._zeros = True, False
        self._counts: dict[float, int] | None = {}  # None: too many, or several numbers a row

    def add(self, block: npt.NDArray[Any]) -> None:
        """`block` is (rows, *shape) of numbers or truth values."""
        if not len(block):
            return
        flat = block.reshape(len(block), -1)
        if flat.dtype.kind == "f":
            flat = self._add_gaps(flat)
        else:
            flat = flat.astype(np.float64) if flat.dtype.kind == "b" else flat
        if flat.size:
            self._add_range(flat)
            self._add_values(flat if flat.shape[1] == 1 else None)
        self.rows += len(block)

    def _add_gaps(self, flat: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Counts NaN and infinity; the block with both as NaN."""
        for name, first, mask in (
            ("missing", "first_missing", np.isnan(flat)),
            ("infinite", "first_infinite", np.isinf(flat)),
        ):
            if mask.any():
                self._found[name] += int(mask.sum())
                if self._found[first] is None:
                    self._found[first] = self.rows + int(mask.any(axis=1).argmax()) + 1
        if self._found["infinite"]:
            flat = np.where(np.isfinite(flat), flat, np.nan)
        return flat

    def _add_range(self, flat: npt.NDArray[Any]) -> None:
        known = ~np.isnan(flat) if flat.dtype.kind == "f" else None
        if known is not None and not known.any():
            return
        low, high = (np.nanargmin(flat), np.nanargmax(flat)) if known is not None else (flat.argmin(), flat.argmax())
        for name, at, better in (("min", int(low), float.__lt__), ("max", int(high), float.__gt__)):
            value = float(flat.reshape(-1)[at])
            if name not in self._found or better(value, self._found[name]):
                self._found |= {name: value, f"{name}_row": self.rows + at // flat.shape[1] + 1}
        self._zeros = self._zeros or bool((flat == 0).any())
        if self._integers and flat.dtype.kind == "f":
            # Beyond 2^53 not every integer is a float64.
            values = flat if known is None or known.all() else flat[known]
            self._integers = bool((values == np.rint(values)).all() and abs(values).max() < 2**53)

    def _add_values(self, column: npt.NDArray[Any] | None) -> None:
        if column is None or self._counts is None:
            self._counts = None
            return
        for start in range(0, len(column), COUNTED_ROWS):
            values, counts = np.unique(column[start : start + COUNTED_ROWS], return_counts=True)
            if len(values) > MAX_CATEGORIES + 1:  # one of them may be NaN
                self._counts = None
                return
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                if value == value:
                    self._counts[float(value)] = self._counts.get(float(value), 0) + count
            if len(self._counts) > MAX_CATEGORIES:
                self._counts = None
                return

    def schema(self) -> dict[str, Any]:
        """JSON values: missing, min, max and their rows, if all are whole and one is 0; of few values which and how often."""
        found = {**self._found, "integers": self._integers, "zeros": self._zeros}
        if self._counts is not None:
            pairs = sorted(self._counts.items())
            found |= {"distinct": len(pairs), "values": [v for v, _ in pairs], "counts": [c for _, c in pairs]}
        return found
