"""Pause, resume, retry and delete of real trainings, through the front door."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Service, mlp, wait_for
from tests.e2e.test_service import children, digest

pytestmark = pytest.mark.slow

# Dropout, batch norm and a schedule per iteration: everything that a careless resume would change.
LAYERS = [
    {"type": "Linear", "out_features": 64},
    {"type": "BatchNorm1d"},
    {"type": "ReLU"},
    {"type": "Dropout", "p": 0.3},
    {"type": "Linear", "out_features": 1},
    {"type": "Sigmoid"},
]


def spec(**changes: Any) -> dict[str, Any]:
    schedule = {"type": "CyclicLR", "base_lr": 1e-4, "max_lr": 1e-2, "step_size_up": 50, "interval": "iteration"}
    optimizer = {"type": "SGD", "lr": 1e-3, "momentum": 0.9}
    model = {"type": "Sequential", "layers": LAYERS}
    return mlp(model=model, optimizer=optimizer, lr_scheduler=schedule, **changes)


def ask(service: Service, job_id: str, what: str, **body: str) -> httpx.Response:
    answer = service.client.post(f"/v1/jobs/{job_id}/{what}", json=body or None)
    assert answer.is_success, answer.text
    return answer


def until_iteration(service: Service, job_id: str, iteration: int) -> None:
    wait_for(lambda: service.job(job_id)["progress"]["iteration"] >= iteration, 60)


def until_status(service: Service, job_id: str, status: str) -> float:
    """Seconds until the job was in this state."""
    began = time.monotonic()
    wait_for(lambda: service.job(job_id)["status"] == status, 30)
    return time.monotonic() - began


def whole(service: Service, job_id: str) -> tuple[Any, ...]:
    """The curve with every point of every series, and the digests of the weights."""
    curve = service.client.get(f"/v1/jobs/{job_id}/metrics", params={"max_points": 0}).json()
    series = {each["name"]: (each["steps"], each["values"]) for each in curve["series"]}
    artifacts = service.client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    return series, {each["name"]: each["sha256"] for each in artifacts if each["name"] != "spec.json"}


def test_a_job_that_was_paused_three_times_is_the_undisturbed_one_to_the_last_bit(own_service: Service) -> None:
    plan = spec(epochs=300)
    undisturbed = own_service.finished(own_service.submit(plan))
    assert undisturbed["status"] == "succeeded", undisturbed
    job_id = own_service.submit(plan)
    waited, places = [], []
    for iteration in (1, 700, 2000):
        until_iteration(own_service, job_id, iteration)
        ask(own_service, job_id, "pause")
        waited.append(until_status(own_service, job_id, "paused"))
        if iteration == 700:
            own_service.stop()  # it stays paused over a restart of everything
            own_service.start()
        before = own_service.job(job_id)
        places.append(before["progress"]["iteration"])
        assert own_service.series(job_id)[0][-1] == places[-1]
        ask(own_service, job_id, "resume")
    job = own_service.finished(job_id)
    assert job["status"] == "succeeded", job
    assert job["attempt"] == 4
    events = own_service.client.get(f"/v1/jobs/{job_id}/events").json()["data"]
    starts = [event["detail"]["resumed_from"] for event in events if event["kind"] == "started"]
    assert starts == [0, *places]
    assert whole(own_service, job_id) == whole(own_service, undisturbed["id"])
    print(f"pause: the device was free after {', '.join(f'{seconds:.2f}' for seconds in waited)} s, resumed at {starts[1:]}")
    assert max(waited) < 5


def test_a_hung_trainer_is_paused_at_its_last_checkpoint(own_service: Service) -> None:
    plan = spec(epochs=400, checkpoint={"every_n_epochs": 5})
    job_id = own_service.submit(plan)
    until_iteration(own_service, job_id, 500)
    [trainer] = [child for zygote in children(own_service, "trainer.zygote") for child in zygote.children()]
    trainer.send_signal(signal.SIGSTOP)
    ask(own_service, job_id, "pause")
    seconds = until_status(own_service, job_id, "paused")
    assert seconds < 15
    assert not trainer.is_running()
    ask(own_service, job_id, "resume")
    job = own_service.finished(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 2), job
    assert whole(own_service, job_id) == whole(own_service, own_service.finished(own_service.submit(plan))["id"])


def test_a_retry_gives_the_same_curve_from_the_start_and_from_the_checkpoint(service: Service) -> None:
    plan = spec(epochs=150, checkpoint={"every_n_epochs": 2})
    first = service.finished(service.submit(plan))
    expected = whole(service, first["id"])
    refused = service.client.post(f"/v1/jobs/{first['id']}/retry", json={"from": "checkpoint"})
    assert refused.status_code == 409
    ask(service, first["id"], "retry", **{"from": "start"})
    again = service.finished(first["id"])
    assert (again["status"], again["attempt"]) == ("succeeded", 2), again
    assert whole(service, first["id"]) == expected
    cancelled = service.submit(plan)
    until_iteration(service, cancelled, 300)
    ask(service, cancelled, "cancel")
    service.finished(cancelled)
    ask(service, cancelled, "retry", **{"from": "checkpoint"})
    job = service.finished(cancelled)
    assert job["status"] == "succeeded", job
    assert whole(service, cancelled) == expected
    events = service.client.get(f"/v1/jobs/{cancelled}/events").json()["data"]
    assert [event["detail"]["resumed_from"] > 0 for event in events if event["kind"] == "started"] == [False, True]


def test_a_deleted_job_takes_nothing_along_that_others_need(service: Service) -> None:
    first = service.finished(service.submit(mlp(epochs=2)))
    start = mlp()["model"] | {"init_from": {"job": first["id"]}}
    heir = mlp(epochs=1, model=start, optimizer={"type": "SGD", "lr": 0.0})
    second = service.finished(service.submit(heir))
    weights = digest(service, first["id"])
    assert digest(service, second["id"]) == weights
    assert service.client.delete(f"/v1/jobs/{first['id']}").status_code == 204
    assert not Path(service.folder, "jobs", first["id"]).exists()
    ask(service, second["id"], "retry", **{"from": "start"})
    again = service.finished(second["id"])
    assert again["status"] == "succeeded", again
    assert digest(service, second["id"]) == weights


def test_sigterm_gives_jobs_back_within_a_moment_and_they_go_on(own_service: Service) -> None:
    job_id = own_service.submit(spec(epochs=100_000))
    until_iteration(own_service, job_id, 300)
    [worker] = children(own_service, "-m workers")[:1]
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    wait_for(lambda: own_service.job(job_id)["status"] == "queued", 10)
    seconds = time.monotonic() - began
    print(f"SIGTERM to requeued: {seconds:.2f} s")
    assert seconds < 3
    assert own_service.process is not None
    own_service.process.wait(30)
    own_service.start()
    wait_for(lambda: own_service.job(job_id)["attempt"] == 2 and own_service.job(job_id)["status"] == "running", 30)
    events = own_service.client.get(f"/v1/jobs/{job_id}/events").json()["data"]
    last_point, kept = own_service.series(job_id)[0][-1], [e for e in events if e["kind"] == "checkpoint"][-1]
    [back] = [event for event in events if event["kind"] == "given_back"]
    assert "its place is saved" in back["message"]
    assert kept["detail"]["iteration"] <= last_point
