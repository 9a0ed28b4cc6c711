"""Metrics: what they see, sizes of their own, and that a checkpoint in the middle changes nothing."""

from __future__ import annotations

import pytest
import torch

from jobs.spec import parse
from tests.trainer.test_check import BINARY, COLUMNS, MULTI, NUMBERS, ask, spec
from workers.trainer.data import Batch, DataDescription
from workers.trainer.metrics import Metrics

CPU = torch.device("cpu")


def measured(body: dict[str, object], description: DataDescription) -> Metrics:
    return Metrics(parse(body), description.targets["y"], CPU)


def seen(output: torch.Tensor, target: torch.Tensor) -> tuple[Batch, Batch]:
    return {"output": output}, {"y": target}


@pytest.mark.parametrize(
    "names",
    [["MulticlassAccuracy", "MulticlassAUROC", {"type": "MulticlassF1Score", "average": "micro", "name": "f1"}]],
)
def test_state_and_restore_go_on_as_if_nothing_had_been(names: list[object]) -> None:
    body = spec(metrics=names)
    torch.manual_seed(3)
    batches = [seen(torch.randn(8, 3), torch.randint(3, (8,))) for _ in range(4)]
    whole, first, second = (measured(body, MULTI) for _ in range(3))
    for batch in batches:
        whole.update(*batch)
    for batch in batches[:2]:
        first.update(*batch)
    state = first.state()
    first.update(*batches[0])  # what was saved does not follow the living
    second.restore(state)
    for batch in batches[2:]:
        second.update(*batch)
    assert second.compute() == whole.compute()
    assert list(whole.compute()) == ["MulticlassAccuracy", "MulticlassAUROC", "f1"]


def test_logits_become_probabilities_and_reset_forgets() -> None:
    metrics = measured(spec(1, "BCEWithLogitsLoss", metrics=["BinaryAccuracy"]), BINARY)
    metrics.update(*seen(torch.tensor([[0.2], [-0.2]]), torch.tensor([[1.0], [0.0]])))
    assert metrics.compute() == {"BinaryAccuracy": 1.0}
    metrics.reset()
    metrics.update(*seen(torch.tensor([[0.2]]), torch.tensor([[0.0]])))
    assert metrics.compute() == {"BinaryAccuracy": 0.0}


def test_metrics_draw_from_no_generator() -> None:
    before = torch.get_rng_state()
    metrics = measured(spec(metrics=["MulticlassAUROC"]), MULTI)
    metrics.update(*seen(torch.eye(3), torch.arange(3)))
    metrics.compute()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["MeanSquaredError", "MeanAbsoluteError", "R2Score", "ExplainedVariance"])
def test_several_target_columns_give_one_number(name: str) -> None:
    assert ask(spec(3, "MSELoss", metrics=[name]), COLUMNS)["problems"] == []


@pytest.mark.parametrize(
    ("body", "description"),
    [
        (spec(metrics=["BinaryAccuracy"]), MULTI),
        (spec(1, "BCELoss", metrics=["MulticlassAccuracy"]), BINARY),
        (spec(1, "MSELoss", metrics=["MulticlassAccuracy"]), NUMBERS),
        (spec(metrics=["MeanSquaredError"]), MULTI),
        (spec(3, "MSELoss", metrics=["PearsonCorrCoef"]), COLUMNS),
        (spec(metrics=[{"type": "MulticlassAccuracy", "average": "none"}]), MULTI),
        (spec(metrics=[{"type": "MulticlassAccuracy", "num_classes": 4}]), MULTI),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(body: dict[str, object], description: object) -> None:
    problems = ask(body, description)["problems"]  # type: ignore[arg-type]
    assert len(problems) == 1
    assert problems[0]["pointer"].startswith("/metrics/0")
