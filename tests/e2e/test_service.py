"""What the README promises, through the front door: real API, worker, zygote, trainer child and SQLite."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.conftest import Service, mlp, wait_for

LONG = {"epochs": 100_000}


def test_the_readmes_job_passes_the_documented_check(service: Service, tmp_path: Path) -> None:
    readme = Path("README.md").read_text()
    spec = json.loads(readme.split("-d '")[1].split("}'")[0] + "}")
    job_id = service.submit(spec)
    job = service.finished(job_id)
    assert job["status"] == "succeeded", job
    (tmp_path / "check.py").write_text(Path("docs/seed.md").read_text().split("```python\n")[1].split("```")[0])
    command = [sys.executable, str(tmp_path / "check.py"), job_id]
    done = subprocess.run(command, env=os.environ | {"POSTGRAD_URL": service.url}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "300 losses, every bit the same\n"), done.stderr
    assert len(service.series(job_id, "val/loss")[0]) == 20
    assert len(service.series(job_id, "val/BinaryAccuracy")[0]) == 20


def test_csv_upload_trains(service: Service) -> None:
    rows = "".join(f"{i},{'red' if i % 3 else 'blue'},{'yes' if i > 20 else 'no'}\n" for i in range(40))
    first = service.client.post("/v1/files", files={"file": ("t.csv", "size,colour,bought\n" + rows)})
    again = service.client.post("/v1/files", files={"file": ("u.csv", "size,colour,bought\n" + rows)})
    assert (first.status_code, again.status_code) == (201, 200), first.text
    assert first.json()["id"] == again.json()["id"]
    dataset = {"type": "file", "id": first.json()["id"], "target": "bought", "normalize": "standard"}
    job = service.finished(service.submit(mlp(dataset=dataset, epochs=3)))
    assert job["status"] == "succeeded", job


def test_a_job_starts_from_anothers_weights(service: Service) -> None:
    first = service.finished(service.submit(mlp(epochs=2)))
    spec = mlp(epochs=1, seed=1, shuffle=False)
    start = spec["model"] | {"init_from": {"job": first["id"]}}
    second = service.finished(service.submit(spec | {"model": start}))
    assert second["status"] == "succeeded", second
    assert second["spec"]["model"]["init_from"]["sha256"] == digest(service, first["id"])
    alone = service.finished(service.submit(spec))
    assert service.series(second["id"])[1] != service.series(alone["id"])[1]
    frozen = spec | {"model": start, "optimizer": {"type": "SGD", "lr": 0.0}}
    kept = service.finished(service.submit(frozen))
    assert digest(service, kept["id"]) == digest(service, first["id"])


def test_cancel_stops_a_running_job_soon(service: Service) -> None:
    job_id = service.submit(mlp(**LONG))
    wait_for(lambda: len(service.series(job_id)[0]) > 10, 30)
    assert service.client.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
    assert service.finished(job_id, 3)["status"] == "cancelled"
    assert service.client.post(f"/v1/jobs/{job_id}/cancel").status_code == 200


def children(service: Service, words: str) -> list[psutil.Process]:
    assert service.process is not None
    family = psutil.Process(service.process.pid).children(recursive=True)
    return [p for p in family if words in " ".join(p.cmdline())]


def test_a_killed_trainer_resumes_and_the_curve_is_the_same(own_service: Service) -> None:
    spec = mlp(epochs=400, checkpoint={"every_n_epochs": 5})
    job_id = own_service.submit(spec)
    wait_for(lambda: len(own_service.series(job_id)[0]) > 500, 30)
    zygotes = [p for p in children(own_service, "trainer.zygote") if p.children()]
    zygotes[0].children()[0].send_signal(signal.SIGKILL)
    job = own_service.finished(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 2), job
    undisturbed = own_service.finished(own_service.submit(spec))
    assert own_service.series(job_id) == own_service.series(undisturbed["id"])
    digests = {digest(own_service, i) for i in (job_id, undisturbed["id"])}
    assert len(digests) == 1


def digest(service: Service, job_id: str) -> str:
    return hashlib.sha256(service.client.get(f"/v1/jobs/{job_id}/artifacts/model.safetensors").content).hexdigest()


def test_sigterm_is_clean_with_a_stream_open_and_the_job_goes_on_afterwards(own_service: Service) -> None:
    job_id = own_service.submit(mlp(epochs=3000))
    wait_for(lambda: len(own_service.series(job_id)[0]) > 100, 30)
    with httpx.stream("GET", f"{own_service.url}/v1/jobs/{job_id}/stream", timeout=30) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        # Read in a thread, as a browser does: the server must not wait for this listener.
        reader = threading.Thread(target=lambda: drain(stream), daemon=True)
        reader.start()
        assert own_service.stop() < 15
        reader.join(5)
    assert not leftovers(own_service)
    own_service.start()
    wait_for(lambda: own_service.job(job_id)["status"] == "running", 30)
    assert own_service.client.post(f"/v1/jobs/{job_id}/cancel").status_code in {200, 202}
    steps, _ = own_service.series(job_id)
    assert steps == list(range(1, len(steps) + 1))


def drain(stream: httpx.Response) -> None:
    try:
        for _ in stream.iter_bytes():
            pass
    except httpx.TransportError:
        pass


def leftovers(service: Service) -> list[str]:
    mine = str(service.folder)
    return [str(p) for p in psutil.process_iter() if p.pid != os.getpid() and mine in environ(p)]


def environ(process: psutil.Process) -> str:
    try:
        return json.dumps(process.environ())
    except psutil.Error:
        return ""


def test_the_stream_tells_the_whole_curve_and_ends(service: Service) -> None:
    job_id = service.submit(mlp(epochs=20))
    steps: list[int] = []
    kinds: list[str] = []
    with httpx.stream("GET", f"{service.url}/v1/jobs/{job_id}/stream", timeout=60) as stream:
        for kind, data in events(stream):
            kinds.append(kind)
            if kind == "metrics":
                steps += [s for series in data["series"] if series["name"] == "train/loss" for s in series["steps"]]
    assert kinds[-1] == "end"
    assert steps == service.series(job_id)[0]


def events(stream: httpx.Response) -> Any:
    kind = ""
    for line in stream.iter_lines():
        if line.startswith("event:"):
            kind = line[6:].strip()
        elif line.startswith("data:"):
            yield kind, json.loads(line[5:])


@pytest.mark.slow
def test_digits_by_a_small_cnn_reach_98_percent(service: Service) -> None:
    layers = [
        {"type": "Conv2d", "out_channels": 32, "kernel_size": 3, "padding": 1},
        {"type": "BatchNorm2d"},
        {"type": "ReLU"},
        {"type": "Conv2d", "out_channels": 64, "kernel_size": 3, "padding": 1},
        {"type": "BatchNorm2d"},
        {"type": "ReLU"},
        {"type": "MaxPool2d", "kernel_size": 2},
        {"type": "Flatten"},
        {"type": "Dropout", "p": 0.3},
        {"type": "Linear", "out_features": 10},
    ]
    spec = {
        "dataset": {"type": "builtin", "name": "digits"},
        "split": {"train": 0.8, "val": 0.2},
        "model": {"type": "Sequential", "layers": layers},
        "loss": "CrossEntropyLoss",
        "optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9},
        "metrics": [{"type": "MulticlassAccuracy", "average": "micro"}],
        "batch_size": 32,
        "epochs": 15,
    }
    job_id = service.submit(spec)
    job = service.finished(job_id, 110)
    assert job["status"] == "succeeded", job
    _, accuracy = service.series(job_id, "val/MulticlassAccuracy")
    print(f"digits: last validation accuracy {accuracy[-1]:.4f}, best {max(accuracy):.4f}")
    assert accuracy[-1] >= 0.98
