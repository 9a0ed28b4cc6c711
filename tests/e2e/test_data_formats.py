"""One file of every format through the front door: uploaded, described, trained on."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e.conftest import Service, mlp
from tests.trainer.test_formats import image, npz, packed, table


def upload(service: Service, content: bytes, **asked: str) -> httpx.Response:
    return service.client.post("/v1/files", files={"file": ("data", content)}, params=asked)


def layers(out: int) -> dict[str, Any]:
    return {"type": "Sequential", "layers": ["Flatten", {"type": "Linear", "out_features": out}]}


def some_images() -> bytes:
    rng = np.random.default_rng(0)
    shapes = {f"{kind}/{i}.png": (8, 8) if i % 2 else (9, 7) for kind in ("cat", "dog") for i in range(20)}
    return packed({name: image(rng.integers(0, 256, shape, dtype=np.uint8)) for name, shape in shapes.items()})


def a_table() -> bytes:
    rng = np.random.default_rng(1)
    size = [None if i % 7 == 3 else float(v) for i, v in enumerate(rng.normal(size=60))]
    return table(size=size, colour=["red", "blue", "green"] * 20, y=rng.normal(size=60))


FORMATS: dict[str, tuple[bytes, str, dict[str, Any], dict[str, Any]]] = {
    "images": (
        some_images(),
        "CrossEntropyLoss",
        {"size": 8, "normalize": "standard", "transforms": ["RandomHorizontalFlip", {"type": "RandomCrop", "padding": 1}]},
        {"model": layers(2), "metrics": ["MulticlassAccuracy"], "split": {"train": 0.8, "val": 0.2, "stratify": True}},
    ),
    "parquet": (a_table(), "MSELoss", {"target": "y", "missing": "mean"}, {"model": layers(1), "metrics": []}),
    "npz": (
        npz(x=np.random.default_rng(2).normal(size=(50, 3, 2)), y=np.arange(100).reshape(50, 2) % 2),
        "BCEWithLogitsLoss",
        {"transforms": ["GaussianNoise"]},
        {"model": layers(2), "metrics": []},
    ),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_it_trains(service: Service, kind: str) -> None:
    content, loss, dataset, more = FORMATS[kind]
    answer = upload(service, content)
    assert answer.status_code == 201, answer.text
    assert answer.json()["preview"]["format"] == kind
    spec = mlp(dataset={"type": "file", "id": answer.json()["id"], **dataset}, loss=loss, epochs=3, **more)
    job = service.finished(service.submit(spec))
    assert job["status"] == "succeeded", job


def test_data_errors_are_told_before_anything_is_queued(service: Service) -> None:
    file_id = upload(service, npz(x=np.zeros((4, 2)), y=np.array([0, 1, 5, 2]))).json()["id"]
    dataset = {"type": "file", "id": file_id, "targets": {"y": {"array": "y", "classes": 3}}}
    answer = service.client.post("/v1/jobs", json=mlp(dataset=dataset, model=layers(3), loss="CrossEntropyLoss", metrics=[]))
    assert answer.status_code == 422
    (problem,) = answer.json()["errors"]
    assert (problem["pointer"], problem["code"]) == ("/dataset/targets/y", "invalid_data")
    assert "row 3: 5" in problem["detail"]
