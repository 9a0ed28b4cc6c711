"""For every loss of the catalog: arguments that it cannot do without, data that fits it, and outputs of a model that do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from jobs.components import LossComponent
from jobs.spec import parse
from tests.trainer.test_check import BINARY, COUNTS, LABELS, MULTI, NUMBERS, SIGNS, spec
from workers.trainer.data import DataDescription, Field
from workers.trainer.objective import SIGN_LOSSES, Criterion, Shape, build_loss, complete_loss, target_form
from workers.trainer.param_groups import Parameters

NO_TARGET = DataDescription(100, {"x": Field((4,), 0, 1)}, {}, COUNTS)
PAIRS = DataDescription(100, {"x": Field((4,), 0, 1)}, {"y": Field((2,), 0, 2, 3)}, COUNTS)
SEQUENCES = DataDescription(
    100,
    {"x": Field((6, 4), 0, 1)},
    {"labels": Field((3,), 1, 4), "steps": Field((1,), 4, 6), "spoken": Field((1,), 1, 3)},
    COUNTS,
)


@dataclass(frozen=True)
class Fitting:
    description: DataDescription
    outputs: dict[str, Shape]
    arguments: dict[str, Any] = field(default_factory=dict)


SPECIAL: dict[str, Fitting] = {
    "AdaptiveLogSoftmaxWithLoss": Fitting(MULTI, {"output": (5,)}, {"cutoffs": [1, 2]}),
    "CTCLoss": Fitting(SEQUENCES, {"output": (6, 5)}),
    "CosineEmbeddingLoss": Fitting(SIGNS, {"left": (5,), "right": (5,)}),
    "GaussianNLLLoss": Fitting(NUMBERS, {"mean": (1,), "variance": (1,)}),
    "LinearCrossEntropyLoss": Fitting(PAIRS, {"output": (5,)}, {"out_features": [2]}),
    "MarginRankingLoss": Fitting(SIGNS, {"left": (1,), "right": (1,)}),
    "MultiLabelMarginLoss": Fitting(LABELS, {"output": (3,)}),
    "MultiLabelSoftMarginLoss": Fitting(LABELS, {"output": (3,)}),
    "TripletMarginLoss": Fitting(NO_TARGET, {"anchor": (5,), "positive": (5,), "negative": (5,)}),
    "TripletMarginWithDistanceLoss": Fitting(NO_TARGET, {"anchor": (5,), "positive": (5,), "negative": (5,)}),
}


def fitting(loss: str) -> Fitting:
    """What the loss is happy with."""
    if loss in SPECIAL:
        return SPECIAL[loss]
    form = target_form(LossComponent(type=loss))
    numbers = SIGNS if loss in SIGN_LOSSES else NUMBERS
    return {
        "class": Fitting(MULTI, {"output": (3,)}),
        "binary": Fitting(BINARY, {"output": (1,)}),
        "float": Fitting(numbers, {"output": (1,)}),
    }[form]


def criterion_of(loss: Any, description: DataDescription, outputs: dict[str, Shape]) -> Criterion:
    """The loss over such outputs and data."""
    return build_loss(complete_loss(parse(spec(loss=loss)), description, outputs))


def parameters_for(optimizer: str) -> Parameters:
    """Parameters that the optimizer can train."""
    if optimizer == "SparseAdam":
        return Parameters.of(nn.Embedding(5, 3, sparse=True), None)
    return Parameters.of(nn.Linear(4, 3, bias=optimizer != "Muon"), None)
