"""Pause, resume, retry, delete and If-Match over HTTP. There is no worker here: what a worker would do, the test does."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

from jobs.curves import Curves
from jobs.database import open_engine
from jobs.files import DataFolder
from jobs.store import Failure, Store
from tests.app.conftest import Server, good_spec, wait_for
from tests.app.test_jobs import create
from tests.jobs.test_leases import start


@pytest.fixture(scope="module")
def store(server: Server) -> Store:
    return Store(open_engine(server.folder / "postgrad.db"))


@pytest.fixture(scope="module")
def folder(server: Server) -> DataFolder:
    return DataFolder(server.folder, server.folder)


def running(client: httpx.Client, store: Store, **changes: Any) -> str:
    job_id: str = create(client, **changes)["id"]
    while (claim := store.claim("worker-x", ["cpu"], 60)) is not None and claim.job_id != job_id:
        store.finish(claim.job_id, claim.attempt, "cancelled")
    start(store, job_id, 1)
    return job_id


def ended(client: httpx.Client, store: Store, state: str = "failed", **changes: Any) -> str:
    job_id = running(client, store, **changes)
    store.finish(job_id, 1, state, Failure("error", "boom") if state == "failed" else None)
    return job_id


def said(answer: httpx.Response) -> tuple[int, str]:
    """Status and type of a problem."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["type"]


def test_a_queued_job_is_paused_and_resumed_and_both_are_safe_to_repeat(client: httpx.Client) -> None:
    path = create(client)["links"]
    first, second = client.post(path["pause"]), client.post(path["pause"])
    assert (first.status_code, first.json()["status"], first.json()["pause_requested"]) == (200, "paused", True)
    assert second.json() == first.json()
    assert second.headers["etag"] == first.headers["etag"]
    back, again = client.post(path["resume"]), client.post(path["resume"])
    assert (back.status_code, back.json()["status"], back.json()["pause_requested"]) == (200, "queued", False)
    assert again.json() == back.json()
    client.post(path["cancel"])


def test_pausing_a_running_job_asks(client: httpx.Client, store: Store) -> None:
    job_id = running(client, store)
    asked = client.post(f"/v1/jobs/{job_id}/pause")
    assert (asked.status_code, asked.json()["status"], asked.json()["pause_requested"]) == (202, "running", True)
    assert client.post(f"/v1/jobs/{job_id}/resume").json()["pause_requested"] is False
    client.post(f"/v1/jobs/{job_id}/pause")
    store.give_back(job_id, 1, "its place is saved")
    job = client.get(f"/v1/jobs/{job_id}")
    assert (job.json()["status"], job.json()["finished_at"], job.json()["waiting"]) == ("paused", None, None)
    assert "retry-after" in job.headers
    assert job_id in [each["id"] for each in client.get("/v1/jobs", params={"status": "paused"}).json()["data"]]


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_ended_jobs_are_neither_paused_nor_resumed(client: httpx.Client, store: Store, state: str) -> None:
    job_id = ended(client, store, state)
    for request in ("pause", "resume"):
        answer = client.post(f"/v1/jobs/{job_id}/{request}")
        assert said(answer) == (409, "/problems/wrong-state")
        assert f"the job is {state}" in answer.json()["detail"]


def test_a_retry_from_the_start_empties_the_curve(client: httpx.Client, store: Store) -> None:
    job_id = running(client, store)
    curves = Curves(store.engine)
    curves.append(job_id, 1, {"train/loss": (np.array([1, 2]), np.array([2.0, 1.0]))})
    store.finish(job_id, 1, "succeeded")
    cursor = client.get(f"/v1/jobs/{job_id}/metrics").json()["cursor"]
    answer = client.post(f"/v1/jobs/{job_id}/retry", json={"from": "start"})
    body = answer.json()
    assert (answer.status_code, body["status"], body["attempt"], body["summary"]) == (200, "queued", 1, {})
    assert (body["finished_at"], body["started_at"], body["failure"], body["environment"]) == (None, None, None, None)
    curve = client.get(f"/v1/jobs/{job_id}/metrics", params={"cursor": cursor}).json()
    assert (curve["revision"], curve["truncate_after"], curve["series"]) == (1, 0, [])
    again = client.post(f"/v1/jobs/{job_id}/retry", json={"from": "start"})
    assert said(again) == (409, "/problems/wrong-state")
    client.post(f"/v1/jobs/{job_id}/cancel")


def test_a_retry_from_the_checkpoint_needs_one_on_disk(client: httpx.Client, store: Store, folder: DataFolder) -> None:
    job_id = ended(client, store)
    path, wanted = f"/v1/jobs/{job_id}/retry", {"from": "checkpoint"}
    answer = client.post(path, json=wanted)
    assert said(answer) == (409, "/problems/wrong-state")
    assert "it has no checkpoint; retry it from the start" in answer.json()["detail"]
    folder.make_job(job_id)
    (folder.checkpoints(job_id) / "000000000005.json").write_text("{}")
    assert client.post(path, json=wanted).json()["status"] == "queued"
    client.post(f"/v1/jobs/{job_id}/cancel")
    done = ended(client, store, "succeeded")
    assert "nothing is left to train" in client.post(f"/v1/jobs/{done}/retry", json=wanted).json()["detail"]


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ([], [("", "wrong_type")]),
        ({}, [("/from", "missing")]),
        ({"from": "end"}, [("/from", "unknown_choice")]),
        ({"from": ["start"]}, [("/from", "unknown_choice")]),
        ({"form": "start"}, [("/form", "unknown_field"), ("/from", "missing")]),
        ({"from": "start", "a/b": 1}, [("/a~1b", "unknown_field")]),
    ],
)
def test_a_retry_that_does_not_say_where_it_begins(client: httpx.Client, body: Any, problems: list[tuple[str, str]]) -> None:
    answer = client.post("/v1/jobs/job_00000000000000000000000000/retry", json=body)
    assert said(answer) == (422, "/problems/invalid-retry")
    assert [(e["pointer"], e["code"]) for e in answer.json()["errors"]] == problems
    assert client.post("/v1/jobs/job_x/retry", content=b"from=start").status_code == 415


@pytest.mark.parametrize("state", ["queued", "paused", "failed"])
def test_a_deleted_job_is_gone_with_its_folder(client: httpx.Client, store: Store, folder: DataFolder, state: str) -> None:
    job_id = ended(client, store) if state == "failed" else create(client)["id"]
    if state == "paused":
        client.post(f"/v1/jobs/{job_id}/pause")
    (folder.make_job(job_id) / "attempt-1.log").write_text("hello")
    answer = client.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert not folder.job(job_id).exists()
    for part in ("", "/metrics", "/events", "/logs", "/artifacts"):
        assert client.get(f"/v1/jobs/{job_id}{part}").status_code == 404
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 404


def test_a_running_job_is_not_deleted(client: httpx.Client, store: Store) -> None:
    job_id = running(client, store)
    answer = client.delete(f"/v1/jobs/{job_id}")
    assert said(answer) == (409, "/problems/wrong-state")
    assert "cancel or pause it first" in answer.json()["detail"]
    store.finish(job_id, 1, "cancelled")


def test_a_stream_of_a_job_that_is_deleted_ends_with_a_word(client: httpx.Client, server: Server) -> None:
    job_id = create(client)["id"]
    kinds = []
    with httpx.stream("GET", f"{client.base_url}/v1/jobs/{job_id}/stream", timeout=20) as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kinds.append(line[7:])
            if line == "event: status":
                assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
            if line.startswith("data: ") and kinds[-1] == "end":
                assert json.loads(line[6:]) == {"status": "deleted"}
    assert kinds == ["status", "end"]


# ---- files


def test_a_file_can_be_deleted_when_no_job_needs_it(client: httpx.Client, store: Store, folder: DataFolder) -> None:
    content = b"height,target\n" + b"".join(b"%d,%d\n" % (n, n % 2) for n in range(40))

    def upload() -> dict[str, Any]:
        body: dict[str, Any] = client.post("/v1/files", files={"file": ("t.csv", content)}).json()
        return body

    file = upload()
    dataset = {"type": "file", "id": file["id"], "target": "target", "normalize": "standard"}
    job_id = ended(client, store, dataset=dataset)
    client.post(f"/v1/jobs/{job_id}/retry", json={"from": "start"})
    answer = client.delete(f"/v1/files/{file['id']}")
    assert said(answer) == (409, "/problems/file-in-use")
    assert job_id in answer.json()["detail"]
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert client.delete(f"/v1/files/{file['id']}").status_code == 204
    assert not folder.file(file["sha256"]).exists()
    assert not folder.prepared(file["sha256"]).exists()
    assert client.delete(f"/v1/files/{file['id']}").status_code == 404
    refused = client.post(f"/v1/jobs/{job_id}/retry", json={"from": "start"})
    assert said(refused) == (409, "/problems/file-deleted")
    assert f"its file {file['id']} was deleted: upload the same bytes again" in refused.json()["detail"]
    assert upload()["id"] == file["id"]
    assert client.post(f"/v1/jobs/{job_id}/retry", json={"from": "start"}).status_code == 200
    client.post(f"/v1/jobs/{job_id}/cancel")


# ---- If-Match


@pytest.mark.parametrize("request_", ["pause", "resume", "cancel", "retry", "delete"])
def test_a_request_is_bound_to_what_its_sender_has_seen(client: httpx.Client, request_: str) -> None:
    path = f"/v1/jobs/{create(client)['id']}"
    if request_ == "resume":
        client.post(f"{path}/pause")
    if request_ == "retry":
        client.post(f"{path}/cancel")

    def send(tag: str) -> httpx.Response:
        headers = {"If-Match": tag}
        if request_ == "delete":
            return client.delete(path, headers=headers)
        body = {"from": "start"} if request_ == "retry" else None
        return client.post(f"{path}/{request_}", json=body, headers=headers)

    before = client.get(path)
    tag = before.headers["etag"]
    version = int(tag.removeprefix('W/"').split("-")[0])
    for other in (f'W/"{version + 1}-0"', f'"{version - 1}-0"', '"x"', "", f'"{"9" * 400}-1"'):
        assert said(send(other)) == (412, "/problems/job-changed")
    assert client.get(path).json() == before.json()
    assert send(f'"other", {tag}').is_success


def test_any_version_will_do_with_a_star(client: httpx.Client) -> None:
    path = f"/v1/jobs/{create(client)['id']}"
    assert client.post(f"{path}/pause", headers={"If-Match": "*"}).status_code == 200
    assert client.post("/v1/jobs/job_x/pause", headers={"If-Match": "*"}).status_code == 404
    assert client.delete(path).status_code == 204


# ---- a server that was killed in the middle of a deletion


def test_a_server_finishes_at_its_start_what_it_had_begun_to_delete(tmp_path: Any) -> None:
    server = Server(tmp_path / "data")
    server.wait_until_ready()
    folder = DataFolder(server.folder, server.folder)
    deleted, kept = create(server.client)["id"], create(server.client)["id"]
    for job_id in (deleted, kept):
        (folder.make_job(job_id) / "attempt-1.log").write_text("hello")
        folder.mark(job_id)
    store = Store(open_engine(server.folder / "postgrad.db"))
    server.process.kill()
    server.process.wait()
    server.client.close()
    store.delete_job(deleted)
    again = Server(server.folder)
    wait_for(lambda: again.client.get("/health/live").status_code == 200)
    try:
        assert not folder.job(deleted).exists()
        assert folder.job(kept).exists()
        assert folder.marked() == []
        assert again.client.get(f"/v1/jobs/{kept}").json()["spec"]["loss"] == good_spec()["loss"]
    finally:
        again.stop()
