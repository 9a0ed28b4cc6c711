"""The learning rate's schedule by name, nested or not, and what its constructor says."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import optim
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from jobs.catalog import catalog
from jobs.expression import ExpressionError, compiled
from jobs.scheduler_spec import OF_OTHERS, SchedulerComponent
from jobs.spec import JobSpec, SpecProblem
from workers.trainer.components import argument_problem, live_arguments
from workers.trainer.optimizers import Optimizing

EXPRESSION_POINTS = 2000  # epochs that all expressions of a schedule are tried at together


@dataclass(frozen=True)
class CompletedScheduler:
    """A scheduler with its totals filled in. It steps `steps` times, of the whole run or of its stretch of a SequentialLR."""

    component: SchedulerComponent
    arguments: dict[str, Any]
    inferred: frozenset[str]
    steps: int
    inner: tuple[CompletedScheduler, ...] = ()

    @property
    def type(self) -> str:
        return self.component.type


def steps_of(spec: JobSpec, train_rows: int) -> int:
    """How often the scheduler steps in the whole run."""
    if spec.lr_scheduler is None or spec.lr_scheduler.interval == "epoch":
        return spec.epochs
    batches = train_rows / min(spec.batch_size, train_rows)
    whole = math.floor(batches) if spec.drop_last else math.ceil(batches)
    return spec.epochs * math.ceil(whole / spec.accumulate_grad_batches)


def complete_scheduler(component: SchedulerComponent, steps: int) -> CompletedScheduler:
    """Totals that were left out are the steps there are: OneCycleLR's total_steps, CosineAnnealingLR's T_max."""
    arguments = component.arguments()
    found: dict[str, Any] = {}
    if component.type == "CosineAnnealingLR" and "T_max" not in arguments:
        found["T_max"] = steps
    counted = {"epochs", "steps_per_epoch"} <= arguments.keys()
    if component.type == "OneCycleLR" and arguments.get("total_steps") is None and not counted:
        found["total_steps"] = steps
    inner = component.schedulers()
    stretches = _stretches(arguments.get("milestones", []), steps) if component.type == "SequentialLR" else [steps] * len(inner)
    completed = tuple(complete_scheduler(i, s) for i, s in zip(inner, stretches, strict=True))
    return CompletedScheduler(component, arguments | found, frozenset(found), steps, completed)


def _stretches(milestones: list[int], steps: int) -> list[int]:
    ends = [0, *milestones, max(steps, *milestones, 1) if milestones else steps]
    return [max(1, end - start) for start, end in pairwise(ends)]


def build_scheduler(spec: JobSpec, optimizer: Optimizer, steps: int) -> tuple[LRScheduler, CompletedScheduler] | None:
    """The scheduler over `steps` steps, or None. Raises what the constructors raise, and ExpressionError."""
    if spec.lr_scheduler is None:
        return None
    completed = complete_scheduler(spec.lr_scheduler, steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "call optimizer.step() first" is about loops that a user wrote
        return _construct(completed, optimizer), completed


def _construct(completed: CompletedScheduler, optimizer: Optimizer) -> LRScheduler:
    """Inner schedulers first, in order, each over the optimizer as the one before has left it."""
    arguments = {name: _live(name, value) for name, value in completed.arguments.items()}
    if completed.type in OF_OTHERS:
        arguments["schedulers"] = [_construct(inner, optimizer) for inner in completed.inner]
    scheduler: LRScheduler = getattr(optim.lr_scheduler, completed.type)(optimizer=optimizer, **arguments)
    return scheduler


def _live(name: str, value: Any) -> Any:
    # A checkpoint leaves functions out and saves what is inside of any other callable.
    if name != "lr_lambda":
        return value
    return [compiled(text) for text in value] if isinstance(value, list) else compiled(value)


def read_back(scheduler: Any, completed: CompletedScheduler) -> dict[str, Any]:
    """Every argument as the live scheduler has it; `schedulers` are pairs of those inside and what they were made from."""
    found = live_arguments("lr_schedulers", completed.component, scheduler)
    found |= {name: completed.arguments[name] for name in completed.inferred if found.get(name) is None}
    if completed.type in OF_OTHERS:
        found["schedulers"] = list(zip(scheduler._schedulers, completed.inner, strict=True))
    return found


# ---- does it fit


def check_scheduler(
    spec: JobSpec, optimizing: Optimizing, steps: int
) -> tuple[tuple[LRScheduler, CompletedScheduler] | None, list[SpecProblem]]:
    """The scheduler, or what its constructor says. `steps` is how often it will step."""
    try:
        made = build_scheduler(spec, optimizing.optimizer, steps)
    except Exception as error:
        assert spec.lr_scheduler is not None
        return None, [argument_problem("/lr_scheduler", spec.lr_scheduler, error)]
    if made is None:
        return None, []
    problems = [*_too_short(*made, "/lr_scheduler"), *_momentum(made[1], optimizing, "/lr_scheduler"), *_without_value(made[1])]
    return (None if problems else made), problems


def _too_short(scheduler: Any, completed: CompletedScheduler, pointer: str) -> Iterator[SpecProblem]:
    """OneCycleLR fails when it steps more often than it was told."""
    total = getattr(scheduler, "total_steps", None)
    if total is not None and total < completed.steps:
        detail = f"OneCycleLR covers {total} steps, but it will be stepped {completed.steps} times"
        told = "epochs" if completed.arguments.get("total_steps") is None else "total_steps"
        yield SpecProblem(f"{pointer}/{told}", "out_of_range", detail)
    for index, inner in enumerate(completed.inner):
        yield from _too_short(scheduler._schedulers[index], inner, f"{pointer}/schedulers/{index}")


def _momentum(completed: CompletedScheduler, optimizing: Optimizing, pointer: str) -> Iterator[SpecProblem]:
    """A cycled momentum that the optimizer cannot take: a beta1 of 1, and a first one of 0 for RMSprop."""
    lowest, highest = (_cycled(completed, name, optimizing) for name in ("base_momentum", "max_momentum"))
    kind = type(optimizing.main).__name__
    for name, values in (("base_momentum", lowest), ("max_momentum", highest)):
        if values and max(values) >= 1 and "betas" in optimizing.optimizer.defaults:
            detail = f"{completed.type} moves beta1 of {kind}, which must stay below 1, but {name} is {max(values):g}"
            yield SpecProblem(f"{pointer}/{name}", "out_of_range", detail)
    if kind == "RMSprop" and any(high == 0 < low for low, high in zip(lowest, highest, strict=True)):
        detail = f"RMSprop makes room for momentum in its first step only, so {completed.type} cannot begin with max_momentum 0"
        yield SpecProblem(f"{pointer}/max_momentum", "out_of_range", detail)
    for index, inner in enumerate(completed.inner):
        yield from _momentum(inner, optimizing, f"{pointer}/schedulers/{index}")


def _cycled(completed: CompletedScheduler, name: str, optimizing: Optimizing) -> list[float]:
    """One end of the cycle of each group's momentum; nothing where the scheduler cycles none."""
    known = catalog().section("lr_schedulers")[completed.type].arguments
    if name not in known or not completed.arguments.get("cycle_momentum", True):
        return []
    value = completed.arguments.get(name, known[name].default)
    return value if isinstance(value, list) else [value] * len(optimizing.optimizer.param_groups)


def _without_value(completed: CompletedScheduler) -> list[SpecProblem]:
    """Expressions that have no value at an epoch that will come."""
    found = list(_expressions(completed, "/lr_scheduler"))
    problems = []
    for pointer, function, first, last in found:
        stride = max(1, (last - first) * len(found) // EXPRESSION_POINTS)
        try:
            for epoch in (*range(first, last + 1, stride), last):
                function(epoch)
        except ExpressionError as error:
            problems.append(SpecProblem(pointer, "out_of_range", str(error)))
    return problems


def _expressions(completed: CompletedScheduler, pointer: str) -> Iterator[tuple[str, Callable[[int], float], int, int]]:
    """Each lr_lambda with its pointer and the first and last epoch that it is asked for."""
    given = completed.arguments.get("lr_lambda")
    first = 1 if completed.type == "MultiplicativeLR" else 0
    last = max(first, completed.steps)
    if isinstance(given, str):
        yield f"{pointer}/lr_lambda", compiled(given), first, last
    for index, text in enumerate(given if isinstance(given, list) else []):
        yield f"{pointer}/lr_lambda/{index}", compiled(text), first, last
    for index, inner in enumerate(completed.inner):
        yield from _expressions(inner, f"{pointer}/schedulers/{index}")
