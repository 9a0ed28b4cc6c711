"""Step 3, its second half: optimizer and scheduler by name, and what their constructors say."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from torch import nn, optim
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from jobs.spec import JobSpec, SpecProblem
from workers.trainer.components import argument_problem


def build_optimizer(spec: JobSpec, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimizer; lists become tuples, as in `betas=(0.9, 0.999)`. Raises what the constructor raises."""
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.optimizer.arguments().items()}
    optimizer: Optimizer = getattr(optim, spec.optimizer.type)(parameters, **arguments)
    return optimizer


def build_scheduler(spec: JobSpec, optimizer: Optimizer) -> LRScheduler | None:
    """The scheduler, or None. Raises what the constructor raises."""
    if spec.lr_scheduler is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "call optimizer.step() first" is about loops that a user wrote
        scheduler: LRScheduler = getattr(optim.lr_scheduler, spec.lr_scheduler.type)(optimizer, **spec.lr_scheduler.arguments())
    return scheduler


def check_optimizer(
    spec: JobSpec, parameters: list[nn.Parameter], steps: int
) -> tuple[Optimizer | None, LRScheduler | None, list[SpecProblem]]:
    """Optimizer and scheduler, or what their constructors say. `steps` is how often the scheduler will step."""
    if not parameters:
        return (
            None,
            None,
            [SpecProblem("/model/layers", "out_of_range", "no layer has parameters, so there is nothing to train")],
        )
    try:
        optimizer = build_optimizer(spec, parameters)
    except Exception as error:
        return None, None, [argument_problem("/optimizer", spec.optimizer, error)]
    try:
        scheduler = build_scheduler(spec, optimizer)
    except Exception as error:
        assert spec.lr_scheduler is not None
        return optimizer, None, [argument_problem("/lr_scheduler", spec.lr_scheduler, error)]
    total = getattr(scheduler, "total_steps", None)
    if total is not None and total < steps:
        detail = f"OneCycleLR covers {total} steps, but it will be stepped {steps} times"
        return optimizer, None, [SpecProblem("/lr_scheduler/total_steps", "out_of_range", detail)]
    return optimizer, scheduler, []
