"""The numbers of one metric as series: its own name for one number, `<name>/<class>` and the like for several (rule 8)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jobs.arguments import did_you_mean, shown
from jobs.spec import JobSpec, SpecProblem, watched_series

MAX_NUMBERS = 100  # of one metric: a confusion matrix of ten classes
MAX_SERIES = 256  # of all metrics of a spec, in each part of the data

# Metrics whose last dimension holds figures of different kinds, by a pattern of the name, and what those are called.
KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r".*StatScores", ("tp", "fp", "tn", "fn", "support")),
    *(
        (rf".*{figure}At(Fixed)?(Precision|Recall|Sensitivity|Specificity)", (figure.lower(), "threshold"))
        for figure in ("Precision", "Recall", "Sensitivity", "Specificity")
    ),
)


def figures(metric: str, value: Any) -> dict[str, float]:
    """The numbers that a metric of this class computed, by what follows its name: "" for one alone, else "/0", "/2/1", "/tp".

    Raises ValueError for more than MAX_NUMBERS, and for what is no tensor or pair of tensors.
    """
    kinds = next((names for pattern, names in KINDS if re.fullmatch(pattern, metric)), None)
    if isinstance(value, tuple | list) and kinds is not None and len(value) == len(kinds):
        value = torch.stack([torch.as_tensor(part) for part in value], -1)
    if not isinstance(value, Tensor):
        raise ValueError("it gives a curve or a table, not numbers that could each be a series")
    if value.numel() == 1:
        return {"": float(value)}
    if value.numel() > MAX_NUMBERS:
        raise ValueError(f"it gives {value.numel():,} numbers, each a series; the limit is {MAX_NUMBERS} (average them)")
    return {_path(place, kinds): float(number) for place, number in _numbers(value)}


def _numbers(value: Tensor) -> Iterator[tuple[tuple[int, ...], float]]:
    places = torch.cartesian_prod(*(torch.arange(size) for size in value.shape)).reshape(value.numel(), value.dim())
    yield from zip(map(tuple, places.tolist()), value.flatten().tolist(), strict=True)


def _path(place: tuple[int, ...], kinds: Sequence[str] | None) -> str:
    last = str(place[-1]) if kinds is None else kinds[place[-1]]
    return "".join(f"/{part}" for part in (*place[:-1], last))


def check_series(spec: JobSpec, given: Mapping[str, Sequence[str]]) -> Iterator[SpecProblem]:
    """Whether the series that rules of the spec watch will be there; `given` has of each metric what follows its name."""
    total = sum(len(found) for found in given.values())
    if total > MAX_SERIES:
        detail = f"the metrics give {total:,} numbers in all, each a series; the limit is {MAX_SERIES} (average some of them)"
        yield SpecProblem("/metrics", "out_of_range", detail)
    for pointer, watched in watched_series(spec):
        part, _, series = watched.partition("/")
        name, slash, rest = series.partition("/")
        if name in given and slash + rest not in given[name]:
            known = [f"{part}/{name}{path}" for path in given[name]]
            listed = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            detail = f"{name} has no series {shown(watched)}; there are {listed}{did_you_mean(watched, known)}"
            yield SpecProblem(pointer, "unknown_choice", detail)
