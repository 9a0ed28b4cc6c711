"""The whole service on a machine that says no for a while: the job that runs meanwhile loses no attempt and no point."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Service, mlp, wait_for
from tests.faults import fill, locked, small_disk

pytestmark = pytest.mark.slow

LONG = mlp(epochs=4000, checkpoint={"every_n_epochs": 20})
PER_EPOCH = 15  # iterations
DISK_BYTES = 48 * 2**20


def _whole(service: Service, job_id: str, seconds: float) -> None:
    job = service.finished(job_id, seconds)
    assert (job["status"], job["attempt"]) == ("succeeded", 1), job["failure"]
    steps, values = service.series(job_id)
    assert steps == list(range(1, len(steps) + 1))
    assert len(values) == job["progress"]["iterations"]


@pytest.mark.timeout(300)
def test_a_database_that_is_locked_for_half_a_minute(own_service: Service) -> None:
    """As long as the lease of the worker that runs the job."""
    job_id = own_service.submit(LONG)
    wait_for(lambda: own_service.job(job_id)["progress"]["iteration"] > 100, 60)
    with locked(own_service.folder / "postgrad.db"):
        began, answered = time.monotonic(), []
        while time.monotonic() < began + 30:
            answer = own_service.client.post("/v1/jobs", json=mlp())
            answered.append((answer.status_code, "retry-after" in answer.headers))
            assert own_service.job(job_id)["status"] == "running"
            assert own_service.client.get(f"/v1/jobs/{job_id}/metrics").status_code == 200
        assert set(answered) == {(503, True)}
        assert "waits for the database" in own_service.log()
    assert own_service.client.post("/v1/jobs", json=mlp()).status_code == 201
    _whole(own_service, job_id, 110)


@pytest.fixture
def on_a_small_disk(tmp_path: Path) -> Iterator[Service]:
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        running = Service(disk / "data", settings={"min_free_bytes": "0"})
        running.start()
        yield running
        running.stop()


def test_a_disk_that_fills_up_while_a_job_runs(on_a_small_disk: Service) -> None:
    service = on_a_small_disk
    job_id = service.submit(LONG | {"epochs": 600})
    wait_for(lambda: service.job(job_id)["progress"]["iteration"] > 100, 60)
    ballast = fill(service.folder)
    wait_for(lambda: "waits for the database" in service.log() or service.job(job_id)["finished_at"] is not None, 60)
    assert service.client.get(f"/v1/jobs/{job_id}/metrics").status_code == 200
    assert service.job(job_id)["status"] == "running"
    answer = service.client.post("/v1/files", files={"file": ("a.csv", b"a,b\n" + b"1,2\n" * 100_000)})
    assert answer.status_code == 507
    ballast.unlink()
    _whole(service, job_id, 110)
    events = service.client.get(f"/v1/jobs/{job_id}/events").json()["data"]
    assert "requeued" not in {event["kind"] for event in events}
