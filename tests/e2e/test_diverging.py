"""A table with a row that no loss survives, through the front door: what the user reads of it."""

from __future__ import annotations

from typing import Any

import pytest
from safetensors.torch import load

from tests.e2e.conftest import Service, mlp

BAD_ROW = 23


def submit(service: Service, on_nonfinite: Any) -> dict[str, Any]:
    rows = "".join(f"{i},{1e30 if i == BAD_ROW else i % 5}\n" for i in range(1, 61))
    answer = service.client.post("/v1/files", files={"file": ("t.csv", "size,price\n" + rows)})
    dataset = {"type": "file", "id": answer.json()["id"], "target": "price", "normalize": "standard"}
    model = {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 1}]}
    spec = mlp(dataset=dataset, model=model, loss="MSELoss", metrics=[], split={"train": 1.0}, epochs=3, batch_size=5)
    return service.finished(service.submit(spec | {"on_nonfinite": on_nonfinite}))


def events(service: Service, job: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = service.client.get(job["links"]["events"]).json()["data"]
    return [event for event in data if event["kind"] == kind]


def finite_weights(service: Service, job: dict[str, Any]) -> bool:
    answer = service.client.get(f"{job['links']['artifacts']}/model.safetensors")
    assert answer.status_code == 200
    return all(bool(tensor.isfinite().all()) for tensor in load(answer.content).values())


def test_fail_names_the_row_and_keeps_the_weights_before(service: Service) -> None:
    job = submit(service, "fail")
    steps, losses = service.series(job["id"])
    assert (job["status"], job["failure"]["reason"]) == ("failed", "diverged")
    assert losses[-1] == "Infinity"
    assert f"train/loss became inf at iteration {steps[-1]}" in job["failure"]["message"]
    assert f"not finite by itself: row {BAD_ROW} of the data set" in job["failure"]["message"]
    assert f"model.safetensors has the weights after iteration {steps[-1] - 1}" in job["failure"]["message"]
    assert finite_weights(service, job)


@pytest.mark.parametrize("kind", ["skip", "rollback"])
def test_the_run_goes_on_and_each_time_is_an_event(service: Service, kind: str) -> None:
    rule = {"type": "rollback", "lr_factor": 0.5} if kind == "rollback" else kind
    job = submit(service, rule)
    assert job["status"] == "succeeded", job
    steps, losses = service.series(job["id"])
    assert steps == list(range(1, 37)), "no gap"
    assert losses.count("Infinity") == 3, "the row comes once an epoch"
    told = events(service, job, "skipped" if kind == "skip" else "rolled_back")
    assert [steps[i] for i, loss in enumerate(losses) if loss == "Infinity"] == [e["detail"]["iteration"] for e in told]
    assert all(BAD_ROW in event["detail"]["rows"] for event in told)
    curve = service.client.get(job["links"]["metrics"], params={"name": "lr"}).json()
    assert curve["revision"] == (3 if kind == "rollback" else 0)
    lr = curve["series"][0]["values"]
    assert lr[-1] == (1e-4 / 8 if kind == "rollback" else 1e-4)
    assert finite_weights(service, job)
    assert job["effective_spec"]["on_nonfinite"]["type"] == {"value": kind, "source": "given"}
