"""The checker: every class of the catalog can be used, nothing hostile harms it, and as a process it outlives any question."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.catalog import Entry, catalog
from jobs.examples import arguments
from jobs.spec import InvalidSpec, parse
from workers.trainer import check, ingest
from workers.trainer.data import DataDescription, Field

COUNTS = {"train": 64, "val": 36, "test": 0}


def data(low: float, high: float, classes: int | None = None, width: int = 1, shape: tuple[int, ...] = (4,)) -> DataDescription:
    target = Field((width,) if classes is None else (), low, high, classes)
    return DataDescription(100, {"x": Field(shape, 0, 1)}, {"y": target}, COUNTS)


MULTI = data(0, 2, 3)
BINARY = data(0, 1, 2)
NUMBERS = data(0, 5)
SIGNS = data(-1, 1)
COLUMNS = data(0, 5, width=3)
IMAGES = data(0, 2, 3, shape=(1, 8, 8))


def spec(out: int = 3, loss: Any = "CrossEntropyLoss", **more: Any) -> dict[str, Any]:
    layers: list[Any] = [{"type": "Linear", "out_features": out}]
    if (loss if isinstance(loss, str) else loss["type"]) == "BCELoss":
        layers.append("Sigmoid")
    return {
        "dataset": {"type": "builtin", "name": "iris"},
        "model": {"type": "Sequential", "layers": layers},
        "loss": loss,
        "optimizer": "SGD",
        "batch_size": 16,
        "epochs": 20,
        **more,
    }


def ask(body: dict[str, Any], description: DataDescription) -> dict[str, Any]:
    try:
        return check.answer(parse(copy.deepcopy(body)), description)
    except InvalidSpec as error:
        return {"problems": [{"pointer": p.pointer, "code": p.code, "detail": p.detail} for p in error.problems]}


def usable(section: str) -> list[Entry]:
    return [e for e in catalog().section(section).values() if e.refused is None]


def test_sparse_gradients_are_told_from_others() -> None:
    problems = ask(spec(optimizer="SparseAdam"), MULTI)["problems"]  # no layer of this model gives sparse gradients
    assert "sparse gradients only" in problems[0]["detail"]


@pytest.mark.parametrize("entry", usable("lr_schedulers"), ids=lambda e: e.name)
def test_every_scheduler_is_taken_and_read_back(entry: Entry) -> None:
    given = arguments(entry)
    optimizer = {"type": "SGD", "lr": 0.1, "momentum": 0.9}
    found = ask(spec(lr_scheduler={"type": entry.name, **given}, optimizer=optimizer), MULTI)
    assert found["problems"] == []
    told = found["effective_spec"]["lr_scheduler"]
    for name, value in given.items():
        assert name == "schedulers" or told[name] == {"value": value, "source": "given"}


LABELS = data(0, 1, width=3)

BIG = 65536
HOSTILE: list[tuple[DataDescription, dict[str, Any]]] = [
    (IMAGES, {"type": "Conv2d", "out_channels": 4, "kernel_size": [1] * 1000}),
    (IMAGES, {"type": "Conv2d", "out_channels": 4, "kernel_size": 1, "padding": [1] * 60}),
    (IMAGES, {"type": "Conv2d", "out_channels": 4, "kernel_size": 1, "padding": BIG}),
    (IMAGES, {"type": "ConvTranspose2d", "out_channels": BIG, "kernel_size": 4096}),
    (IMAGES, {"type": "Upsample", "size": [BIG, BIG]}),
    (IMAGES, {"type": "Upsample", "scale_factor": 1e300}),
    (IMAGES, {"type": "Upsample", "size": [BIG, BIG], "mode": "bicubic"}),
    (IMAGES, {"type": "AdaptiveAvgPool2d", "output_size": BIG}),
    (IMAGES, {"type": "AdaptiveAvgPool2d", "output_size": 0}),
    (IMAGES, {"type": "AdaptiveMaxPool2d", "output_size": BIG}),
    (IMAGES, {"type": "ConstantPad2d", "padding": BIG, "value": 0.0}),
    (IMAGES, {"type": "ConstantPad2d", "padding": [BIG] * 1000, "value": 0.0}),
    (IMAGES, {"type": "Unfold", "kernel_size": 3, "padding": BIG}),
    (IMAGES, {"type": "LocalResponseNorm", "size": BIG}),
    (IMAGES, {"type": "Unflatten", "dim": 1, "unflattened_size": [1] * 1000}),
    (IMAGES, {"type": "Unflatten", "dim": 1, "unflattened_size": [BIG] * 1000}),
    (IMAGES, {"type": "Softmax", "dim": 99}),
    (MULTI, {"type": "Fold", "output_size": [BIG, BIG], "kernel_size": [1, 1], "padding": BIG}),
    (MULTI, {"type": "Linear", "out_features": 0}),
    (MULTI, {"type": "Linear", "out_features": -1}),
    (MULTI, {"type": "Linear", "out_features": 10**400}),
    (MULTI, {"type": "LayerNorm", "normalized_shape": [BIG] * 1000}),
    (MULTI, {"type": "GLU", "dim": 0}),
]


@pytest.mark.parametrize(("description", "layer"), HOSTILE, ids=lambda v: v["type"] if isinstance(v, dict) else "")
def test_a_hostile_layer_is_refused_in_no_time(description: DataDescription, layer: dict[str, Any]) -> None:
    body = spec()
    body["model"]["layers"] = [layer, "Flatten", {"type": "Linear", "out_features": 3}]
    started = time.monotonic()
    problems = ask(body, description)["problems"]
    assert problems[0]["pointer"].startswith("/model/layers/0")
    assert all(len(p["detail"]) < 600 for p in problems)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("metric", "member"),
    [
        ({"type": "MulticlassJaccardIndex", "num_classes": 10**6}, "num_classes"),
        ({"type": "MulticlassAUROC", "thresholds": 10**12}, "thresholds"),
        ({"type": "MulticlassCalibrationError", "n_bins": 10**12}, "n_bins"),
    ],
)
def test_a_hostile_metric_takes_no_memory(metric: dict[str, Any], member: str) -> None:
    assert [p["pointer"] for p in ask(spec(metrics=[metric]), MULTI)["problems"]] == [f"/metrics/0/{member}"]


# ---- the process


@pytest.fixture(scope="module")
def checker() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-m", "workers.trainer.check"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        yield process
        process.stdin.close()
        assert process.wait(timeout=20) == 0


def exchange(process: subprocess.Popen[bytes], *lines: bytes) -> list[dict[str, Any]]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"".join(line + b"\n" for line in lines))
    process.stdin.flush()
    return [json.loads(process.stdout.readline()) for _ in lines]


def test_the_process_is_ready_answers_in_order_and_outlives_garbage(checker: subprocess.Popen[bytes], tmp_path: Path) -> None:
    assert checker.stdout is not None
    ready = json.loads(checker.stdout.readline())
    assert ready["ready"] is True
    assert ready["torch"] == catalog().torch_version
    ingest.write(tmp_path / "iris", *ingest.builtins()["iris"])

    def question(name: Any, body: Any) -> bytes:
        return json.dumps({"id": name, "spec": body, "dataset": str(tmp_path / "iris")}).encode()

    garbage = [b"{", b"[]", b"7", b"\xff\xfe", b"[" * 100_000, b'{"id": 5}', b'{"id": 6, "spec": ' + b"9" * 5000 + b"}"]
    found = exchange(
        checker,
        question("good", spec()),
        question("bad", spec(out=2)),
        question("no spec", "?"),
        question("lone surrogate", spec(optimizer="\ud800")),
        *garbage,
        question("last", spec()),
    )
    assert [a["id"] for a in found[:4]] == ["good", "bad", "no spec", "lone surrogate"]
    assert found[0]["problems"] == []
    assert found[0]["parameters"] == {"total": 15, "trainable": 15}
    assert [p["pointer"] for p in found[1]["problems"]] == ["/model/layers/0/out_features"]
    assert [p["pointer"] for p in found[2]["problems"]] == [""]
    assert [p["pointer"] for p in found[3]["problems"]] == ["/optimizer"]
    assert all("error" in a for a in found[4:-1])
    assert found[-1]["id"] == "last"
    assert found[-1]["problems"] == []
