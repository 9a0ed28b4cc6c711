"""`"balanced"` class weights, counted from the training part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jobs.spec import InvalidSpec, SpecProblem

if TYPE_CHECKING:
    from workers.trainer.objective import CompletedLoss

BALANCED = "balanced"


def weights(argument: str, target: Tensor, loss: CompletedLoss) -> Tensor:
    """float32 weights, computed in float64.

    `weight` (k,): n / (k * count_c) for class c, the formula of scikit-learn's `class_weight="balanced"`
    (sklearn.utils.class_weight.compute_class_weight: n_samples / (n_classes * bincount(y))); the target is int64 labels.
    `pos_weight` (columns,): negatives / positives of each column of a 0/1 target (n, columns), as torch's documentation of
    BCEWithLogitsLoss has it. Raises InvalidSpec when a class has no row.
    """
    if argument == "pos_weight":
        positives = target.double().sum(0)
        counts, found = positives, (len(target) - positives) / positives
    else:
        counts = torch.bincount(target.reshape(-1), minlength=loss.classes).double()
        found = target.numel() / (len(counts) * counts)
    empty = (counts == 0).nonzero().flatten().tolist()
    if empty:
        what = "column" if argument == "pos_weight" else "class"
        detail = f"{argument} cannot be balanced: {what} {empty[0]} has no row in the training part"
        raise InvalidSpec([SpecProblem(f"/loss/{argument}", "invalid_data", detail)])
    return found.float()
