"""The stored catalog is what the installed torch says, and its rows are what the constructors take."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jobs.catalog import Entry, catalog
from workers.trainer import introspect


def test_the_stored_catalog_has_not_drifted() -> None:
    assert introspect.PATH.read_text(encoding="utf-8") == introspect.text(), "run `make catalog` and look at what changed"


def usable(section: str) -> list[Entry]:
    return [e for e in catalog().section(section).values() if e.refused is None]


def plausible(entry: Entry) -> dict[str, object]:
    """A value for every required argument."""
    values = {"integer": 2, "number": 0.5, "integers": [1, 2], "numbers": [0.1, 0.2], "string": "same", "boolean": True}
    return {n: values[next(f for f in values if f in a.forms)] for n, a in entry.arguments.items() if a.required}


def defaults(entry: Entry) -> dict[str, object]:
    return {n: a.default for n, a in entry.arguments.items() if not a.required and a.refused is None}


@pytest.mark.parametrize("entry", usable("losses"), ids=lambda e: e.name)
def test_losses_take_their_arguments(entry: Entry) -> None:
    getattr(nn, entry.name)(**defaults(entry))


@pytest.mark.parametrize("entry", usable("optimizers"), ids=lambda e: e.name)
def test_optimizers_take_their_arguments(entry: Entry) -> None:
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in defaults(entry).items()}
    getattr(torch.optim, entry.name)([nn.Parameter(torch.zeros(2))], **given)


@pytest.mark.parametrize("entry", usable("layers"), ids=lambda e: e.name)
def test_layers_take_their_arguments(entry: Entry) -> None:
    given = defaults(entry) | plausible(entry)
    if entry.name == "Upsample" or entry.name.startswith("Upsampling"):
        given = {"scale_factor": 2}
    getattr(nn, entry.name)(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


@pytest.mark.parametrize("entry", usable("lr_schedulers"), ids=lambda e: e.name)
def test_schedulers_take_their_arguments(entry: Entry) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.9)
    given = defaults(entry) | plausible(entry)
    if entry.name == "OneCycleLR":
        given["total_steps"] = 10
    getattr(torch.optim.lr_scheduler, entry.name)(optimizer, **given)
