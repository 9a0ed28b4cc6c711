"""The stored catalog is what the installed torch says, and what it lets through, the constructors take."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torchmetrics
from torch import nn, optim

from jobs.catalog import Entry, catalog
from workers.trainer import introspect
from workers.trainer.figures import figures
from workers.trainer.layers import construct

# Values for required arguments; a size that is too small for a class's own rules has a line of its own.
SAMPLES: dict[str, Any] = {
    "integer": 2,
    "number": 0.5,
    "integers": [2, 2],
    "numbers": [0.1, 0.2],
    "string": "macro",
    "boolean": True,
}
OWN: dict[str, dict[str, Any]] = {
    "AdaptiveLogSoftmaxWithLoss": {"n_classes": 4, "cutoffs": [1, 2]},
    "MinkowskiDistance": {"p": 2},
    "FractionalMaxPool2d": {"output_size": 2},
    "FractionalMaxPool3d": {"output_size": 2},
    "OneCycleLR": {"total_steps": 10},
    "TransformerDecoder": {"decoder_layer": {"type": "TransformerDecoderLayer", "d_model": 2, "nhead": 2}},
    "TransformerEncoder": {"encoder_layer": {"type": "TransformerEncoderLayer", "d_model": 2, "nhead": 2}},
    "Upsample": {"scale_factor": 2},
    "UpsamplingBilinear2d": {"scale_factor": 2},
    "UpsamplingNearest2d": {"scale_factor": 2},
}


def usable(*sections: str) -> list[Entry]:
    return [e for section in sections for e in catalog().section(section).values() if e.refused is None]


def arguments(entry: Entry) -> dict[str, Any]:
    """Every usable argument: its default, or a sample where it is required."""
    given: dict[str, Any] = {}
    for name, argument in entry.usable().items():
        sample = argument.required or name == "num_classes"  # which the trainer always fills in
        given[name] = SAMPLES[next((f for f in SAMPLES if f in argument.forms), "integer")] if sample else argument.default
    given |= OWN.get(entry.name, {})
    return {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}


def test_the_stored_catalog_has_not_drifted() -> None:
    assert introspect.PATH.read_text(encoding="utf-8") == introspect.text(), "run `python -m workers.trainer.introspect`"


@pytest.mark.parametrize("entry", usable("losses"), ids=lambda e: e.name)
def test_losses_take_their_arguments(entry: Entry) -> None:
    getattr(nn, entry.name)(**arguments(entry))


@pytest.mark.parametrize("entry", [e for e in usable("layers") if e.name != "Sequential"], ids=lambda e: e.name)
def test_layers_take_their_arguments(entry: Entry) -> None:
    assert type(construct(entry.name, arguments(entry))).__name__ == entry.name


@pytest.mark.parametrize("entry", usable("initializers"), ids=lambda e: e.name)
def test_initialisers_take_their_arguments(entry: Entry) -> None:
    getattr(nn.init, entry.name)(torch.empty(2, 2, 3) if entry.name == "dirac_" else torch.empty(2, 2), **arguments(entry))


@pytest.mark.parametrize("entry", usable("optimizers"), ids=lambda e: e.name)
def test_optimizers_take_their_arguments(entry: Entry) -> None:
    getattr(optim, entry.name)([nn.Parameter(torch.zeros(2, 2))], **arguments(entry))


@pytest.mark.parametrize("entry", usable("lr_schedulers"), ids=lambda e: e.name)
def test_schedulers_take_their_arguments(entry: Entry) -> None:
    optimizer = optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.9)
    inner = [optim.lr_scheduler.ConstantLR(optimizer)] * 2
    own = {"schedulers": inner, "milestones": [2], "lr_lambda": lambda epoch: 0.5**epoch}
    given = arguments(entry)
    getattr(optim.lr_scheduler, entry.name)(optimizer=optimizer, **given | {n: v for n, v in own.items() if n in given})


@pytest.mark.parametrize("entry", usable("metrics"), ids=lambda e: e.name)
def test_metrics_take_their_arguments(entry: Entry) -> None:
    module = next(m for m in (torchmetrics.classification, torchmetrics.regression) if hasattr(m, entry.name))
    getattr(module, entry.name)(**arguments(entry))


TASKS = {
    "Binary": ({}, torch.tensor([0.9, 0.2, 0.6]), torch.tensor([1, 0, 1])),
    "Multiclass": ({"num_classes": 3}, torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]), torch.arange(3)),
    "Multilabel": (
        {"num_labels": 2},
        torch.tensor([[0.7, 0.2], [0.1, 0.8], [0.4, 0.6]]),
        torch.tensor([[1, 0], [0, 1], [1, 1]]),
    ),
}


@pytest.mark.parametrize("entry", [e for e in usable("metrics") if e.name.startswith(tuple(TASKS))], ids=lambda e: e.name)
def test_every_average_of_a_class_metric_gives_numbers_with_names(entry: Entry) -> None:
    sizes, outputs, targets = next(made for task, made in TASKS.items() if entry.name.startswith(task))
    average = entry.arguments.get("average")
    for given in average.choices if average is not None else [None]:
        more = {} if given is None else {"average": given}
        if entry.name == "MulticlassExactMatch":
            outputs, targets = outputs[:, :, None], targets[:, None]
        metric = getattr(torchmetrics.classification, entry.name)(**arguments(entry) | sizes | more)
        metric.update(outputs, targets)
        found = figures(entry.name, metric.compute())
        assert all(re.fullmatch(r"(/[a-z0-9]+)*", path) for path in found)
        assert ("" in found) == (len(found) == 1)
        if given == "none":  # one of each class or label, of StatScores five
            assert {path.split("/")[1] for path in found} == set(map(str, range(next(iter(sizes.values()))))), found
