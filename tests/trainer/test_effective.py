"""The effective spec: every leaf says its value as the live object has it, and where it came from."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from jobs.catalog import Argument, Entry
from jobs.components import LossComponent
from jobs.spec import parse
from tests.trainer.fitting import fitting, parameters_for
from tests.trainer.test_check import IMAGES, MULTI, ask, spec, usable
from workers.trainer import fit, optimizers
from workers.trainer.objective import target_form
from workers.trainer.schedulers import build_scheduler

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
    "max_iter": 7,
    "max_eval": 9,
    "history_size": 5,
    "line_search_fn": "strong_wolfe",
    "ns_steps": 4,
    "ns_coefficients": [3.0, -4.0, 2.0],
    "adjust_lr_fn": "match_rms_adamw",
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
    """Each argument of the optimizer, and each given to one group only, where the scheduler has moved the live rate already."""
    values = given(entry)
    assert all(
        values[n] != a.default for n, a in entry.arguments.items() if n in values and (entry.name, n) != ("SGD", "dampening")
    )
    groups = [{"params": "*weight", **values}]
    for body in ({"type": entry.name, **values}, {"type": entry.name, "param_groups": groups}):
        read = parse(spec(optimizer=body, lr_scheduler={"type": "LinearLR"}))
        made, problems = optimizers.check_optimizer(read, parameters_for(entry.name))
        if entry.name == "LBFGS" and "param_groups" in body:
            assert "parameter groups" in problems[0].detail
            continue
        assert made is not None, problems
        build_scheduler(read, made.optimizer, 20)
        live = optimizers.read_back(read, made)["0" if "param_groups" in body else ""]
        assert {name: list(v) if isinstance(v, tuple) else v for name, v in live.items()} == values


@pytest.mark.parametrize("entry", usable("optimizers"), ids=lambda e: e.name)
def test_what_was_left_out_is_torchs_default(entry: Entry) -> None:
    read = parse(spec(optimizer=entry.name))
    made, _ = optimizers.check_optimizer(read, parameters_for(entry.name))
    assert made is not None
    live = optimizers.read_back(read, made)[""]
    derived = {"max_eval": 25} if entry.name == "LBFGS" else {}  # max_iter * 5 // 4
    defaults = {name: argument.default for name, argument in entry.usable().items()} | derived
    assert {name: list(v) if isinstance(v, tuple) else v for name, v in live.items()} == defaults


def test_an_optimizers_leaves_tell_groups_and_rest() -> None:
    body = {
        "type": "Muon",
        "lr": 0.02,
        "param_groups": [{"params": "0.weight", "lr": 0.5}, {"params": "1", "frozen": True}],
        "rest": {"type": "AdamW", "lr": 0.25},
    }
    layers = [{"type": "Linear", "out_features": n} for n in (4, 5, 3)]
    found = ask(spec(optimizer=body, model={"type": "Sequential", "layers": layers}), MULTI)
    assert found["parameters"] == {"total": 20 + 25 + 18, "trainable": 20 + 18}
    told = found["effective_spec"]["optimizer"]
    assert told["lr"] == {"value": 0.02, "source": "given"}
    assert told["momentum"] == {"value": 0.95, "source": "default"}
    assert [group["params"]["value"] for group in told["param_groups"]] == [["0.weight"], ["1"]]
    assert [group["frozen"]["value"] for group in told["param_groups"]] == [False, True]
    assert told["param_groups"][0]["lr"] == {"value": 0.5, "source": "given"}
    assert told["param_groups"][0]["momentum"] == {"value": 0.95, "source": "default"}
    assert told["rest"]["type"] == {"value": "AdamW", "source": "given"}
    assert told["rest"]["lr"] == {"value": 0.25, "source": "given"}
    assert told["rest"]["params"] == {"value": ["0.bias", "2.bias"], "source": "inferred"}


SCHEDULED: dict[str, Any] = {
    "milestones": [3, 7],
    "base_lr": 0.03125,
    "max_lr": 0.75,
    "lr_lambda": "0.5 ** epoch",
    "mode": "max",
    "CyclicLR.mode": "triangular2",
    "threshold_mode": "abs",
    "anneal_strategy": "linear",
    "schedulers": ["ConstantLR", "LinearLR"],
    "SequentialLR.milestones": [4],
    "start_factor": 0.5,
    "total_steps": 96,
}


@pytest.mark.parametrize("entry", usable("lr_schedulers"), ids=lambda e: e.name)
def test_a_scheduler_is_read_back(entry: Entry) -> None:
    """Each argument that was given, from the live object where it keeps it."""
    values = {n: SCHEDULED.get(f"{entry.name}.{n}", SCHEDULED.get(n, of_form(a))) for n, a in entry.usable().items()}
    if entry.name == "OneCycleLR":
        values |= {"epochs": None, "steps_per_epoch": None}
    values = {name: value for name, value in values.items() if value is not None}
    found = ask(spec(optimizer={"type": "SGD", "momentum": 0.5}, lr_scheduler={"type": entry.name, **values}), MULTI)
    assert found["problems"] == []
    told = found["effective_spec"]["lr_scheduler"]
    inner = values.pop("schedulers", None)
    assert {name: told[name] for name in values} == leaves(values)
    assert inner is None or [scheduler["type"]["value"] for scheduler in told["schedulers"]] == inner


def of_form(argument: Argument) -> Any:
    """A value of the argument's form that is not its default."""
    if argument.forms == ("boolean",):
        return not argument.default
    return 0.375 if "number" in argument.forms else 6


def leaves(values: dict[str, Any]) -> dict[str, Any]:
    return {name: {"value": value, "source": "given"} for name, value in values.items()}


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
