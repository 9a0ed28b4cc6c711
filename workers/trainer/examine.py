"""Whether the steps of a job fit one another, once the model is complete: what POST tells before anything is queued."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch.optim.lr_scheduler import LRScheduler

from jobs.spec import JobSpec, SpecProblem
from workers.trainer import fit, metrics, optimizers, schedulers, trial
from workers.trainer.data import DataDescription
from workers.trainer.model import CompletedModel
from workers.trainer.objective import Criterion
from workers.trainer.optimizers import Optimizing
from workers.trainer.param_groups import Parameters
from workers.trainer.schedulers import CompletedScheduler
from workers.trainer.weights import check_init_from, check_initializers


@dataclass(frozen=True)
class Examined:
    """Everything that is wrong, and the live objects that were built on the way, None where they could not be."""

    problems: list[SpecProblem]
    parameters: Parameters
    loss: Criterion | None
    optimizing: Optimizing | None
    scheduler: tuple[LRScheduler, CompletedScheduler] | None


def examine(spec: JobSpec, description: DataDescription, completed: CompletedModel, init_from: Path | None) -> Examined:
    """Everything that follows the model: targets, loss, optimizer, scheduler, first weights, metrics."""
    problems = fit.check_targets(spec, description)
    outputs = completed.shapes()
    loss, found = fit.check_loss(spec, description, outputs, completed.outputs) if not problems else (None, [])
    problems += found
    parameters = Parameters.of(completed.module, loss)
    optimizing, found = optimizers.check_optimizer(spec, parameters)
    problems += found
    problems += trial.check(spec, description, completed)
    problems += [*check_initializers(spec, completed.module), *check_init_from(spec, completed.module, init_from)]
    steps = schedulers.steps_of(spec, description.counts["train"])
    scheduler, found = schedulers.check_scheduler(spec, optimizing, steps) if optimizing is not None else (None, [])
    problems += found
    if loss is not None and not problems:
        problems = metrics.check(spec, description, loss, outputs, completed.outputs)
    return Examined(problems, parameters, loss, optimizing, scheduler)
