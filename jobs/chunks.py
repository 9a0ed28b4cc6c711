"""Rows of curve_chunks and curve_pyramid: how the points of one series lie in the database.

The point at index i (counted from 0 within its series) lies in chunk i // CHUNK_POINTS. A full chunk has a row in level 1 of
the pyramid, and FAN_OUT full chunks have one in level 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from jobs import pyramid
from jobs.pyramid import CELL, CELL_POINTS, CHUNK_POINTS, FAN_OUT, POINT, Cells, Points, Steps, Values
from jobs.tables import curve_chunks, curve_pyramid


@dataclass(frozen=True)
class SeriesChunks:
    """The stored points of one series, within one transaction."""

    connection: sa.Connection
    job_id: str
    ordinal: int

    def points(self, first: int, stop: int) -> tuple[Steps, Values]:
        """The points at indices first to stop - 1, exactly as they were appended."""
        if stop <= first:
            return np.empty(0, np.int64), np.empty(0, np.float64)
        rows = self._chunks(first // CHUNK_POINTS, (stop - 1) // CHUNK_POINTS + 1)
        offset = first // CHUNK_POINTS * CHUNK_POINTS
        steps = np.concatenate([_steps(row) for row in rows])[first - offset : stop - offset]
        values = np.concatenate([np.frombuffer(row.points, "<f8") for row in rows])[first - offset : stop - offset]
        return steps, values

    def index_after(self, step: int) -> int:
        """The index of the first point whose step is greater than `step`. There must be one."""
        if step < 0:
            return 0
        query = sa.select(curve_chunks).where(self._mine(curve_chunks), curve_chunks.c.last_step > step)
        row = self.connection.execute(query.order_by(curve_chunks.c.seq).limit(1)).one()
        return int(row.seq * CHUNK_POINTS + np.searchsorted(_steps(row), step, side="right"))

    def overview(self, first: int, stop: int, level: int) -> tuple[Cells, Steps, Points]:
        """Cells over the points first to stop - 1, how many points each stands for, and the non-finite points.

        The first and the last chunk are always read point by point; between them cells of `level` (1 or 2) stand in, where
        they are complete. Level 0 reads every point.
        """
        head, tail = first // CHUNK_POINTS, (stop - 1) // CHUNK_POINTS
        if level == 0 or tail - head < 2:
            return _as_overview(*self.points(first, stop))
        parts = [_as_overview(*self.points(first, (head + 1) * CHUNK_POINTS))]
        parts += [self._cells(*span) for span in _spans(head + 1, tail, level)]
        parts += [_as_overview(*self.points(tail * CHUNK_POINTS, stop))]
        cells, widths, odd = (np.concatenate(column) for column in zip(*parts, strict=True))
        return cells, widths, odd

    def extend(self, total: int, steps: Steps, values: Values) -> None:
        """Puts points behind the `total` that are there, filling the open chunk first."""
        seq, held = divmod(total, CHUNK_POINTS)
        if held:
            old_steps, old_values = self.points(seq * CHUNK_POINTS, total)
            steps, values = np.concatenate([old_steps, steps]), np.concatenate([old_values, values])
        for offset in range(0, len(steps), CHUNK_POINTS):
            part = slice(offset, offset + CHUNK_POINTS)
            self._write_chunk(seq, steps[part], values[part], replace=held > 0 and offset == 0)
            seq += 1

    def cut(self, total: int) -> None:
        """Drops every point from index `total` on, and the cells that stood for any of them."""
        seq, held = divmod(total, CHUNK_POINTS)
        steps, values = self.points(seq * CHUNK_POINTS, total)
        self.connection.execute(sa.delete(curve_chunks).where(self._mine(curve_chunks), curve_chunks.c.seq >= seq))
        for level, rows in ((1, seq), (2, seq // FAN_OUT)):
            stale = sa.and_(curve_pyramid.c.level == level, curve_pyramid.c.seq >= rows)
            self.connection.execute(sa.delete(curve_pyramid).where(self._mine(curve_pyramid), stale))
        if held:
            self._write_chunk(seq, steps, values, replace=False)

    def _write_chunk(self, seq: int, steps: Steps, values: Values, *, replace: bool) -> None:
        row = {
            "first_step": int(steps[0]),
            "last_step": int(steps[-1]),
            "steps": b"" if _evenly_spaced(steps) else steps.astype("<i8").tobytes(),
            "points": values.astype("<f8").tobytes(),
        }
        if replace:
            mine = (self._mine(curve_chunks), curve_chunks.c.seq == seq)
            self.connection.execute(sa.update(curve_chunks).where(*mine).values(**row))
        else:
            self.connection.execute(sa.insert(curve_chunks), [self._key(seq) | row])
        if len(steps) == CHUNK_POINTS:
            self._close_chunk(seq, steps, values)

    def _close_chunk(self, seq: int, steps: Steps, values: Values) -> None:
        cells = pyramid.merge(pyramid.as_cells(steps, values), pyramid.every(CHUNK_POINTS, CELL_POINTS[1]))
        self._write_cells(1, seq, cells, pyramid.odd_points(steps, values))
        if (seq + 1) % FAN_OUT == 0:
            below, _, odd = self._cells(1, seq + 1 - FAN_OUT, seq + 1)
            merged = pyramid.merge(below, pyramid.every(len(below), CELL_POINTS[2] // CELL_POINTS[1]))
            self._write_cells(2, seq // FAN_OUT, merged, odd)

    def _write_cells(self, level: int, seq: int, cells: Cells, odd: Points) -> None:
        row = {"level": level, "cells": cells.tobytes(), "odd": odd.tobytes()}
        self.connection.execute(sa.insert(curve_pyramid), [self._key(seq) | row])

    def _cells(self, level: int, first: int, stop: int) -> tuple[Cells, Steps, Points]:
        table = curve_pyramid.c
        span = (table.level == level, table.seq >= first, table.seq < stop)
        query = sa.select(table.cells, table.odd).where(self._mine(curve_pyramid), *span).order_by(table.seq)
        rows = self.connection.execute(query).all()
        cells = np.frombuffer(b"".join(row.cells for row in rows), CELL)
        odd = np.frombuffer(b"".join(row.odd for row in rows), POINT)
        return cells, np.full(len(cells), CELL_POINTS[level], np.int64), odd

    def _chunks(self, first: int, stop: int) -> list[sa.Row[tuple[object, ...]]]:
        query = sa.select(curve_chunks).where(self._mine(curve_chunks), curve_chunks.c.seq >= first, curve_chunks.c.seq < stop)
        return list(self.connection.execute(query.order_by(curve_chunks.c.seq)).all())

    def _mine(self, table: sa.Table) -> sa.ColumnElement[bool]:
        return sa.and_(table.c.job_id == self.job_id, table.c.ordinal == self.ordinal)

    def _key(self, seq: int) -> dict[str, object]:
        return {"job_id": self.job_id, "ordinal": self.ordinal, "seq": seq}


def _spans(first: int, stop: int, level: int) -> list[tuple[int, int, int]]:
    # (level, first row, row after the last): whole rows of level 2 with level 1 on both sides of them.
    low, high = -(-first // FAN_OUT), stop // FAN_OUT
    if level == 1 or low >= high:
        return [(1, first, stop)]
    return [(1, first, low * FAN_OUT), (2, low, high), (1, high * FAN_OUT, stop)]


def _as_overview(steps: Steps, values: Values) -> tuple[Cells, Steps, Points]:
    return pyramid.as_cells(steps, values), np.ones(len(steps), np.int64), pyramid.odd_points(steps, values)


def _evenly_spaced(steps: Steps) -> bool:
    gaps = np.diff(steps)
    return bool(len(gaps) == 0 or (gaps == gaps[0]).all())


def _steps(row: sa.Row[tuple[object, ...]]) -> Steps:
    if row.steps:
        return np.frombuffer(row.steps, "<i8")
    count = len(row.points) // 8
    gap = (row.last_step - row.first_step) // max(count - 1, 1)
    steps: Steps = np.arange(count, dtype=np.int64) * gap + row.first_step
    return steps
