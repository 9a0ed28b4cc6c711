"""Schedules that would end a run in the middle: a momentum the optimizer cannot take, and a cycle that is over too soon."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jobs.spec import parse
from tests.trainer.test_check import MULTI, spec
from tests.trainer.test_values import pointers
from workers.trainer import optimizers, schedulers
from workers.trainer.param_groups import Parameters

CYCLIC: dict[str, Any] = {"type": "CyclicLR", "base_lr": 1e-3, "max_lr": 1e-2, "step_size_up": 4}
ONE: dict[str, Any] = {"type": "OneCycleLR", "max_lr": 1e-2}
CYCLES = [CYCLIC, ONE]


def steps(optimizer: str, scheduler: dict[str, Any]) -> bool:
    """Whether torch gets through 20 steps."""
    body = parse(spec(optimizer=optimizer, lr_scheduler=scheduler))
    parameters = Parameters([("weight", torch.nn.Parameter(torch.ones(3)))])
    made = optimizers.build_optimizer(body, parameters)
    found = schedulers.build_scheduler(body, made.optimizer, 20)
    assert found is not None
    try:
        for _ in range(19):
            parameters.named[0][1].grad = torch.ones(3)
            made.optimizer.step()
            found[0].step()
    except (KeyError, ZeroDivisionError):
        return False
    return True


@pytest.mark.parametrize("cycle", CYCLES, ids=lambda c: c["type"])
@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "NAdam", "RMSprop", "SGD"])
@pytest.mark.parametrize(
    ("low", "high", "betas", "rmsprop"),
    [(0.5, 0.9, "", ""), (0, 0, "", ""), (0.5, 1, "max", ""), (1, 0.5, "base", ""), (0.5, 0, "", "max"), (0, 0.5, "", "")],
)
def test_a_momentum_is_cycled_within_what_the_optimizer_takes(
    cycle: dict[str, Any], optimizer: str, low: float, high: float, betas: str, rmsprop: str
) -> None:
    scheduler = {**cycle, "base_momentum": low, "max_momentum": high}
    refused = {"RMSprop": rmsprop, "SGD": ""}.get(optimizer, betas)
    assert pointers(spec(optimizer=optimizer, lr_scheduler=scheduler), MULTI) == (
        [f"/lr_scheduler/{refused}_momentum"] if refused else []
    )
    assert refused or steps(optimizer, scheduler)
    still = {**scheduler, "cycle_momentum": False}
    assert pointers(spec(optimizer=optimizer, lr_scheduler=still), MULTI) == []


@pytest.mark.parametrize(("optimizer", "high"), [("Adam", 1), ("RMSprop", 0)])
def test_torch_fails_where_a_cycle_is_refused(optimizer: str, high: float) -> None:
    assert not steps(optimizer, {**CYCLIC, "base_momentum": 0.5, "max_momentum": high})


def test_a_cycle_inside_a_sequence_is_looked_at() -> None:
    scheduler = {"type": "SequentialLR", "milestones": [5], "schedulers": ["ConstantLR", {**ONE, "max_momentum": 1}]}
    assert pointers(spec(optimizer="Adam", lr_scheduler=scheduler), MULTI) == ["/lr_scheduler/schedulers/1/max_momentum"]


@pytest.mark.parametrize(
    ("told", "member"), [({"total_steps": 5}, "total_steps"), ({"epochs": 5, "steps_per_epoch": 1}, "epochs")]
)
def test_too_few_steps_are_told_at_a_member_of_the_body(told: dict[str, int], member: str) -> None:
    body = spec(optimizer={"type": "SGD", "momentum": 0.9}, lr_scheduler={**ONE, **told})
    assert pointers(body, MULTI) == [f"/lr_scheduler/{member}"]
