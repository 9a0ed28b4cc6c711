"""A curve as bytes: JSON by orjson straight from the arrays, or CSV. float64 in shortest round-trip form."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from jobs.curves import CurveView, SeriesView, ends_json, marked
from jobs.pyramid import Values

CSV_HEADER = b"series,step,value\n"


def dumps(body: object) -> bytes:
    """JSON, with numpy arrays as lists. Non-finite numbers must be marked before: orjson would write null for them."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def curve_body(view: CurveView, status: str) -> dict[str, Any]:
    """The answer of GET .../metrics."""
    head: dict[str, Any] = {"object": "metrics", "job_id": view.job_id, "status": status}
    head |= {"cursor": view.cursor, "revision": view.revision}
    if view.truncate_after is not None:
        head["truncate_after"] = view.truncate_after
    return head | {"series": [series_body(series) for series in view.series]}


def series_body(series: SeriesView) -> dict[str, Any]:
    """One series: the points that were asked for, and the ends and extremes of the whole."""
    points = {"steps": np.ascontiguousarray(series.steps), "values": _values(series.values)}
    return {"name": series.name, "total": series.total, **points, **ends_json(series)}


def curve_csv(view: CurveView) -> Iterator[bytes]:
    """One line for each point, series after series, under the header `series,step,value`."""
    yield CSV_HEADER
    for series in view.series:
        if len(series.steps):
            yield _csv_lines(series)


def _csv_lines(series: SeriesView) -> bytes:
    name = _csv_cell(series.name)
    steps, values = (_numbers(column) for column in (np.ascontiguousarray(series.steps), _values(series.values)))
    return b"".join(b"%b,%b,%b\n" % (name, step, value) for step, value in zip(steps, values, strict=True))


def _numbers(column: object) -> list[bytes]:
    return dumps(column)[1:-1].replace(b'"', b"").split(b",")


def _csv_cell(text: str) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([text])
    return line.getvalue().encode()


def _values(values: Values) -> object:
    if np.isfinite(values).all():
        return np.ascontiguousarray(values)
    return [marked(value) for value in values.tolist()]
