"""HEAD wherever GET is answered, and 405 with what the path takes."""

from __future__ import annotations

import httpx
import pytest

from tests.app.conftest import good_spec

GETS = [f"/v1/jobs/{{id}}{part}" for part in ("", "/events", "/metrics", "/logs", "/artifacts")]
GETS += ["/v1/jobs", "/v1/files", "/v1/catalog", "/v1/catalog/losses", "/v1/workers"]
GETS += ["/health/live", "/openapi.json", "/docs", "/", "/web/style.css"]


@pytest.fixture(scope="module")
def job_id(client: httpx.Client) -> str:
    return str(client.post("/v1/jobs", json=good_spec()).json()["id"])


@pytest.mark.parametrize("path", GETS)
def test_head_answers_as_get_without_the_body(client: httpx.Client, job_id: str, path: str) -> None:
    path = path.replace("{id}", job_id)
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    changing = {"date"}
    assert {k: v for k, v in head.headers.items() if k not in changing} == {
        k: v for k, v in got.headers.items() if k not in changing
    }


def test_head_of_a_stream_ends_at_once(client: httpx.Client, job_id: str) -> None:
    answer = client.head(f"/v1/jobs/{job_id}/stream", timeout=5)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert client.head("/v1/jobs/job_none/stream").status_code == 404


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v1/jobs", "GET, HEAD, POST"),
        ("/v1/jobs/{id}/metrics", "GET, HEAD"),
        ("/v1/jobs/{id}/cancel", "POST"),
        ("/v1/files", "GET, HEAD, POST"),
        ("/docs", "GET, HEAD"),
        ("/web/style.css", "GET, HEAD"),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "QUERY"])
def test_another_method_is_405_and_told_what_the_path_takes(client: httpx.Client, path: str, allow: str, method: str) -> None:
    answer = client.request(method, path.replace("{id}", "job_none"))
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    assert answer.headers["content-type"] == "application/problem+json"


def test_head_of_what_takes_post_only_is_405(client: httpx.Client) -> None:
    assert client.head("/v1/jobs/job_none/cancel").status_code == 405
