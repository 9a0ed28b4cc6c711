"""Metrics: what they see, sizes of their own, and that a checkpoint in the middle changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs.spec import parse
from tests.trainer.fitting import criterion_of
from tests.trainer.supervised import job, prepare
from tests.trainer.test_check import BINARY, COLUMNS, LABELS, MULTI, NUMBERS, ask, data, spec
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


# ---- several numbers


def test_a_class_has_a_series_of_its_own() -> None:
    names: list[object] = [
        "MulticlassConfusionMatrix",
        {"type": "MulticlassRecall", "average": "none", "name": "recall"},
        "MulticlassAccuracy",
        {"type": "MulticlassStatScores", "average": "none", "name": "counts"},
    ]
    metrics = measured(spec(metrics=names), MULTI)
    metrics.update(*seen(torch.eye(3)[[0, 1, 1, 2]] * 9, torch.tensor([0, 1, 2, 2])))
    found = metrics.compute()
    assert {n: v for n, v in found.items() if n.startswith("MulticlassConfusionMatrix/") and v} == {
        "MulticlassConfusionMatrix/0/0": 1.0,
        "MulticlassConfusionMatrix/1/1": 1.0,
        "MulticlassConfusionMatrix/2/1": 1.0,  # the true class first
        "MulticlassConfusionMatrix/2/2": 1.0,
    }
    assert {n: v for n, v in found.items() if n.startswith("recall")} == {"recall/0": 1.0, "recall/1": 1.0, "recall/2": 0.5}
    assert found["counts/2/fn"] == 1.0
    assert found["counts/2/support"] == 2.0
    assert "MulticlassAccuracy" in found
    assert len(found) == 9 + 3 + 1 + 15


def test_a_column_has_a_series_of_its_own() -> None:
    names: list[object] = [
        "PearsonCorrCoef",
        {"type": "R2Score", "multioutput": "raw_values"},
        {"type": "MeanSquaredError", "num_outputs": 3},
        {"type": "MeanSquaredError", "name": "mse"},
    ]
    metrics = measured(spec(3, "MSELoss", metrics=names), COLUMNS)
    truth = torch.tensor([[0.0, 1.0, 2.0], [1.0, 3.0, 5.0], [2.0, 4.0, 1.0]])
    metrics.update(*seen(truth + torch.tensor([0.0, 1.0, 2.0]), truth))
    found = metrics.compute()
    assert [found[f"MeanSquaredError/{i}"] for i in range(3)] == [0.0, 1.0, 4.0]
    assert found["mse"] == pytest.approx(5 / 3)
    assert {n for n in found if not n.startswith("m")} == {
        f"{name}/{i}" for name in ("PearsonCorrCoef", "R2Score", "MeanSquaredError") for i in range(3)
    }


def test_a_figure_and_its_threshold() -> None:
    body = spec(1, "BCEWithLogitsLoss", metrics=[{"type": "BinaryRecallAtFixedPrecision", "min_precision": 0.5}])
    metrics = measured(body, BINARY)
    metrics.update(*seen(torch.tensor([[2.0], [-2.0]]), torch.tensor([[1.0], [0.0]])))
    found = metrics.compute()
    assert set(found) == {"BinaryRecallAtFixedPrecision/recall", "BinaryRecallAtFixedPrecision/threshold"}
    assert found["BinaryRecallAtFixedPrecision/recall"] == 1.0


def test_more_numbers_than_a_metric_may_give_are_refused() -> None:
    ten, eleven = (data(0, classes - 1, classes) for classes in (10, 11))
    assert ask(spec(10, metrics=["MulticlassConfusionMatrix"]), ten)["problems"] == []
    [problem] = ask(spec(11, metrics=["MulticlassConfusionMatrix"]), eleven)["problems"]
    assert problem["pointer"] == "/metrics/0"
    assert "121 numbers" in problem["detail"]
    many = [{"type": "MulticlassConfusionMatrix", "name": f"m{i}"} for i in range(3)]
    [problem] = ask(spec(10, metrics=many), ten)["problems"]
    assert problem["pointer"] == "/metrics"
    assert "300 numbers" in problem["detail"]


@pytest.mark.parametrize("name", ["MulticlassROC", "MulticlassPrecisionRecallCurve"])
def test_a_curve_is_refused_and_the_area_named(name: str) -> None:
    [problem] = ask(spec(metrics=[name]), MULTI)["problems"]
    assert problem["pointer"] == "/metrics/0"
    assert "AUROC" in problem["detail"]


def test_a_job_stops_by_the_series_of_one_class(tmp_path: Path) -> None:
    body = {
        "dataset": {"type": "builtin", "name": "digits"},
        "split": {"train": 0.5, "val": 0.2, "test": 0.3},
        "model": {"type": "Sequential", "layers": ["Flatten", {"type": "Linear", "out_features": 10}]},
        "loss": "CrossEntropyLoss",
        "optimizer": {"type": "SGD", "lr": 0.5},
        "metrics": [{"type": "MulticlassRecall", "average": "none", "name": "recall"}, "MulticlassConfusionMatrix"],
        "early_stopping": {"monitor": "val/recall/8", "mode": "max", "patience": 2},
        "batch_size": 64,
        "epochs": 20,
    }
    service = job(prepare(tmp_path / "sets"), tmp_path, body)
    service.attempt()
    watched = service.values("val/recall/8")
    assert len(watched) == watched.index(max(watched)) + 1 + 2 < 20
    matrix = torch.tensor(
        [[service.values(f"test/MulticlassConfusionMatrix/{true}/{said}")[0] for said in range(10)] for true in range(10)]
    )
    assert matrix.sum() == int(1797 * 0.3)
    recall = [service.values(f"test/recall/{i}")[0] for i in range(10)]
    assert (matrix.diag() / matrix.sum(1)).tolist() == pytest.approx(recall)


WATCHED: list[tuple[str, str | None]] = [
    ("val/recall/2", None),
    ("val/recall/3", "there are val/recall/0, val/recall/1, val/recall/2"),
    ("val/recall", "val/recall/0"),
    ("val/MulticlassAccuracy", None),
    ("val/MulticlassAccuracy/0", "there are val/MulticlassAccuracy"),
    ("val/matrix/1/2", None),
    ("val/matrix/1", "val/matrix/0/0"),
    ("val/other/1", "there are val/loss"),
    ("val/loss/0", "there are val/loss"),
    ("val/recall/", "there are val/loss"),
]


@pytest.mark.parametrize("member", ["early_stopping", "lr_scheduler"])
@pytest.mark.parametrize(("watched", "words"), WATCHED)
def test_a_rule_watches_a_series_that_will_be_there(member: str, watched: str, words: str | None) -> None:
    named = {"type": "MulticlassRecall", "average": "none", "name": "recall"}
    names = [named, "MulticlassAccuracy", {"type": "MulticlassConfusionMatrix", "name": "matrix"}]
    rule = {"monitor": watched, "mode": "max", "patience": 2}
    more = {"early_stopping": rule, "lr_scheduler": {"type": "ReduceLROnPlateau", **rule}}
    body = spec(metrics=names, split={"train": 0.8, "val": 0.2}) | {member: more[member]}
    problems = ask(body, MULTI)["problems"]
    assert [p["pointer"] for p in problems] == ([] if words is None else [f"/{member}/monitor"])
    assert words is None or words in problems[0]["detail"]


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
