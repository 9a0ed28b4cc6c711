"""GET /v1/jobs/{id}/metrics, over HTTP."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.curve_routes import prefers_csv
from tests.app.curve_server import LOSS, CurveServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CurveServer]:
    running = CurveServer(Path(tmp_path_factory.mktemp("curves")))
    yield running
    running.close()


def metrics(server: CurveServer, job: str, **parameters: Any) -> Any:
    response = server.client.get(f"/v1/jobs/{job}/metrics", params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


def test_values_are_the_very_floats_that_were_written(server: CurveServer) -> None:
    job = server.running_job()
    values = np.concatenate([np.random.default_rng(0).normal(size=3000), [0.1, 1e-310, -0.0, 1.7976931348623157e308]])
    server.curves.append(job, 1, {LOSS: (np.arange(1, len(values) + 1), values)})
    body = metrics(server, job, max_points=0)
    (series,) = body["series"]
    assert np.array(series["values"]).tobytes() == values.tobytes()
    assert series["steps"] == list(range(1, len(values) + 1))
    assert {key: body[key] for key in ("object", "job_id", "status", "revision")} == {
        "object": "metrics",
        "job_id": job,
        "status": "running",
        "revision": 0,
    }
    assert "truncate_after" not in body


def test_2000_points_of_each_series_unless_asked_otherwise(server: CurveServer) -> None:
    job = server.running_job()
    server.append(job, 1, 5001)
    (series,) = metrics(server, job)["series"]
    assert 1000 < len(series["steps"]) <= 2000
    assert series["total"] == 5000
    assert series["min"] == {"step": 5000, "value": 1 / 5000} == series["last"]
    assert series["max"] == {"step": 1, "value": 1.0}


def test_non_finite_values_are_marked_in_json_and_csv(server: CurveServer) -> None:
    job = server.running_job()
    server.curves.append(job, 1, {LOSS: (np.arange(1, 5), np.array([0.5, math.nan, math.inf, -math.inf]))})
    (series,) = metrics(server, job)["series"]
    assert series["values"] == [0.5, "NaN", "Infinity", "-Infinity"]
    assert (series["last"], series["max"]) == ({"step": 4, "value": "-Infinity"}, {"step": 1, "value": 0.5})
    text = server.client.get(f"/v1/jobs/{job}/metrics", headers={"Accept": "text/csv"}).text
    assert text.splitlines()[1:] == [f"{LOSS},1,0.5", f"{LOSS},2,NaN", f"{LOSS},3,Infinity", f"{LOSS},4,-Infinity"]


def test_csv_holds_every_series_and_quotes_odd_names(server: CurveServer) -> None:
    job = server.running_job()
    server.append(job, 1, 4)
    server.append(job, 3, 4, name='val/"a,b"')
    response = server.client.get(f"/v1/jobs/{job}/metrics", headers={"Accept": "text/csv"})
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.reader(io.StringIO(response.text)))
    assert rows[0] == ["series", "step", "value"]
    assert [(name, int(step), float(value)) for name, step, value in rows[1:]] == [
        (LOSS, 1, 1.0),
        (LOSS, 2, 0.5),
        (LOSS, 3, 1 / 3),
        ('val/"a,b"', 3, 1 / 3),
    ]


def test_names_after_and_cursor_choose_the_points(server: CurveServer) -> None:
    job = server.running_job()
    for name in (LOSS, "lr", "val/loss"):
        server.append(job, 1, 11, name=name)
    body = metrics(server, job, name=["lr", LOSS, "none"], after=7)
    assert {series["name"]: series["steps"] for series in body["series"]} == {LOSS: [8, 9, 10], "lr": [8, 9, 10]}
    server.append(job, 11, 13, name="lr")
    later = metrics(server, job, cursor=body["cursor"])
    assert {series["name"]: series["steps"] for series in later["series"]} == {LOSS: [], "lr": [11, 12], "val/loss": []}


def test_a_resumed_attempt_tells_an_old_cursor_what_to_drop(server: CurveServer) -> None:
    job = server.running_job()
    server.append(job, 1, 11)
    old = metrics(server, job)["cursor"]
    server.curves.truncate(job, 1, 4)
    server.append(job, 5, 7)
    body = metrics(server, job, cursor=old)
    assert (body["truncate_after"], body["revision"], body["series"][0]["steps"]) == (4, 1, [5, 6])


def test_a_job_without_points_has_an_empty_curve(server: CurveServer) -> None:
    job = server.running_job()
    body = metrics(server, job)
    assert body["series"] == []
    assert metrics(server, job, cursor=body["cursor"])["series"] == []


def test_304_until_a_point_or_the_state_changes(server: CurveServer) -> None:
    job = server.running_job()
    server.append(job, 1, 3)
    path = f"/v1/jobs/{job}/metrics"
    tag = server.client.get(path).headers["etag"]
    unchanged = server.client.get(path, headers={"If-None-Match": f'"other", W/{tag}'})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
    assert server.client.get(path, headers={"If-None-Match": tag, "Accept": "text/csv"}).status_code == 200
    server.append(job, 3, 4)
    newer = server.client.get(path, headers={"If-None-Match": tag})
    assert newer.status_code == 200
    server.store.finish(job, 1, "succeeded")
    ended = server.client.get(path, headers={"If-None-Match": newer.headers["etag"]})
    assert (ended.status_code, ended.json()["status"]) == (200, "succeeded")


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"max_points": -1}, "max_points"),
        ({"after": "x"}, "after"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": "9"}, "cursor"),
    ],
)
def test_bad_parameters_are_problems_that_name_them(server: CurveServer, parameters: dict[str, Any], named: str) -> None:
    response = server.client.get(f"/v1/jobs/{server.running_job()}/metrics", params=parameters)
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    assert [error["parameter"] for error in response.json()["errors"]] == [named]


def test_an_unknown_job_is_404(server: CurveServer) -> None:
    response = server.client.get("/v1/jobs/job_none/metrics")
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize(
    ("accept", "is_csv"),
    [
        ("*/*", False),
        ("text/csv", True),
        ("text/*", True),
        ("application/json, text/csv", False),
        ("text/csv;q=0.9, application/json;q=0.5", True),
        ("text/csv;q=nan?, */*;q=0.1", False),
        ("", False),
    ],
)
def test_csv_only_where_it_is_preferred(accept: str, is_csv: bool) -> None:
    assert prefers_csv(accept) is is_csv


def test_the_body_is_strict_json(server: CurveServer) -> None:
    job = server.running_job()
    server.curves.append(job, 1, {LOSS: (np.arange(1, 3), np.array([math.nan, 1.0]))})
    text = server.client.get(f"/v1/jobs/{job}/metrics").text

    def refuse(literal: str) -> None:
        raise AssertionError(literal)

    assert json.loads(text, parse_constant=refuse)["series"][0]["values"] == ["NaN", 1.0]
