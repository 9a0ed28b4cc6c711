"""`postgrad backup` while jobs run, and a service started from the copy: nothing is lost, and what ran gives the same bits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Service, mlp, wait_for

pytestmark = pytest.mark.slow

CSV = b"x,y\n" + b"".join(b"%d,%d\n" % (n, n * 3) for n in range(50))
EPOCHS = 300


@pytest.fixture
def restored(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path / "copy")
    yield running
    if running.process is not None:
        running.stop()


def digests(service: Service, job_id: str) -> dict[str, str]:
    found = service.client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    return {artifact["name"]: artifact["sha256"] for artifact in found}


def curve(service: Service, job_id: str) -> Any:
    return service.client.get(f"/v1/jobs/{job_id}/metrics", params={"max_points": 0}).json()["series"]


def test_a_copy_made_while_jobs_run_is_a_service_of_its_own(own_service: Service, restored: Service, tmp_path: Path) -> None:
    file_id = own_service.client.post("/v1/files", files={"file": ("a.csv", CSV)}).json()["id"]
    on_file = mlp(
        dataset={"type": "file", "id": file_id, "target": "y"}, loss="MSELoss", metrics=[], model=LINEAR, split={"train": 1.0}
    )
    ended = [own_service.submit(mlp()), own_service.submit(on_file)]
    assert [own_service.finished(job_id)["status"] for job_id in ended] == ["succeeded"] * 2
    running = own_service.submit(mlp(epochs=EPOCHS, checkpoint={"every_n_epochs": 1}))
    wait_for(lambda: own_service.job(running)["progress"]["epoch"] >= 5, 60)

    command = [str(Path(sys.executable).with_name("postgrad")), "backup", str(restored.folder), "--data-dir"]
    made = subprocess.run([*command, str(own_service.folder)], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    assert "copied 3 jobs and 1 files; 1 jobs were running" in made.stdout
    assert own_service.finished(running, 110)["status"] == "succeeded"

    restored.start()
    for job_id in ended:
        assert restored.job(job_id) == own_service.job(job_id)
        assert curve(restored, job_id) == curve(own_service, job_id)
        assert digests(restored, job_id) == digests(own_service, job_id)
    job = restored.finished(running, 110)
    assert (job["status"], job["attempt"]) == ("succeeded", 2)
    started = [e for e in restored.client.get(f"/v1/jobs/{running}/events").json()["data"] if e["kind"] == "started"]
    assert started[-1]["detail"]["resumed_from"] > 0
    assert curve(restored, running) == curve(own_service, running)
    assert digests(restored, running) == digests(own_service, running)
    assert restored.finished(restored.submit(on_file))["status"] == "succeeded"  # its upload is there

    again = subprocess.run([*command, str(own_service.folder)], capture_output=True, text=True, timeout=60)
    assert again.returncode == 1
    assert "is not empty" in again.stderr


LINEAR = {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 1}]}
