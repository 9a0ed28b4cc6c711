"""The effective spec: every leaf says its value as the live object has it, and where it came from."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from jobs.catalog import Argument, Entry
from jobs.components import LossComponent
from jobs.spec import parse
from tests.trainer.fitting import fitting
from tests.trainer.test_check import IMAGES, MULTI, ask, spec, usable
from workers.trainer import fit
from workers.trainer.objective import target_form

# Values that no default has; by the argument's name where its own rules want more than a fraction.
UNUSUAL: dict[str, Any] = {
    "reduction": "sum",
    "weight": [0.5, 2.0, 3.5],
    "pos_weight": [2.5],
    "ignore_index": -7,
    "p": 2,
    "betas": [0.75, 0.875],
    "eps": 0.03125,
    "etas": [0.25, 1.5],
    "step_sizes": [0.0625, 25.0],
    "t0": 512.0,
    "beta2_decay": -0.5,
    "alpha": 0.625,
    "d": 2.5,
    "cutoffs": [1],
    "div_value": 3.0,
    "blank": 2,
    "in_features": 5,
    "num_classes": 3,
    "n_classes": 3,
}


def unusual(entry: Entry, argument: Argument) -> Any:
    if entry.section == "losses" and argument.name in fitting(entry.name).arguments:
        return fitting(entry.name).arguments[argument.name]
    if entry.name == "TripletMarginLoss" and argument.name == "p":
        return 3.0
    if argument.name == "weight" and target_form(LossComponent(type=entry.name)) == "binary":
        return [2.0]
    if "numbers" in argument.forms and argument.name == "eps":
        return [0.03125, 0.0625]
    if argument.name in UNUSUAL:
        return UNUSUAL[argument.name]
    return (not argument.default) if argument.forms == ("boolean",) else 0.375


def given(entry: Entry) -> dict[str, Any]:
    found = {n: unusual(entry, a) for n, a in entry.arguments.items() if a.refused is None}
    if entry.name == "SGD":
        found["dampening"] = 0.0  # nesterov's own rule
    return found


def leaves(values: dict[str, Any]) -> dict[str, Any]:
    return {name: {"value": value, "source": "given"} for name, value in values.items()}


@pytest.mark.parametrize("entry", usable("losses"), ids=lambda e: e.name)
def test_a_loss_is_read_back(entry: Entry) -> None:
    fits, values = fitting(entry.name), given(entry)
    body = parse(spec(loss={"type": entry.name, **values}))
    loss, problems = fit.check_loss(body, fits.description, fits.outputs)
    assert problems == []
    assert loss is not None
    live = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in loss.read_back().items()}
    assert {name: list(v) if isinstance(v, tuple) else v for name, v in live.items()} == values
    assert all(values[n] != a.default or a.required for n, a in entry.arguments.items() if n in values)


@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "LinearCrossEntropyLoss"])
def test_a_losss_leaves_tell_what_feeds_it_and_what_was_inferred(loss: str) -> None:
    found = ask(spec(loss={"type": loss, "weight": "balanced", "inputs": {"target": "y"}}), MULTI)["effective_spec"]["loss"]
    assert found["inputs"] == {
        "input": {"value": "output", "source": "default"},
        "target": {"value": "y", "source": "given"},
    }
    assert found["weight"] == {"value": "balanced", "source": "given"}  # the trainer's has the numbers
    if loss == "LinearCrossEntropyLoss":
        assert found["in_features"] == found["num_classes"] == {"value": 3, "source": "inferred"}


@pytest.mark.parametrize("entry", usable("optimizers"), ids=lambda e: e.name)
def test_an_optimizer_is_read_back(entry: Entry) -> None:
    values = given(entry)
    found = ask(spec(optimizer={"type": entry.name, **values}, lr_scheduler={"type": "LinearLR"}), MULTI)
    assert found["problems"] == []
    assert found["effective_spec"]["optimizer"] == {"type": {"value": entry.name, "source": "given"}, **leaves(values)}


@pytest.mark.parametrize("entry", usable("optimizers"), ids=lambda e: e.name)
def test_what_was_left_out_is_torchs_default(entry: Entry) -> None:
    found = ask(spec(optimizer=entry.name), MULTI)["effective_spec"]["optimizer"]
    assert {leaf["source"] for name, leaf in found.items() if name != "type"} == {"default"}
    assert found["lr"]["value"] == entry.arguments["lr"].default


def test_plain_fields_and_inferred_sizes_tell_their_source() -> None:
    body = spec(seed=0, split={"train": 0.5, "val": 0.5})
    body["model"]["layers"].insert(0, "Flatten")
    found = ask(body, IMAGES)["effective_spec"]
    assert list(found) == list(type(parse(body)).model_fields)
    assert found["seed"] == {"value": 0, "source": "given"}
    assert found["shuffle"] == {"value": True, "source": "default"}
    assert found["split"]["val"] == {"value": 0.5, "source": "given"}
    assert found["split"]["test"] == {"value": 0.0, "source": "default"}
    assert found["model"]["layers"][1]["in_features"] == {"value": 64, "source": "inferred"}
    assert found["model"]["layers"][1]["out_features"] == {"value": 3, "source": "given"}
    assert found["model"]["layers"][1]["bias"] == {"value": True, "source": "default"}
    assert found["lr_scheduler"] == {"value": None, "source": "default"}
