"""What the operator bounds, and a machine that says no, as clients see them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from app.problems import from_database
from tests.app.conftest import Server, environment, good_spec
from tests.faults import Trouble, fill, locked, remount, small_disk
from tests.jobs.queue_of_jobs import add_job, open_store

EXABYTE = 2**60


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("bounded"), max_queued_jobs="2", max_job_seconds="60")
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose disk has too little room, because it asks for so much."""
    server = Server(tmp_path_factory.mktemp("short"), min_free_bytes=str(EXABYTE))
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    return body


def test_jobs_run_no_longer_than_the_operator_lets_them(bounded: Server) -> None:
    answer = bounded.client.post("/v1/jobs", json=good_spec() | {"timeout_seconds": 61})
    assert answer.status_code == 422
    (found,) = problem(answer)["errors"]
    assert (found["pointer"], found["detail"]) == ("/timeout_seconds", "jobs may run for at most 60 seconds on this server")
    answer = bounded.client.post("/v1/jobs?validate_only=true", json=good_spec())
    assert answer.json()["spec"]["timeout_seconds"] == 60
    answer = bounded.client.post("/v1/jobs?validate_only=true", json=good_spec() | {"timeout_seconds": 5})
    assert answer.json()["spec"]["timeout_seconds"] == 5


def test_a_queue_that_is_full_says_when_to_come_back(bounded: Server) -> None:
    jobs = [bounded.client.post("/v1/jobs", json=good_spec()) for _ in range(3)]
    assert [answer.status_code for answer in jobs] == [201, 201, 429]
    assert jobs[2].headers["retry-after"] == "10"
    assert problem(jobs[2])["type"] == "/problems/queue-full"
    bounded.client.post(f"/v1/jobs/{jobs[0].json()['id']}/cancel")
    assert bounded.client.post("/v1/jobs", json=good_spec()).status_code == 201


def test_a_disk_that_is_nearly_full_takes_nothing_new(short: Server) -> None:
    refused = [
        short.client.post("/v1/jobs", json=good_spec()),
        short.client.post("/v1/files", files={"file": ("a.csv", b"a,b\n1,2\n")}),
    ]
    for answer in refused:
        assert answer.status_code == 507
        assert problem(answer)["type"] == "/problems/no-room"
        assert f"{EXABYTE} are kept free" in problem(answer)["detail"]
        assert int(answer.headers["retry-after"]) > 0
    assert short.client.post("/v1/jobs?validate_only=true", json=good_spec()).status_code == 200
    assert short.client.get("/v1/jobs").json()["data"] == []
    assert list((short.folder / "files").glob("*")) == []
    ready = short.client.get("/health/ready")
    assert (ready.status_code, ready.json()["status"], ready.json()["checks"]["disk"]["ok"]) == (200, "degraded", False)


@pytest.mark.slow
def test_a_database_that_another_process_locks_is_read_and_says_when_to_write(client: httpx.Client, server: Server) -> None:
    job_id = client.post("/v1/jobs", json=good_spec()).json()["id"]
    with locked(server.folder / "postgrad.db"):
        began = time.monotonic()
        answer = client.post("/v1/jobs", json=good_spec())
        assert answer.status_code == 503
        assert time.monotonic() - began < 15
        assert problem(answer)["type"] == "/problems/database-unavailable"
        assert int(answer.headers["retry-after"]) > 0
        assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "queued"
        assert client.get(f"/v1/jobs/{job_id}/metrics").status_code == 200
        assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 503
    assert client.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "cancelled"


@pytest.fixture
def on_a_small_disk(tmp_path: Path) -> Iterator[Server]:
    with small_disk(tmp_path / "disk", 4 * 2**20) as folder:
        server = Server(folder, min_free_bytes="0")
        try:
            server.wait_until_ready()
            yield server
        finally:
            server.stop()


def _pieces(content: bytes) -> Iterator[bytes]:
    """A multipart body whose length nobody knows."""
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="large.csv"\r\n\r\n'
    for start in range(0, len(content), 65536):
        yield content[start : start + 65536]
    yield b"\r\n--b--\r\n"


def test_a_disk_that_is_full_keeps_what_is_there_and_takes_more_when_there_is_room(on_a_small_disk: Server) -> None:
    client = on_a_small_disk.client
    job_id = client.post("/v1/jobs", json=good_spec()).json()["id"]
    large = b"a,b\n" + b"1,2\n" * 2**20
    announced = client.post("/v1/files", files={"file": ("large.csv", large)})
    streamed = client.post("/v1/files", content=_pieces(large), headers={"Content-Type": "multipart/form-data; boundary=b"})
    for answer in (announced, streamed):
        assert (answer.status_code, problem(answer)["type"]) == (507, "/problems/no-room")
    assert list((on_a_small_disk.folder / "files").iterdir()) == []
    ballast = fill(on_a_small_disk.folder)
    refused = [client.post("/v1/jobs", json=good_spec()) for _ in range(5)]
    assert {answer.status_code for answer in refused if answer.status_code != 201} == {507}
    assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "queued"
    ballast.unlink()
    assert client.post("/v1/jobs", json=good_spec()).status_code == 201
    assert client.post("/v1/files", files={"file": ("small.csv", b"a,b\n1,2\n3,4\n")}).status_code == 201


def test_a_volume_that_turns_read_only_can_be_read(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4 * 2**20) as folder:
        server = Server(folder, database_url=f"sqlite:///{tmp_path / 'postgrad.db'}", min_free_bytes="0")
        try:
            server.wait_until_ready()
            _read_only(server)
        finally:
            server.stop()


def _read_only(server: Server) -> None:
    client, data = server.client, ("a.csv", b"a,b\n1,2\n3,4\n")
    file_id = client.post("/v1/files", files={"file": data}).json()["id"]
    remount(server.folder, "ro")
    try:
        answer = client.post("/v1/files", files={"file": ("b.csv", b"c,d\n1,2\n")})
        assert (answer.status_code, problem(answer)["type"]) == (503, "/problems/storage-unavailable")
        assert client.get(f"/v1/files/{file_id}").status_code == 200
        assert client.get("/v1/jobs").status_code == 200
    finally:
        remount(server.folder, "rw")
    assert client.post("/v1/files", files={"file": data}).status_code == 200


@pytest.mark.parametrize(("trouble", "status"), [(Trouble.full, 507), (Trouble.read_only, 503)])
def test_what_the_database_says_of_its_volume_becomes_an_answer(
    tmp_path: Path, trouble: Callable[[Trouble], None], status: int
) -> None:
    store = open_store(tmp_path)
    trouble(Trouble(store.engine))
    with pytest.raises(OperationalError) as refused:
        add_job(store, spec="x" * 1_000_000)
    found = from_database(refused.value)
    assert found.status == status
    assert int(found.headers["Retry-After"]) > 0
    assert store.jobs().data == []


def test_a_server_on_a_read_only_volume_does_not_start_and_says_why(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4 * 2**20) as folder:
        subprocess.run([sys.executable, "-m", "migrations"], env=environment(folder), check=True, capture_output=True)
        remount(folder, "ro")
        refused = subprocess.run(
            [sys.executable, "-m", "app"], env=environment(folder, port="0"), capture_output=True, text=True, timeout=60
        )
    assert refused.returncode == 2
    assert "cannot be opened as a WAL database" in refused.stderr
    assert "Traceback" not in refused.stderr
