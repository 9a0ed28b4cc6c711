"""A user's own Dataset as a source file, through the front door: it is read once under strict, and trains as any data does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.e2e.conftest import Service, wait_for
from tests.e2e.user_service import user_service
from tests.trainer.test_own_data import BLOBS, textbook
from tests.trainer.test_own_data_checks import DATA

pytestmark = pytest.mark.slow

MEMORY, DISK = 2**30, 2**25
HERE = "/dataset/class"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with user_service(allow_python="1", python_memory_bytes=str(MEMORY), python_disk_bytes=str(DISK)) as running:
        yield running


def upload(service: Service, source: str) -> str:
    answer = service.client.post("/v1/files", files={"file": ("data.py", source.encode())})
    assert answer.status_code in (200, 201), answer.text
    return str(answer.json()["id"])


def spec(file_id: str, class_name: str = "Blobs", dataset: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "dataset": {"type": "python", "id": file_id, "class": class_name, "kwargs": {}, **(dataset or {})},
        "split": {"train": 0.8, "val": 0.2},
        "model": {"type": "python", "id": file_id, "class": "Net", "kwargs": {"hidden": 8}},
        "loss": "CrossEntropyLoss",
        "optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9},
        "batch_size": 32,
        "epochs": 3,
        "seed": 5,
    }
    return body | changes


LINEAR = {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 3}]}


def refused(service: Service, body: dict[str, Any]) -> dict[str, str]:
    answer = service.client.post("/v1/jobs", json=body)
    assert answer.status_code == 422, answer.text
    return {problem["pointer"]: problem["detail"] for problem in answer.json()["errors"]}


def test_data_and_model_of_one_file_train_to_the_textbooks_bits(service: Service) -> None:
    names: dict[str, Any] = {"__name__": "outside"}
    exec(BLOBS, names)
    torch.set_num_threads(1)
    losses, validation = textbook(lambda: names["Blobs"](rows=500), lambda: names["Net"](8))
    body = spec(upload(service, BLOBS), dataset={"kwargs": {"rows": 500}}, metrics=["MulticlassAccuracy"])
    job = service.finished(service.submit(body))
    assert job["status"] == "succeeded", job["failure"]
    assert service.series(job["id"])[1] == losses
    assert service.series(job["id"], "val/loss")[1] == validation
    assert job["effective_spec"]["dataset"]["class"] == {"value": "Blobs", "source": "given"}


def test_layers_by_name_and_an_exported_model_take_it_too(service: Service, tmp_path: Path) -> None:
    import postgrad

    postgrad.export(nn.Linear(6, 3), torch.zeros(4, 6), tmp_path / "net.pt2")
    answer = service.client.post("/v1/files", files={"file": ("net.pt2", (tmp_path / "net.pt2").read_bytes())})
    file_id = upload(service, BLOBS)
    for model in (LINEAR, {"type": "exported", "id": answer.json()["id"]}):
        body = spec(file_id, model=model, dataset={"normalize": "standard"})
        answer = service.client.post("/v1/jobs", params={"validate_only": True}, json=body)
        assert answer.json()["parameters"] == {"total": 21, "trainable": 21}, answer.text
        job = service.finished(service.submit(body))
        assert job["status"] == "succeeded", job["failure"]
        values = service.series(job["id"])[1]
        assert values[-1] < values[0]


@pytest.mark.parametrize(
    ("source", "changes", "pointer", "said"),
    [
        (BLOBS, {"class": "Bobs"}, HERE, "did you mean"),
        (BLOBS, {"kwargs": {"row": 3}}, "/dataset/kwargs/row", "did you mean"),
        (BLOBS, {"class": "Net"}, HERE, "does not inherit torch.utils.data.Dataset"),
        (
            BLOBS.replace("self.points[index]", "self.point[index]"),
            {},
            HERE,
            "Blobs.__getitem__(0) failed at source.py, line 19",
        ),
        (BLOBS.replace("self.labels =", "open('/etc/passwd'); self.labels ="), {}, "/dataset", "PermissionError"),
        (BLOBS.replace("return len", "while True: pass\n        return len"), {}, "/dataset/id", "longer than 3 s"),
        (BLOBS, {"kwargs": {"rows": 10**10}}, "/dataset/id", "allocate memory"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_queued(
    service: Service, source: str, changes: dict[str, Any], pointer: str, said: str
) -> None:
    found = refused(service, spec(upload(service, source), dataset=changes))
    assert said in found.get(pointer, "nothing"), found


# Each shows itself only beyond the rows that the check at POST looks at.
HOSTILE = {
    "reads_a_secret": ("open('/etc/passwd').read()", "error", "PermissionError"),
    "opens_a_socket": ("__import__('socket').socket()", "error", "PermissionError"),
    "runs_a_shell": ("__import__('subprocess').run(['/bin/sh', '-c', 'id'], check=True)", "error", "PermissionError"),
    "eats_memory": ("hoard = [torch.ones(2**24) for _ in range(10**6)]", "out_of_memory", "allocate memory"),
    "gives_another_shape": ("return torch.zeros(5), 0", "invalid_data", "row 301 (D[300]): x has the shape (5,)"),
    "gives_nan": ("return torch.full((4,), float('nan')), 0", "invalid_data", "row 301, array 'x': a number is missing"),
    "is_shorter_than_it_says": (
        "raise IndexError(i)",
        "error",
        "D.__getitem__(300) failed at data.py, line 12: IndexError",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_code_fails_its_own_job_and_no_other(service: Service, name: str) -> None:
    attack, reason, said = HOSTILE[name]
    worker = service.client.get("/v1/workers").json()["data"][0]["id"]
    source = DATA.format(length="self.rows", item=f"if i == 300:\n            {attack}\n        return torch.zeros(4), i % 3")
    job = service.finished(service.submit(spec(upload(service, source), "D", model=LINEAR)))
    assert (job["status"], job["failure"]["reason"]) == ("failed", reason), job
    assert said in job["failure"]["message"], job["failure"]
    assert job["failure"].get("pointer", HERE).startswith("/dataset")
    good = service.finished(service.submit(spec(upload(service, BLOBS), epochs=1)))
    assert good["status"] == "succeeded"
    assert [one["id"] for one in service.client.get("/v1/workers").json()["data"]] == [worker]


def test_rows_without_end_meet_the_bound_of_the_disk(service: Service) -> None:
    source = DATA.format(length="2**40", item="return torch.zeros(2**12), i % 3")
    job = service.finished(service.submit(spec(upload(service, source), "D", model=LINEAR)))
    assert job["failure"]["reason"] in ("invalid_data", "error"), job  # its own look, or that from outside
    assert str(DISK) in job["failure"]["message"].replace(",", ""), job["failure"]


def test_reading_that_never_ends_is_cancelled(service: Service) -> None:
    source = DATA.format(length="self.rows", item="while i == 300: pass\n        return torch.zeros(4), i % 3")
    job_id = service.submit(spec(upload(service, source), "D", model=LINEAR))
    wait_for(lambda: service.job(job_id)["status"] == "running", 30)
    service.client.post(f"/v1/jobs/{job_id}/cancel")
    assert service.finished(job_id)["status"] == "cancelled"


def trainer_of(service: Service, job_id: str) -> int | None:
    """The process whose output goes into the job's log."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if f"{job_id}/attempt-" in os.readlink(f"/proc/{pid}/fd/1"):
                return int(pid)
        except OSError:
            continue
    return None


def test_a_killed_trainer_goes_on_with_the_rows_it_had_read(service: Service) -> None:
    long = BLOBS.replace("self.points = ", "print('drawn'); self.points = ")
    body = spec(upload(service, long), epochs=400, checkpoint={"every_n_epochs": 1})
    straight = service.finished(service.submit(body))
    job_id = service.submit(body)
    wait_for(lambda: (service.job(job_id)["progress"] or {}).get("epoch", 0) >= 3, 30)
    pid = trainer_of(service, job_id)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    job = service.finished(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 2), job
    events = service.client.get(f"/v1/jobs/{job_id}/events").json()["data"]
    assert [e["detail"]["resumed_from"] > 0 for e in events if e["kind"] == "started"] == [False, True]
    logs = [service.client.get(f"/v1/jobs/{job_id}/logs", params={"attempt": n}).json()["lines"] for n in (1, 2)]
    assert ["drawn" in lines for lines in logs] == [True, False]
    for name in ("train/loss", "val/loss"):
        assert service.series(job_id, name) == service.series(straight["id"], name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server refuses strict here")
def test_a_server_of_roots_runs_none_of_it(tmp_path: Path) -> None:
    running = Service(tmp_path / "data", settings={"allow_python": "1"})
    running.start()
    try:
        found = refused(running, spec(upload(running, BLOBS), model=LINEAR))
        assert "runs as root" in found["/dataset/type"]
    finally:
        running.stop()


def test_a_server_that_was_not_told_to_runs_none_of_it() -> None:
    with user_service() as running:
        found = refused(running, spec(upload(running, BLOBS)))
        assert {pointer for pointer, said in found.items() if "POSTGRAD_ALLOW_PYTHON=1" in said} == {
            "/dataset/type",
            "/model/type",
        }
        offered = running.client.get("/v1/workers").json()["data"][0]["profiles"]
        assert "POSTGRAD_ALLOW_PYTHON is not set" in offered["python"]["refusal"]
        assert offered["strict"]["refusal"] is None
