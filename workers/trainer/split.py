"""Which rows train, validate and test: rule 2 of "What `seed` means"."""

from __future__ import annotations

import torch
from torch import Tensor

from jobs.spec import JobSpec, Split

PARTS = ("train", "val", "test")
MOST_COUNTED = 2**16


def part_sizes(rows: int, split: Split) -> dict[str, int]:
    """Rows of each part: the fractions times the rows in IEEE doubles, cut off; training gets the rest."""
    n_val, n_test = int(rows * split.val), int(rows * split.test)
    return {"train": rows - n_val - n_test, "val": n_val, "test": n_test}


def split_rows(rows: int, spec: JobSpec, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of the three parts, int64, each in the order of one permutation; stratified by `labels` (rows,) if given."""
    seed = spec.seed if spec.split.seed is None else spec.split.seed
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    if labels is None:
        sizes = part_sizes(rows, spec.split)
        end = sizes["train"] + sizes["val"]
        return order[: sizes["train"]], order[sizes["train"] : end], order[end:]
    shuffled = labels[order]
    part = torch.zeros(rows, dtype=torch.int8)  # of every place in the permutation
    for value in torch.unique(shuffled):
        places = (shuffled == value).nonzero().squeeze(1)
        sizes = part_sizes(len(places), spec.split)
        part[places[sizes["train"] : sizes["train"] + sizes["val"]]] = 1
        part[places[sizes["train"] + sizes["val"] :]] = 2
    return order[part == 0], order[part == 1], order[part == 2]


def stratified_sizes(labels: Tensor, split: Split) -> dict[str, int]:
    """Rows of each part when every class is split by itself."""
    sizes = dict.fromkeys(PARTS, 0)
    for count in label_counts(labels).tolist():
        for name, size in part_sizes(count, split).items():
            sizes[name] += size
    return sizes


def label_counts(labels: Tensor) -> Tensor:
    """How often each label that there is occurs, int64. Small whole numbers, as class labels are, need no sorting for it."""
    places = labels.long()
    if len(labels) and torch.equal(places.to(labels.dtype), labels) and 0 <= places.min() <= places.max() <= MOST_COUNTED:
        counts: Tensor = torch.bincount(places)
    else:
        counts = torch.unique(labels, return_counts=True)[1]
    return counts[counts > 0]
