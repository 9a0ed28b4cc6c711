"""The curve of a job: every point of every series, exactly, and readers that ask for all of it, a window or an overview.

Values are float64 and come back bit for bit, NaN and infinities too. Non-finite values are left out of min and max. Only the
attempt that holds the job may write.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobs import series as rows
from jobs.cursors import NOTHING_YET, Cursor
from jobs.database import reading, writing
from jobs.errors import CurveFull
from jobs.pyramid import Steps, Values
from jobs.series import Point, StoredSeries

DEFAULT_MAX_POINTS = 2000
MAX_SERIES = 1000
MAX_NAME_CHARACTERS = 200  # the column's


@dataclass(frozen=True)
class SeriesView:
    """Part of a series (`steps`, `values`: arrays of equal length), with total, min, max and last of the whole of it."""

    name: str
    total: int
    steps: Steps
    values: Values
    min: Point | None
    max: Point | None
    last: Point | None


@dataclass(frozen=True)
class CurveView:
    """What a reader asked for. `truncate_after`: points after that step, read by an earlier cursor, were dropped."""

    job_id: str
    revision: int
    cursor: str
    truncate_after: int | None
    series: list[SeriesView]
    complete: bool  # False when `limit` left points for the next read


class Curves:
    """All curves in one database."""

    def __init__(self, engine: sa.Engine, max_points: int | None = None) -> None:
        """`max_points` bounds each curve, all its series together."""
        self.engine, self._max_points = engine, max_points

    def append(self, job_id: str, attempt: int, series: Mapping[str, tuple[Steps, Values]]) -> None:
        """Adds points (steps int64, values float64 of equal length), all of them or none.

        Raises LostLease when this attempt no longer runs the job, StepsOutOfOrder when a step is not greater than the one
        before: so an append that is sent twice is refused the second time, never stored twice. Raises CurveFull when the curve
        would have too many points or series, or a series a name that is too long.
        """
        for name, (steps, values) in series.items():
            rows.check_steps(name, steps, values)
        with writing(self.engine) as connection:
            rows.hold(connection, job_id, attempt)
            known = {each.name: each for each in rows.load(connection, [job_id])[job_id]}
            self._check_bounds(known, series)
            for name, (steps, values) in series.items():
                if len(steps):
                    rows.extend(connection, job_id, known, name, steps, values)
            rows.bump(connection, job_id, revisions=0)

    def _check_bounds(self, known: Mapping[str, StoredSeries], series: Mapping[str, tuple[Steps, Values]]) -> None:
        if len(known.keys() | series.keys()) > MAX_SERIES:
            raise CurveFull(f"a curve has at most {MAX_SERIES} series")
        if (longest := max(map(len, series), default=0)) > MAX_NAME_CHARACTERS:
            raise CurveFull(f"the name of a series has at most {MAX_NAME_CHARACTERS} characters, not {longest}")
        total = sum(each.total for each in known.values()) + sum(len(steps) for steps, _ in series.values())
        if self._max_points is not None and total > self._max_points:
            raise CurveFull(f"the curve has no room for more than {self._max_points} points (POSTGRAD_MAX_CURVE_POINTS)")

    def truncate(self, job_id: str, attempt: int, after_step: int) -> None:
        """Drops every point whose step is greater than `after_step`. A curve without such points keeps its revision.

        Raises LostLease when this attempt no longer runs the job.
        """
        with writing(self.engine) as connection:
            rows.hold(connection, job_id, attempt)
            rows.drop_after(connection, job_id, after_step)

    def read(
        self,
        job_id: str,
        names: Iterable[str] | None = None,
        after: int | None = None,
        cursor: str | None = None,
        max_points: int = DEFAULT_MAX_POINTS,
        limit: int | None = None,
    ) -> CurveView:
        """The points with steps greater than `after` that were written since `cursor`, of the named series or of all.

        `max_points` thins each series (0 gives every point). `limit` instead gives the first so many points of each series,
        with a cursor to go on from. A job without points, known or not, has an empty curve. Raises InvalidCursor.
        """
        since = None if cursor is None else Cursor.parse(cursor)
        wanted = None if names is None else set(names)
        with reading(self.engine) as connection:
            revision, _ = rows.version(connection, job_id)
            dropped = None if since is None else rows.dropped_since(connection, job_id, since, revision)
            views, reached, complete = [], [], True
            for each in rows.load(connection, [job_id])[job_id]:
                reached.append(each.last_step)
                if each.total and (wanted is None or each.name in wanted):
                    start = _start(each, after, since, dropped)
                    views.append(_view(connection, job_id, each, start, max_points, limit))
                    if limit is not None and len(views[-1].steps) == limit:
                        reached[-1] = int(views[-1].steps[-1])
                        complete = complete and reached[-1] == each.last_step
        return CurveView(job_id, revision, str(Cursor(revision, tuple(reached))), dropped, views, complete)

    def position(self, job_id: str) -> str:
        """The cursor behind everything that is written now."""
        with reading(self.engine) as connection:
            revision, _ = rows.version(connection, job_id)
            steps = tuple(each.last_step for each in rows.load(connection, [job_id])[job_id])
        return str(Cursor(revision, steps))

    def version(self, job_id: str) -> tuple[int, int]:
        """(revision, writes so far): changes whenever the curve does; (0, 0) before the first write. One small read."""
        with reading(self.engine) as connection:
            return rows.version(connection, job_id)

    def summary(self, job_id: str) -> dict[str, dict[str, Any]]:
        """{series: {"last", "min", "max"}}, each {"step", "value"} ready for JSON or None."""
        return self.summaries([job_id])[job_id]

    def summaries(self, job_ids: Iterable[str]) -> dict[str, dict[str, dict[str, Any]]]:
        """`summary` of several jobs in one read, by job id."""
        with reading(self.engine) as connection:
            loaded = rows.load(connection, list(job_ids))
        return {job_id: {each.name: ends_json(each) for each in some if each.total} for job_id, some in loaded.items()}


def marked(value: float) -> float | str:
    """The value as JSON can hold it: a non-finite one is "NaN", "Infinity" or "-Infinity"."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def ends_json(series: SeriesView | StoredSeries) -> dict[str, dict[str, Any] | None]:
    """last, min and max of a series, as they stand in a job's summary and in a curve."""
    return {"last": _point_json(series.last), "min": _point_json(series.min), "max": _point_json(series.max)}


def _point_json(point: Point | None) -> dict[str, Any] | None:
    return None if point is None else {"step": point.step, "value": marked(point.value)}


def _start(each: StoredSeries, after: int | None, since: Cursor | None, dropped: int | None) -> int:
    # The step behind which the reader has nothing yet: it dropped what was truncated, and skips what it did not ask for.
    have = NOTHING_YET if since is None else since.step(each.ordinal)
    if dropped is not None:
        have = min(have, dropped)
    return have if after is None else max(have, after)


def _view(
    connection: sa.Connection, job_id: str, each: StoredSeries, start: int, max_points: int, limit: int | None
) -> SeriesView:
    if limit is None:
        steps, values = rows.thinned(connection, job_id, each, start, max_points)
    else:
        steps, values = rows.next_points(connection, job_id, each, start, limit)
    return SeriesView(each.name, each.total, steps, values, each.min, each.max, each.last)
