"""Loss, optimizer and scheduler: what fits, and what is said at which member when it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from jobs.spec import InvalidSpec, parse
from tests.trainer.fitting import NO_TARGET, PAIRS, SEQUENCES
from tests.trainer.test_check import BINARY, COLUMNS, COUNTS, LABELS, MULTI, NUMBERS, SIGNS, ask, data, spec
from workers.trainer import fit
from workers.trainer.data import DataDescription, Field, Part
from workers.trainer.model import complete
from workers.trainer.objective import Shape, build_loss, complete_loss, target_routes

SOFT = data(0.1, 0.9)


def layers(*names: Any) -> dict[str, Any]:
    return {"type": "Sequential", "layers": list(names)}


def deep(levels: int) -> Any:
    return {"type": "ChainedScheduler", "schedulers": [deep(levels - 1)]} if levels else "LinearLR"


ONE = {"type": "Linear", "out_features": 1}
BAD: list[tuple[dict[str, Any], DataDescription, str, str]] = [
    (spec(1, "BCELoss"), MULTI, "/loss", "two classes"),
    (spec(1, "BCELoss"), NUMBERS, "/loss", "between 0 and 1"),
    (spec(1, "BCELoss", model=layers(ONE)), BINARY, "/model/layers/0", "Sigmoid"),
    (spec(1, "BCELoss", model=layers(ONE, "ReLU")), BINARY, "/model/layers/1", "Sigmoid"),
    (spec(2, "BCELoss"), BINARY, "/model/layers/0/out_features", "(n, 2)"),
    (spec(2), MULTI, "/model/layers/0/out_features", "(n, 3)"),
    (spec(2, "MSELoss"), COLUMNS, "/model/layers/0/out_features", "(n, 3)"),
    (spec(3, "MSELoss"), MULTI, "/loss", "CrossEntropyLoss"),
    (spec(3), NUMBERS, "/loss", "class labels"),
    (spec(1, "SoftMarginLoss"), BINARY, "/loss", "-1 and 1"),
    (spec(1, "PoissonNLLLoss"), SIGNS, "/loss", "at least 0"),
    (spec(3, {"type": "CrossEntropyLoss", "weight": [1, 2]}), MULTI, "/loss/weight", "weight"),
    (spec(1, {"type": "BCEWithLogitsLoss", "pos_weight": [1, 2]}), BINARY, "/loss/pos_weight", "1 column"),
    (spec(optimizer={"type": "Adam", "betas": [0.9]}), MULTI, "/optimizer/betas", "2 members"),
    (spec(optimizer={"type": "Adam", "betas": [0.9, 0.99, 0.999]}), MULTI, "/optimizer/betas", "2 members"),
    (spec(optimizer={"type": "Adam", "betas": [0.9, 1]}), MULTI, "/optimizer/betas/1", "less than 1"),
    (spec(optimizer={"type": "Adam", "betas": [-0.1, 0.9]}), MULTI, "/optimizer/betas/0", "at least 0"),
    (spec(optimizer={"type": "SGD", "nesterov": True}), MULTI, "/optimizer/nesterov", "Nesterov"),
    (spec(optimizer={"type": "RMSprop", "alpha": -1}), MULTI, "/optimizer/alpha", "alpha"),
    (spec(lr_scheduler={"type": "OneCycleLR", "max_lr": 0.1, "total_steps": 5, "cycle_momentum": False}), MULTI,
     "/lr_scheduler/total_steps", "20 times"),
    (spec(lr_scheduler={"type": "OneCycleLR", "max_lr": 0.1, "total_steps": 0}), MULTI, "/lr_scheduler/total_steps",
     "at least 1"),
    (spec(lr_scheduler={"type": "CyclicLR", "base_lr": [0.1, 0.2], "max_lr": 1.0}), MULTI, "/lr_scheduler/base_lr", "1"),
    (spec(lr_scheduler={"type": "LambdaLR", "lr_lambda": ["1", "1"]}), MULTI, "/lr_scheduler/lr_lambda", "1 lr_lambdas"),
    (spec(lr_scheduler={"type": "LambdaLR", "lr_lambda": "1 / (epoch - 7)"}), MULTI, "/lr_scheduler/lr_lambda", "at epoch 7"),
    (spec(lr_scheduler={"type": "MultiplicativeLR", "lr_lambda": ["log(5 - epoch)"]}), MULTI, "/lr_scheduler/lr_lambda/0",
     "at epoch 5"),
    (spec(lr_scheduler={"type": "ReduceLROnPlateau", "monitor": "val/los"}, split={"train": 0.5, "val": 0.5}), MULTI,
     "/lr_scheduler/monitor", '"val/loss"'),
    (spec(lr_scheduler={"type": "StepLR", "step_size": 1, "monitor": "train/loss"}), MULTI, "/lr_scheduler/monitor",
     "only ReduceLROnPlateau"),
    (spec(lr_scheduler={"type": "SequentialLR", "schedulers": ["ConstantLR", "LinearLR"], "milestones": [3, 5]}), MULTI,
     "/lr_scheduler/milestones", "1, not 2"),
    (spec(lr_scheduler={"type": "SequentialLR", "schedulers": ["ConstantLR"] * 3, "milestones": [5, 3]}), MULTI,
     "/lr_scheduler/milestones", "rise"),
    (spec(lr_scheduler={"type": "ChainedScheduler", "schedulers": ["ConstantLR", "StepLR"]}), MULTI,
     "/lr_scheduler/schedulers/1/step_size", "needs step_size"),
    (spec(lr_scheduler={"type": "ChainedScheduler", "schedulers": ["ConstantLR", {"type": "LinearLR", "interval": "epoch"}]}),
     MULTI, "/lr_scheduler/schedulers/1/interval", "interval"),
    (spec(lr_scheduler={"type": "ChainedScheduler", "schedulers": ["ReduceLROnPlateau"]}), MULTI, "/lr_scheduler/schedulers/0",
     "no series"),
    (spec(lr_scheduler={"type": "SequentialLR", "milestones": [3],
                        "schedulers": ["LinearLR", {"type": "ChainedScheduler", "schedulers": ["LinearLR"]}]}),
     MULTI, "/lr_scheduler/schedulers/1/type", "may come first"),
    (spec(lr_scheduler={"type": "SequentialLR", "milestones": [3], "schedulers": [
        "LinearLR", {"type": "OneCycleLR", "max_lr": 1.0, "total_steps": 16, "cycle_momentum": False}]}),
     MULTI, "/lr_scheduler/schedulers/1/total_steps", "17 times"),
    (spec(lr_scheduler={"type": "ChainedScheduler", "schedulers": ["LinearLR"] * 64}), MULTI, "/lr_scheduler", "limit is 64"),
    (spec(lr_scheduler=deep(5)), MULTI, "/lr_scheduler" + "/schedulers/0" * 3 + "/schedulers", "deeper than 4"),
    (spec(3, model=layers("ReLU")), data(0, 2, 3, shape=(3,)), "/model", "nothing to train"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "description", "pointer", "words"), BAD)
def test_what_does_not_fit_is_told_where_it_stands(
    body: dict[str, Any], description: DataDescription, pointer: str, words: str
) -> None:
    problems = ask(body, description)["problems"]
    assert [p["pointer"] for p in problems] == [pointer]
    assert words in problems[0]["detail"]


ROUTED: list[tuple[Any, DataDescription, dict[str, Shape], list[str], str]] = [
    ("TripletMarginLoss", MULTI, {"output": (5,)}, ["/loss/inputs/positive", "/loss/inputs/negative"], "leave nothing for"),
    ("CosineEmbeddingLoss", SIGNS, {"a": (5,), "b": (4,)}, ["/loss"], "as input1 has"),
    ("CosineEmbeddingLoss", SIGNS, {"a": (5, 2), "b": (5, 2)}, ["/loss"], "a vector for each row"),
    ("MarginRankingLoss", SIGNS, {"a": (2,), "b": (2,)}, ["/loss"], "the target's shape"),
    ("GaussianNLLLoss", COLUMNS, {"a": (3,), "b": (2,)}, ["/loss"], "var (b) has shape (n, 2)"),
    ({"type": "MSELoss", "inputs": {"target": "z"}}, NUMBERS, {"output": (1,)}, ["/loss/inputs/target"], "there are y, x"),
    ({"type": "MSELoss", "inputs": {"goal": "y"}}, NUMBERS, {"output": (1,)}, ["/loss/inputs/goal"], "input, target"),
    ({"type": "MSELoss", "inputs": {"input": "x"}}, NUMBERS, {"output": (1,)}, ["/loss/inputs"], "nothing could learn"),
    ({"type": "MSELoss", "inputs": {"target": "x"}}, NUMBERS, {"output": (1,)}, ["/model/layers/0/out_features"], "(n, 4)"),
    ("CTCLoss", SEQUENCES, {"output": (5,)}, ["/model/layers/0/out_features"], "(n, T, C)"),
    ({"type": "CTCLoss", "blank": 9}, SEQUENCES, {"output": (6, 5)}, ["/loss/blank"], "0 to 4"),
    ("CTCLoss", SEQUENCES, {"output": (6, 4)}, ["/loss"], "allows 3"),
    ("CTCLoss", SEQUENCES, {"output": (5, 5)}, ["/loss"], "input_lengths (steps) goes up to 6"),
    ({"type": "LinearCrossEntropyLoss", "num_classes": 4}, MULTI, {"output": (5,)}, ["/loss/num_classes"], "has 3"),
    ({"type": "AdaptiveLogSoftmaxWithLoss", "cutoffs": [1, 3]}, MULTI, {"output": (5,)}, ["/loss/cutoffs"], "n_classes-1"),
    ("AdaptiveLogSoftmaxWithLoss", MULTI, {"output": (5,)}, ["/loss/cutoffs"], "needs cutoffs"),
    ({"type": "MultiLabelSoftMarginLoss", "weight": [1, 2]}, LABELS, {"output": (3,)}, ["/loss/weight"], "3 column(s)"),
    ("MultiLabelMarginLoss", COLUMNS, {"output": (3,)}, ["/loss"], "between 0 and 1"),
    ({"type": "BCELoss", "weight": "balanced"}, BINARY, {"output": (1,)}, ["/loss/weight"], "list of numbers"),
    ({"type": "CrossEntropyLoss", "weight": "even"}, MULTI, {"output": (3,)}, ["/loss/weight"], "balanced"),
    ("CrossEntropyLoss", PAIRS, {"output": (2, 3)}, ["/model/layers"], "(n, 3, 2), one number for each class"),
    (
        {"type": "TripletMarginWithDistanceLoss", "distance_function": None},
        NO_TARGET,
        {},
        ["/loss/distance_function"],
        "Python",
    ),
]


@pytest.mark.parametrize(("loss", "description", "outputs", "pointers", "words"), ROUTED)
def test_what_does_not_feed_a_loss_is_told_at_its_argument(
    loss: Any, description: DataDescription, outputs: dict[str, Shape], pointers: list[str], words: str
) -> None:
    try:
        body = parse(spec(loss=loss))
        problems = (
            fit.check_targets(body, description) or fit.check_loss(body, description, outputs, complete(body, MULTI).outputs)[1]
        )
    except InvalidSpec as error:
        problems = error.problems
    assert [p.pointer for p in problems] == pointers
    assert words in problems[0].detail


def test_an_embedding_loss_on_a_sequential_says_what_is_missing() -> None:
    problems = ask(spec(loss="TripletMarginLoss"), MULTI)["problems"]
    assert [p["code"] for p in problems] == ["missing", "missing"]


@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "NLLLoss", "MultiMarginLoss", "LinearCrossEntropyLoss"])
def test_balanced_weights_are_scikit_learns(loss: str) -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    completed = complete_loss(parse(spec(loss={"type": loss, "weight": "balanced"})), MULTI, {"output": (3,)})
    made = build_loss(completed, Part({"x": torch.zeros(9, 4), "y": labels}))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    assert made.read_back()["weight"].tolist() == expected.astype(np.float32).tolist()
    with pytest.raises(InvalidSpec, match="class 2 has no row"):
        build_loss(completed, Part({"x": torch.zeros(6, 4), "y": labels[:6]}))


def test_a_balanced_pos_weight_is_negatives_over_positives_of_each_column() -> None:
    target = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    body = parse(spec(loss={"type": "BCEWithLogitsLoss", "pos_weight": "balanced"}))
    completed = complete_loss(body, LABELS, {"output": (3,)})
    made = build_loss(completed, Part({"x": torch.zeros(4, 4), "y": target}))
    assert made.read_back()["pos_weight"].tolist() == pytest.approx([3.0, 3.0, 1 / 3])


@pytest.mark.parametrize("last", ["Sigmoid", "Hardsigmoid"])
def test_probabilities_may_come_from_any_layer_that_gives_them(last: str) -> None:
    assert ask(spec(1, "BCELoss", model=layers(ONE, last, "Identity")), SOFT)["problems"] == []


def test_integers_in_a_description_are_as_good_as_floats() -> None:
    assert ask(spec(1, "BCEWithLogitsLoss"), data(0, 1, 2))["problems"] == []
    assert ask(spec(1, "BCEWithLogitsLoss"), data(0.0, 1.0, 2))["problems"] == []


RAGGED = {"y": Field((3,), 0, 4, integers=5), "y_lengths": Field((), 1, 3, integers=4), "steps": Field((1,), 4, 6)}


@pytest.mark.parametrize(
    ("targets", "given", "fed"),
    [
        (["y", "y_lengths"], {}, {"targets": "y", "target_lengths": "y_lengths"}),
        (["y", "y_lengths", "steps"], {}, {"targets": "y", "target_lengths": "y_lengths", "input_lengths": "steps"}),
        (
            ["steps", "y", "y_lengths"],
            {"targets": "y"},
            {"targets": "y", "target_lengths": "y_lengths", "input_lengths": "steps"},
        ),
        (["y", "y_lengths"], {"input_lengths": "y_lengths"}, {"targets": "y", "input_lengths": "y_lengths"}),
    ],
)
def test_the_lengths_of_ragged_labels_are_their_own(targets: list[str], given: dict[str, str], fed: dict[str, str]) -> None:
    description = DataDescription(100, {"x": Field((6, 4), 0, 1)}, {name: RAGGED[name] for name in targets}, COUNTS)
    loss = parse(spec(loss={"type": "CTCLoss", **({"inputs": given} if given else {})})).loss
    routes, problems = target_routes(loss, description)
    assert problems == []
    assert {route.argument: route.name for route in routes} == fed
