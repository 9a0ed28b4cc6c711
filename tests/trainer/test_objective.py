"""Loss, optimizer and scheduler: what fits, and what is said at which member when it does not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.trainer.test_check import BINARY, COLUMNS, MULTI, NUMBERS, SIGNS, ask, data, spec
from workers.trainer.data import DataDescription

SOFT = data(0.1, 0.9)


def layers(*names: Any) -> dict[str, Any]:
    return {"type": "Sequential", "layers": list(names)}


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
    (spec(lr_scheduler={"type": "OneCycleLR", "max_lr": 0.1}), MULTI, "/lr_scheduler", "total_steps"),
    (spec(3, model=layers("ReLU")), data(0, 2, 3, shape=(3,)), "/model/layers", "nothing to train"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "description", "pointer", "words"), BAD)
def test_what_does_not_fit_is_told_where_it_stands(
    body: dict[str, Any], description: DataDescription, pointer: str, words: str
) -> None:
    problems = ask(body, description)["problems"]
    assert [p["pointer"] for p in problems] == [pointer]
    assert words in problems[0]["detail"]


@pytest.mark.parametrize("last", ["Sigmoid", "Hardsigmoid"])
def test_probabilities_may_come_from_any_layer_that_gives_them(last: str) -> None:
    assert ask(spec(1, "BCELoss", model=layers(ONE, last, "Identity")), SOFT)["problems"] == []


def test_integers_in_a_description_are_as_good_as_floats() -> None:
    assert ask(spec(1, "BCEWithLogitsLoss"), data(0, 1, 2))["problems"] == []
    assert ask(spec(1, "BCEWithLogitsLoss"), data(0.0, 1.0, 2))["problems"] == []
