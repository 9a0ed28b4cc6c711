"""/v1/jobs through a real server. There is no worker here: a job stays queued unless the test moves it."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx
import pytest

from jobs.database import open_engine
from jobs.files import DataFolder
from jobs.store import Store
from tests.app.conftest import Server, good_spec


@pytest.fixture(scope="module")
def store(server: Server) -> Store:
    return Store(open_engine(server.folder / "postgrad.db"))


def create(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=good_spec() | changes)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_a_good_spec_is_queued_and_shown_as_the_contract_says(client: httpx.Client) -> None:
    answer = client.post("/v1/jobs", json=good_spec())
    body = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/jobs/{body['id']}"
    assert (body["object"], body["status"], body["name"]) == ("job", "queued", "mlp")
    assert (body["failure"], body["device"], body["started_at"], body["finished_at"]) == (None, None, None, None)
    assert (body["progress"]["epoch"], body["progress"]["epochs"], body["progress"]["iteration"]) == (0, 2, 0)
    assert body["waiting"]
    assert body["created_at"].endswith("Z")
    assert body["parameters"] == {"total": 30 * 8 + 8 + 8 + 1, "trainable": 30 * 8 + 8 + 8 + 1}
    assert body["spec"]["metrics"] == [{"type": "BinaryAccuracy"}]
    assert body["effective_spec"]["optimizer"]["lr"] == {"value": 1e-4, "source": "given"}
    assert body["links"]["metrics"] == f"/v1/jobs/{body['id']}/metrics"
    assert client.get(answer.headers["location"]).json() == body


def test_a_reader_with_the_tag_gets_304_until_the_job_changes(client: httpx.Client) -> None:
    path = f"/v1/jobs/{create(client)['id']}"
    first = client.get(path)
    assert int(first.headers["retry-after"]) > 0
    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    client.post(f"{path}/cancel")
    changed = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (changed.status_code, changed.json()["status"]) == (200, "cancelled")
    assert "retry-after" not in changed.headers


def test_a_patient_reader_is_answered_when_the_job_ends(client: httpx.Client) -> None:
    path = f"/v1/jobs/{create(client)['id']}"
    timer = threading.Timer(0.3, lambda: client.post(f"{path}/cancel"))
    timer.start()
    began = time.monotonic()
    answer = client.get(path, headers={"Prefer": "wait=15"})
    assert (answer.json()["status"], answer.headers["preference-applied"]) == ("cancelled", "wait=15")
    assert time.monotonic() - began < 10
    timer.join()


def test_patience_has_an_end(client: httpx.Client) -> None:
    answer = client.get(f"/v1/jobs/{create(client)['id']}", headers={"Prefer": "respond-async, wait=1"})
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")


def test_cancel_is_safe_to_repeat(client: httpx.Client) -> None:
    path = f"/v1/jobs/{create(client)['id']}/cancel"
    first, second = client.post(path), client.post(path)
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    assert first.json()["cancel_requested"]


def test_cancelling_a_running_job_is_only_a_request(client: httpx.Client, store: Store) -> None:
    job = create(client)
    while (claim := store.claim("worker-x", ["cpu"], 60)) is not None and claim.job_id != job["id"]:
        pass
    assert claim is not None
    answer = client.post(f"/v1/jobs/{job['id']}/cancel")
    assert (answer.status_code, answer.json()["status"], answer.json()["cancel_requested"]) == (202, "running", True)
    store.finish(job["id"], claim.attempt, "cancelled", None)


def test_the_list_pages_filters_and_orders(client: httpx.Client) -> None:
    ids = [create(client, name="paged")["id"] for _ in range(5)]
    first = client.get("/v1/jobs", params={"name": "paged", "limit": 2}).json()
    assert [job["id"] for job in first["data"]] == [ids[4], ids[3]]
    assert (first["object"], first["has_more"], first["last_id"]) == ("list", True, ids[3])
    rest = client.get("/v1/jobs", params={"name": "paged", "after": first["last_id"]}).json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == ([ids[2], ids[1], ids[0]], False)
    rising = client.get("/v1/jobs", params={"name": "paged", "order": "asc", "limit": 1}).json()
    assert rising["first_id"] == ids[0]
    assert client.get("/v1/jobs", params={"name": "paged", "status": "running"}).json()["data"] == []


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=101", "limit"),
        ("order=up", "order"),
        ("status=done", "status"),
        ("limt=3", "limt"),
        ("name=a&nmae=b", "nmae"),
    ],
)
def test_a_bad_or_unknown_parameter_is_named(client: httpx.Client, query: str, parameter: str) -> None:
    answer = client.get(f"/v1/jobs?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [e["parameter"] for e in answer.json()["errors"]] == [parameter]


def test_events_tell_what_happened(client: httpx.Client) -> None:
    job_id = create(client)["id"]
    client.post(f"/v1/jobs/{job_id}/cancel")
    body = client.get(f"/v1/jobs/{job_id}/events").json()
    assert [event["kind"] for event in body["data"]] == ["queued", "cancelled"]
    later = client.get(f"/v1/jobs/{job_id}/events", params={"after": body["first_id"]}).json()
    assert [event["kind"] for event in later["data"]] == ["cancelled"]


def test_logs_are_lines_or_text(client: httpx.Client, server: Server) -> None:
    job_id = create(client)["id"]
    assert client.get(f"/v1/jobs/{job_id}/logs").json()["lines"] == []
    log = DataFolder(server.folder, server.folder).make_job(job_id) / "attempt-1.log"
    log.write_bytes(b"one\ntwo\nthr\xffee\n")
    body = client.get(f"/v1/jobs/{job_id}/logs", params={"attempt": 1, "lines": 2}).json()
    assert (body["lines"], body["truncated"], body["attempt"]) == (["two", "thr\ufffdee"], True, 1)
    text = client.get(f"/v1/jobs/{job_id}/logs", params={"attempt": 1}, headers={"Accept": "text/plain"})
    assert text.text == "one\ntwo\nthr\ufffdee\n"
    assert client.get(f"/v1/jobs/{job_id}/logs", params={"attempt": 2}).status_code == 404


@pytest.mark.parametrize("part", ["", "/events", "/logs", "/artifacts", "/artifacts/spec.json", "/metrics", "/stream"])
@pytest.mark.parametrize("job_id", ["job_none", "job_00000000000000000000000000", "%2e%2e", "é"])
def test_an_unknown_job_is_404_everywhere(client: httpx.Client, job_id: str, part: str) -> None:
    answer = client.get(f"/v1/jobs/{job_id}{part}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_wrong_methods_and_media_types(client: httpx.Client) -> None:
    deleted = client.delete("/v1/jobs")
    assert (deleted.status_code, deleted.headers["content-type"]) == (405, "application/problem+json")
    assert deleted.headers["allow"]
    assert client.post("/v1/jobs", content=b"{}").status_code == 415
    form = client.post("/v1/jobs", data={"a": "b"})
    assert (form.status_code, form.headers["content-type"]) == (415, "application/problem+json")
    assert client.get("/nowhere").json()["type"] == "/problems/not-found"


def test_a_huge_body_is_413_whether_or_not_it_says_so(client: httpx.Client) -> None:
    big = b'"' + b"x" * (3 * 2**20) + b'"'
    headers = {"Content-Type": "application/json"}
    assert client.post("/v1/jobs", content=big, headers=headers).status_code == 413
    assert client.post("/v1/jobs", content=iter([big]), headers=headers).status_code == 413


def test_workers_are_listed(client: httpx.Client, store: Store) -> None:
    store.worker_started("worker-y", host="h", pid=1, devices=[{"device": "cpu", "slots": 2}], lease_seconds=60)
    [found] = [w for w in client.get("/v1/workers").json()["data"] if w["id"] == "worker-y"]
    assert (found["alive"], found["free_slots"], found["slots"]) == (True, 2, 2)
    store.worker_stopped("worker-y")


def test_a_preflight_describes_and_queues_nothing(client: httpx.Client) -> None:
    before = client.get("/v1/jobs", params={"limit": 1}).json()
    answer = client.post("/v1/jobs", params={"validate_only": "true"}, json=good_spec())
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["object"], body["parameters"]["total"]) == ("preflight", 30 * 8 + 8 + 8 + 1)
    assert [(row["type"], row["output_shape"]) for row in body["layers"]] == [
        ("Linear", [8]),
        ("ReLU", [8]),
        ("Linear", [1]),
        ("Sigmoid", [1]),
    ]
    assert body["memory"]["optimizer_state"] >= 2 * body["memory"]["parameters"]
    assert body["effective_spec"]["optimizer"]["lr"] == {"value": 0.0001, "source": "given"}
    assert body["spec"]["model"] == good_spec()["model"]
    assert client.post("/v1/jobs", params={"validate_only": "true"}, json={}).status_code == 422
    assert client.get("/v1/jobs", params={"limit": 1}).json() == before
