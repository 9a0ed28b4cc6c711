"""Downsampling that hides nothing: min/max cells over runs of points, and how they become at most so many points.

A cell stands for a run of consecutive points and keeps the lowest and the highest finite value with their true steps. Cells of
cells are cells again, so a long curve is thinned from stored cells without touching its points. Non-finite values are in no
cell; they travel beside them as "odd" points. Everything here is arrays in, arrays out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Steps = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Cells = npt.NDArray[np.void]  # of dtype CELL
Points = npt.NDArray[np.void]  # of dtype POINT

CELL = np.dtype([("low_step", "<i8"), ("low", "<f8"), ("high_step", "<i8"), ("high", "<f8")])
POINT = np.dtype([("step", "<i8"), ("value", "<f8")])

CHUNK_POINTS = 1024
FAN_OUT = 64  # chunks under one row of level 2
CELL_POINTS = {1: 32, 2: 512}  # points under one cell, by level; a row of level 1 covers a chunk


def as_cells(steps: Steps, values: Values) -> Cells:
    """One cell for each point. A non-finite point makes an empty cell: low +inf and high -inf lose every comparison."""
    cells = np.empty(len(steps), CELL)
    finite = np.isfinite(values)
    cells["low_step"] = cells["high_step"] = steps
    cells["low"] = np.where(finite, values, np.inf)
    cells["high"] = np.where(finite, values, -np.inf)
    return cells


def as_points(steps: Steps, values: Values) -> Points:
    """Steps and values side by side in one array."""
    points = np.empty(len(steps), POINT)
    points["step"], points["value"] = steps, values
    return points


def odd_points(steps: Steps, values: Values) -> Points:
    """The non-finite points, with their steps."""
    odd = ~np.isfinite(values)
    return as_points(steps[odd], values[odd])


def merge(cells: Cells, starts: Indices) -> Cells:
    """One cell for each run of cells that begins at `starts` (rising, from 0). Of equal values the earliest step is kept."""
    merged = np.empty(len(starts), CELL)
    if not len(starts):
        return merged
    lowest = _first_in_run(cells["low"], np.minimum.reduceat(cells["low"], starts), starts)
    highest = _first_in_run(cells["high"], np.maximum.reduceat(cells["high"], starts), starts)
    for field, chosen in (("low_step", lowest), ("low", lowest), ("high_step", highest), ("high", highest)):
        merged[field] = cells[field][chosen]
    return merged


def every(count: int, width: int) -> Indices:
    """Starts of runs of `width` in an array of `count`; the last run may be shorter."""
    return np.arange(0, count, width)


def thin(cells: Cells, widths: Steps, odd: Points, first: Points, last: Points, max_points: int) -> tuple[Steps, Values]:
    """At most `max_points` (1 or more) of the points under these cells, in the order of their steps.

    `widths` says how many points each cell stands for. `first` and `last` are arrays of one point and always kept (with
    max_points 1 only `last` is). Non-finite points are all kept up to half of max_points, beyond that spread evenly.
    The rest is buckets of equal point counts, each giving its lowest and highest point.
    """
    if max_points < 2:
        return _in_order(last)
    odd = _spread(odd, max_points // 2)
    buckets = (max_points - 2 - len(odd)) // 2
    kept = merge(cells, _bucket_starts(widths, buckets)) if buckets > 0 else cells[:0]
    return _in_order(np.concatenate([first, _points(kept, "low"), _points(kept, "high"), odd[: max_points - 2], last]))


def _first_in_run(column: Values, extremes: Values, starts: Indices) -> Indices:
    lengths = np.diff(starts, append=len(column))
    hits = np.flatnonzero(column == np.repeat(extremes, lengths))
    runs = np.searchsorted(starts, hits, side="right")
    _, first = np.unique(runs, return_index=True)
    chosen: Indices = hits[first]
    return chosen


def _bucket_starts(widths: Steps, buckets: int) -> Indices:
    ends = np.cumsum(widths)
    bucket = (ends - widths) * buckets // ends[-1]
    return np.flatnonzero(np.diff(bucket, prepend=-1))


def _points(cells: Cells, side: str) -> Points:
    points = as_points(cells[f"{side}_step"], cells[side])
    found: Points = points[np.isfinite(points["value"])]
    return found


def _spread(points: Points, most: int) -> Points:
    if len(points) <= most:
        return points
    kept: Points = points[np.arange(most) * len(points) // most]
    return kept


def _in_order(points: Points) -> tuple[Steps, Values]:
    steps, chosen = np.unique(points["step"], return_index=True)
    values: Any = points["value"][chosen]
    return steps, values
