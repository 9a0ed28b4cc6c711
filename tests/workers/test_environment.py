"""A job that resumes where other bits may come out says so: real trainers, one of them with a smaller instruction set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.spec import parse
from tests.trainer.supervised import prepare
from tests.workers.conftest import Driver, Place
from workers.launcher import ZygoteLauncher

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="instruction sets by name are x86's")

ENDLESS: dict[str, Any] = {
    "dataset": {"type": "builtin", "name": "iris"},
    "model": {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 3}]},
    "loss": "CrossEntropyLoss",
    "optimizer": {"type": "SGD", "lr": 0.1},
    "batch_size": 50,
    "epochs": 100_000,
}


def submit(place: Place) -> str:
    spec = parse(ENDLESS)
    told: dict[str, Any] = {"name": None, "metadata": {}, "effective_spec": {}, "parameters": {}, "max_attempts": 3}
    return place.store.create_job(spec=spec.canonical(), epochs=spec.epochs, device="auto", threads=1, **told).id


def until_trained(driver: Driver, job_id: str, attempt: int) -> None:
    def trained() -> bool:
        job = driver.place.store.job(job_id)
        return job.attempt == attempt and job.samples_per_second is not None

    driver.until(trained)


def notes(place: Place, job_id: str) -> list[str]:
    return [event.message for event in place.store.events(job_id).data if event.kind == "note"]


def test_a_resume_under_another_instruction_set_is_an_event(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    prepare(place.root / "sets")
    job_id = submit(place)
    first = Driver(place, place.supervisor(ZygoteLauncher()))
    until_trained(first, job_id, 1)
    first.supervisor._watches[0].child.kill()
    until_trained(first, job_id, 2)
    assert notes(place, job_id) == [], "it is the same environment"
    first.supervisor.stop()
    first.until(lambda: place.store.job(job_id).state == "queued")
    first.supervisor.close()
    environment = place.store.job(job_id).environment
    assert environment is not None
    assert {"torch", "threads", "cpu", "processor", "mkl", "onednn", "device", "variables"} <= environment.keys()
    assert environment["variables"] == {}

    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    second = Driver(place, place.supervisor(ZygoteLauncher()))
    until_trained(second, job_id, 3)
    (note,) = notes(place, job_id)
    assert "variables {} -> {'ATEN_CPU_CAPABILITY': 'default'}" in note
    assert environment["cpu"] == "DEFAULT" or f"cpu {environment['cpu']} -> DEFAULT" in note
    assert "values may differ in their last bits" in note
    assert place.store.job(job_id).environment == environment, "the job keeps the one in which its curve began"
    place.store.request_cancel(job_id)
    second.until_ended(job_id)
    second.supervisor.close()
