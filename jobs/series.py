"""Rows of curves, curve_series and curve_truncations: one curve's series, their statistics and its revision.

Functions here run inside a transaction that jobs/curves.py has opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from jobs import pyramid
from jobs.chunks import SeriesChunks
from jobs.cursors import NOTHING_YET, Cursor, InvalidCursor
from jobs.errors import JobsError, LostLease
from jobs.pyramid import CELL_POINTS, Cells, Steps, Values
from jobs.tables import curve_series, curve_truncations, curves, jobs


class StepsOutOfOrder(JobsError):
    """A series' steps must be integers from 0 up that strictly increase. Nothing of the append was stored."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the steps of {name!r} do not increase, or are not as many as its values")


@dataclass(frozen=True)
class Point:
    """One value and the step at which it was taken."""

    step: int
    value: float


@dataclass
class StoredSeries:
    """A row of curve_series. `min` and `max` are of the finite values only; `last` may be any."""

    ordinal: int
    name: str
    total: int = 0
    last: Point | None = None
    min: Point | None = None
    max: Point | None = None

    @property
    def last_step(self) -> int:
        return NOTHING_YET if self.last is None else self.last.step


def hold(connection: sa.Connection, job_id: str, attempt: int) -> None:
    """Raises LostLease unless this attempt is running the job; holds that true until the transaction ends."""
    fence = sa.select(jobs.c.id).where(jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.state == "running")
    if connection.execute(fence.with_for_update()).one_or_none() is None:
        raise LostLease(job_id, attempt)


def check_steps(name: str, steps: Steps, values: Values) -> None:
    """Raises StepsOutOfOrder when these points cannot be a run of a series."""
    rising = len(steps) == 0 or (int(steps[0]) >= 0 and bool((np.diff(steps) > 0).all()))
    if len(steps) != len(values) or not rising:
        raise StepsOutOfOrder(name)


def load(connection: sa.Connection, job_ids: Sequence[str]) -> dict[str, list[StoredSeries]]:
    """The series of these curves, in order of appearance; every id that was asked for is a key."""
    loaded: dict[str, list[StoredSeries]] = {job_id: [] for job_id in job_ids}
    query = sa.select(curve_series).where(curve_series.c.job_id.in_(job_ids)).order_by(curve_series.c.ordinal)
    for row in connection.execute(query):
        loaded[row.job_id].append(_stored(row))
    return loaded


def version(connection: sa.Connection, job_id: str) -> tuple[int, int]:
    """(revision, writes so far)."""
    row = connection.execute(sa.select(curves.c.revision, curves.c.written).where(curves.c.job_id == job_id)).one_or_none()
    return (0, 0) if row is None else (row.revision, row.written)


def bump(connection: sa.Connection, job_id: str, *, revisions: int) -> None:
    """Counts one write."""
    counts = {"revision": curves.c.revision + revisions, "written": curves.c.written + 1}
    if connection.execute(sa.update(curves).where(curves.c.job_id == job_id).values(**counts)).rowcount == 0:
        connection.execute(sa.insert(curves), [{"job_id": job_id, "revision": revisions, "written": 1}])


def drop_after(connection: sa.Connection, job_id: str, after_step: int) -> None:
    """Drops every point whose step is greater than `after_step`. A curve without such points keeps its revision."""
    longer = [each for each in load(connection, [job_id])[job_id] if each.last_step > after_step]
    for each in longer:
        cut(connection, job_id, each, after_step)
    if longer:
        remember_truncation(connection, job_id, after_step)


def remember_truncation(connection: sa.Connection, job_id: str, after_step: int) -> None:
    """Begins a new revision and keeps what it dropped, for readers that come back with an older cursor."""
    bump(connection, job_id, revisions=1)
    revision, _ = version(connection, job_id)
    row = {"job_id": job_id, "revision": revision, "after_step": after_step}
    connection.execute(sa.insert(curve_truncations), [row])


def dropped_since(connection: sa.Connection, job_id: str, since: Cursor, revision: int) -> int | None:
    """The step after which a reader with this cursor must drop its points. Raises InvalidCursor for one from the future."""
    if since.revision > revision:
        raise InvalidCursor(str(since))
    later = (curve_truncations.c.job_id == job_id, curve_truncations.c.revision > since.revision)
    dropped: int | None = connection.scalar(sa.select(sa.func.min(curve_truncations.c.after_step)).where(*later))
    return dropped


def extend(
    connection: sa.Connection, job_id: str, known: dict[str, StoredSeries], name: str, steps: Steps, values: Values
) -> None:
    """Appends checked points (one or more) to the series of this name, which is begun and put into `known` when new."""
    fresh = name not in known
    each = known.setdefault(name, StoredSeries(len(known), name))
    if int(steps[0]) <= each.last_step:
        raise StepsOutOfOrder(name)
    SeriesChunks(connection, job_id, each.ordinal).extend(each.total, steps, values)
    _count(each, pyramid.as_cells(steps, values))
    each.total += len(steps)
    each.last = Point(int(steps[-1]), float(values[-1]))
    if fresh:
        row = {"job_id": job_id, "ordinal": each.ordinal, "name": name}
        connection.execute(sa.insert(curve_series), [row | _statistics(each)])
    else:
        _save(connection, job_id, each)


def cut(connection: sa.Connection, job_id: str, each: StoredSeries, after_step: int) -> None:
    """Drops this series' points after a step and works its statistics out again, from the cells that remain."""
    chunks = SeriesChunks(connection, job_id, each.ordinal)
    total = chunks.index_after(after_step)
    chunks.cut(total)
    each.total, each.last, each.min, each.max = total, None, None, None
    if total:
        steps, values = chunks.points(total - 1, total)
        each.last = Point(int(steps[0]), float(values[0]))
        _count(each, chunks.overview(0, total, level=2)[0])
    _save(connection, job_id, each)


def next_points(connection: sa.Connection, job_id: str, each: StoredSeries, start: int, limit: int) -> tuple[Steps, Values]:
    """The first `limit` points whose steps are greater than `start`."""
    chunks = SeriesChunks(connection, job_id, each.ordinal)
    first = _index_after(chunks, each, start)
    return chunks.points(first, min(first + limit, each.total))


def thinned(connection: sa.Connection, job_id: str, each: StoredSeries, start: int, max_points: int) -> tuple[Steps, Values]:
    """The points whose steps are greater than `start`: at most `max_points` of them, or all when that is 0."""
    chunks = SeriesChunks(connection, job_id, each.ordinal)
    first = _index_after(chunks, each, start)
    count = each.total - first
    if max_points == 0 or count <= max_points:
        return chunks.points(first, each.total)
    cells, widths, odd = chunks.overview(first, each.total, _level(count, max_points))
    head, tail = (pyramid.as_points(*chunks.points(index, index + 1)) for index in (first, each.total - 1))
    return pyramid.thin(cells, widths, odd, head, tail, max_points)


def _index_after(chunks: SeriesChunks, each: StoredSeries, start: int) -> int:
    return each.total if start >= each.last_step else chunks.index_after(start)


def _level(count: int, max_points: int) -> int:
    # The coarsest cells that are still no larger than a bucket: two points come out of each bucket.
    points_per_bucket = 2 * count / max_points
    return max((level for level, points in CELL_POINTS.items() if points <= points_per_bucket), default=0)


def _count(each: StoredSeries, cells: Cells) -> None:
    # Strict comparisons: the earliest of equal extremes stands.
    (cell,) = pyramid.merge(cells, pyramid.every(len(cells), len(cells)))
    if np.isfinite(cell["low"]) and (each.min is None or cell["low"] < each.min.value):
        each.min = Point(int(cell["low_step"]), float(cell["low"]))
    if np.isfinite(cell["high"]) and (each.max is None or cell["high"] > each.max.value):
        each.max = Point(int(cell["high_step"]), float(cell["high"]))


def _save(connection: sa.Connection, job_id: str, each: StoredSeries) -> None:
    mine = (curve_series.c.job_id == job_id, curve_series.c.ordinal == each.ordinal)
    connection.execute(sa.update(curve_series).where(*mine).values(**_statistics(each)))


def _statistics(each: StoredSeries) -> dict[str, Any]:
    return {
        "total": each.total,
        "last_step": None if each.last is None else each.last.step,
        "last_value": None if each.last is None else np.float64(each.last.value).tobytes(),
        "min_step": None if each.min is None else each.min.step,
        "min_value": None if each.min is None else each.min.value,
        "max_step": None if each.max is None else each.max.step,
        "max_value": None if each.max is None else each.max.value,
    }


def _stored(row: sa.Row[tuple[Any, ...]]) -> StoredSeries:
    last = None if row.last_step is None else Point(row.last_step, float(np.frombuffer(row.last_value, "<f8")[0]))
    low = None if row.min_step is None else Point(row.min_step, row.min_value)
    high = None if row.max_step is None else Point(row.max_step, row.max_value)
    return StoredSeries(row.ordinal, row.name, row.total, last, low, high)
