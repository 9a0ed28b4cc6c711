"""/v1/prune over HTTP, and the retention that does the same by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.app.conftest import Server, good_spec, wait_for


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose jobs nobody else needs."""
    server = Server(tmp_path_factory.mktemp("own"))
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def ended_job(client: httpx.Client, **changes: Any) -> str:
    answer = client.post("/v1/jobs", json=good_spec() | changes)
    assert answer.status_code == 201, answer.text
    job_id = str(answer.json()["id"])
    assert client.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "cancelled"
    return job_id


def test_old_jobs_and_files_go_and_a_dry_run_says_how_many(own: Server) -> None:
    job_id = ended_job(own.client)
    waiting = own.client.post("/v1/jobs", json=good_spec()).json()["id"]
    file_id = own.client.post("/v1/files", files={"file": ("a.csv", b"a,b\n1,2\n3,4\n")}).json()["id"]
    young = own.client.post("/v1/prune", json={"older_than_seconds": 3600}).json()
    assert (young["object"], young["jobs"], young["files"]) == ("prune", 0, 0)
    dry = own.client.post("/v1/prune", json={"older_than_seconds": 0, "dry_run": True}).json()
    assert (dry["dry_run"], dry["jobs"], dry["files"], dry["weights"], dry["has_more"]) == (True, 1, 1, 0, False)
    assert own.client.get(f"/v1/jobs/{job_id}").status_code == 200
    found = own.client.post("/v1/prune", json={"older_than_seconds": 0}).json()
    assert (found["jobs"], found["files"]) == (1, 1)
    assert own.client.get(f"/v1/jobs/{job_id}").status_code == 404
    assert own.client.get(f"/v1/files/{file_id}").status_code == 404
    assert own.client.get(f"/v1/jobs/{waiting}").json()["status"] == "queued"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/older_than_seconds"),
        ({"older_than_seconds": -1}, "/older_than_seconds"),
        ({"older_than_seconds": 1e300}, "/older_than_seconds"),
        ({"older_than_seconds": "30d"}, "/older_than_seconds"),
        ({"older_than_seconds": 1, "dry_run": "yes"}, "/dry_run"),
        ({"older_than_seconds": 1, "all": True}, "/all"),
        ([], ""),
    ],
)
def test_what_is_no_age_removes_nothing(own: Server, body: Any, pointer: str) -> None:
    answer = own.client.post("/v1/prune", json=body)
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/invalid-prune"
    assert [found["pointer"] for found in answer.json()["errors"]] == [pointer]


def test_a_key_without_the_scope_admin_removes_nothing(own: Server) -> None:
    secret = own.client.post("/v1/keys", json={"name": "writer", "scopes": ["read", "write"]}).json()["secret"]
    answer = own.client.post("/v1/prune", json={"older_than_seconds": 0}, headers={"Authorization": f"Bearer {secret}"})
    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/missing-scope")


def test_openapi_says_what_it_takes_and_that_it_needs_admin(own: Server) -> None:
    document = own.client.get("/openapi.json").json()
    operation = document["paths"]["/v1/prune"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/PruneWanted")
    assert operation["security"] == [{}, {"key": ["admin"]}]
    assert set(document["components"]["schemas"]["PruneWanted"]["properties"]) == {"older_than_seconds", "dry_run"}


def test_a_retention_removes_what_is_older_by_itself(tmp_path: Path) -> None:
    """About half a second is the retention here; it is looked after at the start and once an hour."""
    server = Server(tmp_path)
    server.wait_until_ready()
    old = ended_job(server.client)
    waiting = server.client.post("/v1/jobs", json=good_spec()).json()["id"]
    server.stop()
    server = Server(tmp_path, retention_days="0.000005")
    try:
        wait_for(lambda: server.client.get(f"/v1/jobs/{old}").status_code == 404)
        assert not (tmp_path / "jobs" / old).exists()
        assert server.client.get(f"/v1/jobs/{waiting}").json()["status"] == "queued"
    finally:
        server.stop()
