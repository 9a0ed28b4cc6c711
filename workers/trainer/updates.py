"""Whether an iteration's update may be made: what `skip` and `rollback` decide, in each iteration and at an epoch's end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch.optim import Optimizer

from workers.protocol import Incident
from workers.trainer.nonfinite import NAMED_ROWS, ROLLBACK, Diverged, Fault, Place, RolledBack

if TYPE_CHECKING:
    from workers.trainer.loop import Position, Report, Steps


class LeftOut(Exception):
    """The step of LBFGS that is under way must not change anything."""


def may_step(steps: Steps, position: Position, report: Report) -> bool:
    """Whether the iteration makes its update; what forward has left in the buffers is gone if it does not.

    Raises RolledBack, and Diverged where skipping is no way to go on.
    """
    finite, left_out = steps.guard.agrees(), position.iteration in position.left_out
    if finite and not left_out:
        return True
    if not finite:
        fault = steps.guard.fault(_place(steps, position))
        if not (left_out and fault.iteration == position.iteration):
            _begin_to_leave_out(steps, position, report, fault)
    steps.guard.undo()
    position.skipped += 1
    if position.skipped == steps.iterations_per_epoch:
        text = f"no iteration of epoch {position.epoch} could make its update"
        raise Diverged(text, position.iteration)
    return False


def _begin_to_leave_out(steps: Steps, position: Position, report: Report, fault: Fault) -> None:
    """Skips now, or goes back to leave it out the next time."""
    if steps.guard.action == ROLLBACK:
        raise RolledBack(fault, fault.iteration)
    if fault.iteration < position.iteration:
        raise Diverged(f"{fault}; to skip a batch is no help then", position.iteration)
    report.incident(Incident("skipped", f"no update: {fault}", position.iteration, list(fault.rows[:NAMED_ROWS])))


def look_at_weights(steps: Steps, position: Position, measured: Mapping[str, float]) -> None:
    """After an epoch's validation: no epoch ends with weights that are not finite. Raises Diverged and RolledBack."""
    iteration, loss = position.iteration, measured.get("val/loss", 0.0)
    broken = steps.guard.broken()
    if broken is not None:
        fault = steps.guard.after_update(_place(steps, position), broken)
        if steps.guard.action == ROLLBACK:
            raise RolledBack(fault, iteration)
        raise Diverged(f"{fault}; to skip a batch is no help then", iteration + 1)
    if steps.guard.action == ROLLBACK and not math.isfinite(loss):
        raise RolledBack(Fault(iteration, f"val/loss became {loss} after iteration {iteration}"), None)


def _place(steps: Steps, position: Position) -> Place:
    return Place(position.iteration, position.within, steps.accumulate)


@contextmanager
def scaled(optimizer: Optimizer, scale: float) -> Iterator[None]:
    """The learning rates times `scale`, for one step: a schedule goes on from what they were."""
    before = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * scale
    try:
        yield
    finally:
        for group, lr in zip(optimizer.param_groups, before, strict=True):
            group["lr"] = lr
