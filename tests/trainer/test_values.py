"""Values of targets and outputs on which a run would end: the checker refuses them, and says what would be right."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.spec import parse
from tests.trainer.fitting import criterion_of
from tests.trainer.graphs import graph
from tests.trainer.test_check import BINARY, NUMBERS, ask, spec
from tests.trainer.test_fields import prepared
from tests.trainer.test_formats import npz
from workers.trainer.data import DataDescription, describe
from workers.trainer.metrics import Metrics

LINEAR = {"type": "Linear", "out_features": 1}


def pointers(body: dict[str, Any], description: DataDescription) -> list[str]:
    return [p["pointer"] for p in ask(body, description)["problems"]]


# ---- metrics


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_metric_of_two_samples_wants_a_part_of_two_rows(part: str) -> None:
    one = dataclasses.replace(NUMBERS, counts={"train": 8, "val": 8, "test": 8, part: 1})
    body = spec(1, "MSELoss", metrics=["MeanAbsoluteError", "R2Score"])
    (problem,) = ask(body, one)["problems"]
    assert problem["pointer"] == "/metrics/1"
    assert problem["detail"].startswith(f"the {part} part has one row")
    assert pointers(body, NUMBERS) == []


@pytest.mark.parametrize("power", [-0.5, 0, 1, 1.5, 2, 3])
@pytest.mark.parametrize("last", ["Softplus", "Sigmoid", "ReLU", None])
def test_a_deviance_wants_positive_predictions(power: float, last: str | None) -> None:
    positive = dataclasses.replace(NUMBERS, targets={"y": dataclasses.replace(NUMBERS.targets["y"], low=1.0)})
    layers = [LINEAR, *([last] if last else [])]
    body = spec(1, "MSELoss", model={"type": "Sequential", "layers": layers})
    body["metrics"] = [{"type": "TweedieDevianceScore", "power": power}]
    fits = power == 0 or last in {"Softplus", "Sigmoid"}
    assert pointers(body, positive) == ([] if fits else ["/metrics/0/power"])


def test_a_metric_that_a_batch_has_no_value_for_is_named() -> None:
    body = parse(spec(1, "MSELoss", metrics=[{"type": "TweedieDevianceScore", "power": 2, "name": "gamma"}]))
    metrics = Metrics(body, NUMBERS, criterion_of("MSELoss", NUMBERS, {"output": (1,)}), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"metric gamma: .*strictly positive"):
        metrics.update({"output": torch.zeros(2, 1)}, {"y": torch.ones(2, 1)})


# ---- targets, as uploaded


def targeted(folder: Path, loss: str, y: Any, out: int, metric: str | None = None) -> tuple[list[str], list[str]]:
    """Pointers of what the checker says of an NPZ, and of a CSV or Parquet table, with these targets."""
    x = np.arange(len(y) * 4, dtype=np.float64).reshape(-1, 4)
    columns = [f"y{i}" for i in range(y.reshape(len(y), -1).shape[1])]
    cells = np.column_stack([x, y])
    lines = [",".join(["a", "b", "c", "d", *columns]), *(",".join(f"{v:g}" for v in row) for row in cells)]
    found = []
    for kind, content, member in (
        ("npz", npz(x=x, y=y), {}),
        ("csv", "\n".join(lines).encode(), {"target": columns}),
    ):
        (folder / kind).mkdir()
        body = spec(out, loss, dataset={"type": "file", "id": "file_" + "0" * 24, **member})
        body |= {"metrics": [metric]} if metric else {}
        description = describe(parse(body), prepared(folder / kind, content))
        found.append(pointers(body, description))
    return found[0], found[1]


@pytest.mark.parametrize(("values", "fits"), [((0, 1), True), ((0.6, 0.9), False), ((0, 0.5, 1), False)])
@pytest.mark.parametrize("width", [1, 3])
def test_soft_targets_are_no_classes_for_a_metric(tmp_path: Path, values: tuple[float, ...], fits: bool, width: int) -> None:
    y = np.resize(np.array(values, dtype=np.float64), (20, width))
    metric = "BinaryF1Score" if width == 1 else "MultilabelF1Score"
    wanted = [] if fits else ["/metrics/0"]
    assert targeted(tmp_path, "BCEWithLogitsLoss", y, width, metric) == (wanted, wanted)


@pytest.mark.parametrize(("values", "fits"), [((-1, 1), True), ((-1, 0, 1), False), ((-1, 0.5, 1), False), ((0, 1), False)])
@pytest.mark.parametrize(("loss", "width"), [("SoftMarginLoss", 1), ("SoftMarginLoss", 2), ("HingeEmbeddingLoss", 1)])
def test_signs_are_nothing_else(tmp_path: Path, values: tuple[float, ...], fits: bool, loss: str, width: int) -> None:
    y = np.resize(np.array(values, dtype=np.float64), (24, width))
    wanted = [] if fits else ["/loss"]
    assert targeted(tmp_path, loss, y, width) == (wanted, wanted)


# ---- outputs


@pytest.mark.parametrize("last", ["Softplus", "Sigmoid", "ReLU", "Softmax", "Tanh", None])
def test_a_variance_is_never_negative(last: str | None) -> None:
    head = {**LINEAR, "inputs": ["x"]}
    nodes: dict[str, Any] = {"mean": head, "raw": head}
    if last is not None:
        nodes["spread"] = {"type": last, "inputs": ["raw"], **({"dim": 1} if last == "Softmax" else {})}
    end = list(nodes)[-1]
    body = spec(1, "GaussianNLLLoss", model=graph(["x"], ["mean", end], **nodes))
    assert pointers(body, NUMBERS) == ([f"/model/nodes/{end}"] if last in {"Tanh", None} else [])


def test_a_variance_of_the_data_is_never_negative() -> None:
    body = spec(1, {"type": "GaussianNLLLoss", "inputs": {"var": "v"}})
    for low, wanted in ((0.0, []), (-1.0, ["/loss/inputs/var"])):
        given = dataclasses.replace(NUMBERS.targets["y"], low=low)
        assert pointers(body, dataclasses.replace(NUMBERS, targets={"y": NUMBERS.targets["y"], "v": given})) == wanted


@pytest.mark.parametrize("meeting", ["add", "mul", "maximum"])
def test_bce_takes_no_output_in_which_nodes_meet(meeting: str) -> None:
    head = {**LINEAR, "inputs": ["x"]}
    both = {"type": meeting, "inputs": ["a", "b"]}
    body = spec(1, "BCELoss", model=graph(["x"], ["both"], a=head, b=head, both=both))
    assert pointers(body, BINARY) == ["/model/nodes/both"]
    body["model"] = graph(["x"], ["end"], a=head, b=head, both=both, end={"type": "Sigmoid", "inputs": ["both"]})
    assert pointers(body, BINARY) == []
