"""The learning rate's schedule by name, and what its constructor says."""

from __future__ import annotations

import warnings

from torch import optim
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from jobs.spec import JobSpec, SpecProblem
from workers.trainer.components import argument_problem
from workers.trainer.optimizers import Optimizing


def build_scheduler(spec: JobSpec, optimizer: Optimizer) -> LRScheduler | None:
    """The scheduler, or None. Raises what the constructor raises."""
    if spec.lr_scheduler is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "call optimizer.step() first" is about loops that a user wrote
        scheduler: LRScheduler = getattr(optim.lr_scheduler, spec.lr_scheduler.type)(optimizer, **spec.lr_scheduler.arguments())
    return scheduler


def check_scheduler(spec: JobSpec, optimizing: Optimizing, steps: int) -> tuple[LRScheduler | None, list[SpecProblem]]:
    """The scheduler, or what its constructor says. `steps` is how often it will step."""
    try:
        scheduler = build_scheduler(spec, optimizing.optimizer)
    except Exception as error:
        assert spec.lr_scheduler is not None
        return None, [argument_problem("/lr_scheduler", spec.lr_scheduler, error)]
    total = getattr(scheduler, "total_steps", None)
    if total is not None and total < steps:
        detail = f"OneCycleLR covers {total} steps, but it will be stepped {steps} times"
        return None, [SpecProblem("/lr_scheduler/total_steps", "out_of_range", detail)]
    return scheduler, []
