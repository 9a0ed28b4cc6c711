"""Metrics: what they see, sizes of their own, and that a checkpoint in the middle changes nothing."""

from __future__ import annotations

import pytest
import torch

from jobs.spec import parse
from tests.trainer.fitting import criterion_of
from tests.trainer.test_check import BINARY, COLUMNS, LABELS, MULTI, NUMBERS, ask, spec
from workers.trainer.data import Batch, DataDescription
from workers.trainer.metrics import Metrics

CPU = torch.device("cpu")


def measured(body: dict[str, object], description: DataDescription) -> Metrics:
    output = 3 if description is MULTI else description.targets["y"].width
    return Metrics(parse(body), description, criterion_of(body["loss"], description, {"output": (output,)}), CPU)


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


def test_several_labels_a_row() -> None:
    body = spec(3, "BCEWithLogitsLoss", metrics=["MultilabelAccuracy", {"type": "MultilabelF1Score", "average": "micro"}])
    metrics = measured(body, LABELS)
    metrics.update(*seen(torch.tensor([[2.0, -1.0, 3.0], [0.5, 0.5, -0.5]]), torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]])))
    assert metrics.compute() == pytest.approx({"MultilabelAccuracy": 5 / 6, "MultilabelF1Score": 6 / 7})


def test_a_metric_sees_what_its_inputs_name() -> None:
    named = {"type": "MeanSquaredError", "inputs": {"preds": "rebuilt", "target": "x"}}
    body = parse(spec(metrics=["MulticlassAccuracy", named]))
    criterion = criterion_of("CrossEntropyLoss", MULTI, {"scores": (3,), "rebuilt": (4,)})
    metrics = Metrics(body, MULTI, criterion, CPU)
    outputs = {"scores": torch.eye(3), "rebuilt": torch.zeros(3, 4)}
    metrics.update(outputs, {"y": torch.arange(3), "x": torch.full((3, 4), 2.0)})
    assert metrics.compute() == {"MulticlassAccuracy": 1.0, "MeanSquaredError": 4.0}


@pytest.mark.parametrize("loss", ["LinearCrossEntropyLoss", {"type": "AdaptiveLogSoftmaxWithLoss", "cutoffs": [1]}])
def test_a_loss_with_a_layer_of_its_own_makes_the_probabilities(loss: object) -> None:
    torch.manual_seed(0)
    criterion = criterion_of(loss, MULTI, {"output": (8,)})
    metrics = Metrics(parse(spec(loss=loss, metrics=["MulticlassAccuracy"])), MULTI, criterion, CPU)
    hidden, labels = torch.randn(30, 8), torch.arange(30) % 3
    metrics.update(*seen(hidden, labels))
    module = criterion.module
    guess = module.linear(hidden).argmax(1) if loss == "LinearCrossEntropyLoss" else module.predict(hidden)  # type: ignore[operator]
    assert metrics.compute()["MulticlassAccuracy"] == pytest.approx((guess == labels).double().mean().item())


UNFIT: list[tuple[dict[str, object], DataDescription, str, str]] = [
    (
        spec(3, "BCEWithLogitsLoss", metrics=[{"type": "MultilabelAccuracy", "num_labels": 4}]),
        LABELS,
        "/num_labels",
        "3 column",
    ),
    (spec(metrics=["MultilabelAccuracy"]), MULTI, "", "several target columns"),
    (spec(metrics=[{"type": "MulticlassAccuracy", "inputs": {"preds": "outpt"}}]), MULTI, "/inputs/preds", '"output"'),
    (spec(metrics=[{"type": "MulticlassAccuracy", "inputs": {"target": "z"}}]), MULTI, "/inputs/target", "there are y, x"),
    (spec(metrics=[{"type": "MulticlassAccuracy", "inputs": {"truth": "y"}}]), MULTI, "/inputs/truth", "preds and target"),
    (spec(metrics=[{"type": "MeanSquaredError", "inputs": {"target": "x"}}]), MULTI, "", "(n, 4)"),
]


@pytest.mark.parametrize(("body", "description", "member", "words"), UNFIT)
def test_what_a_metric_cannot_see_is_told(
    body: dict[str, object], description: DataDescription, member: str, words: str
) -> None:
    [problem] = ask(body, description)["problems"]
    assert problem["pointer"] == f"/metrics/0{member}"
    assert words in problem["detail"]
