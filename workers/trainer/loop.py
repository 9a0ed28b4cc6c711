"""Step 4, the loop: for every epoch, for every batch: forward, loss, zero_grad, backward, step.

It knows nobody: what it measures goes to `report`, whether to go on it asks `should_stop`, and between two iterations it calls
`rest`, where its caller may send points and save a checkpoint. Order and meaning follow rules 5 to 8 of "What `seed` means".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from workers.protocol import Incident
from workers.trainer.data import Batch, Part, size
from workers.trainer.early_stopping import EarlyStopping
from workers.trainer.feed import Feed
from workers.trainer.metrics import Metrics
from workers.trainer.model import Model
from workers.trainer.nonfinite import ROLLBACK, Diverged, Guard
from workers.trainer.objective import Criterion
from workers.trainer.precision import Precision
from workers.trainer.updates import LeftOut, look_at_weights, may_step, scaled

ShouldStop = Callable[[], str | None]  # None, or why: "cancel", "timeout", "pause" or "give_back"
# Reasons to stop and go on later from the very place: only between two iterations.
TO_GO_ON = ("pause", "give_back")


class Stopped(Exception):
    """`should_stop` said so; `why` is its answer. For one of TO_GO_ON the run stands between two iterations."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Report(Protocol):
    """Where points go (workers/trainer/recorder.py)."""

    def add(self, name: str, iteration: int, value: float | Tensor) -> None: ...
    def incident(self, incident: Incident) -> None: ...
    @property
    def up_to_date(self) -> bool: ...
    def progressed(self, epoch: int, iteration: int, samples: int) -> None: ...
    def epoch_mean(self) -> float: ...
    def new_epoch(self) -> None: ...


@dataclass
class Steps:
    """The first three of the four steps, built and on their device."""

    feed: Feed
    val: Part  # without rows when there is no such part, on the device like `test`
    test: Part
    model: Model
    loss: Criterion
    optimizer: Optimizer
    lr_series: list[str]  # one for each of the optimizer's groups
    scheduler: LRScheduler | None
    train_metrics: Metrics
    eval_metrics: Metrics
    precision: Precision
    early_stopping: EarlyStopping
    guard: Guard
    batch_size: int
    epochs: int
    scheduler_interval: str = "epoch"  # or "iteration"
    monitor: str | None = None  # the series that ReduceLROnPlateau sees; None for the score that decides what is best
    max_grad_norm: float | None = None
    accumulate: int = 1  # batches whose gradients make one iteration

    @property
    def iterations_per_epoch(self) -> int:
        """The last one may have fewer batches than the others."""
        return -(-self.feed.batches // self.accumulate)

    @property
    def iterations(self) -> int:
        """Of the whole run, unless it stops early."""
        return self.epochs * self.iterations_per_epoch

    def parameters(self) -> list[nn.Parameter]:
        """Everything that may learn: the model's, then the loss's own."""
        return [*self.model.module.parameters(), *self.loss.module.parameters()]

    def learned(self) -> dict[str, Tensor]:
        """The model's parameters and buffers, and the loss's own parameters as `loss.<name>`."""
        return self.model.module.state_dict() | dict(self.loss.parameters())

    def groups(self, done: int) -> Iterator[Iterator[Batch]]:
        """The epoch under way, from its iteration `done` + 1 on: the batches of each iteration."""
        batches = self.feed.epoch(done * self.accumulate)
        for _ in range(done, self.iterations_per_epoch):
            yield islice(batches, self.accumulate)
        next(batches, None)  # the feed learns that its epoch is over


@dataclass
class Position:
    """How far a run has come."""

    epochs: int = 0
    within: int = 0  # iterations of an epoch that has not ended
    iteration: int = 0
    best: float = math.inf  # lowest val/loss so far, or mean train/loss of an epoch where there is no validation part
    stopped: str | None = None  # why it stopped early
    finished: bool = False
    skipped: int = 0  # iterations of the epoch under way that made no update
    rollbacks: int = 0  # so far
    lr_scale: float = 1.0  # what every step's learning rate is multiplied by, after rollbacks
    left_out: list[int] = field(default_factory=list)  # iterations to come that make no update, after rollbacks

    @property
    def epoch(self) -> int:
        """The epoch that the last iteration belongs to, counted from 1."""
        return self.epochs + (self.within > 0)


def train(
    steps: Steps,
    position: Position,
    report: Report,
    should_stop: ShouldStop,
    rest: Callable[[], None],
    keep_best: Callable[[], None],
) -> None:
    """Trains from `position` to the end. Raises Stopped, Diverged and RolledBack, and whatever torch raises."""
    while position.epochs < steps.epochs and position.stopped is None:
        for batches in steps.groups(position.within):
            iterate(steps, position, report, batches)
            if position.within < steps.iterations_per_epoch:
                rest()
                _stop_if(should_stop())
        end_epoch(steps, position, report, should_stop, keep_best)
        if position.epochs < steps.epochs and position.stopped is None:
            rest()
            _stop_if(should_stop())
    if not position.finished:
        evaluate(steps, steps.test, "test", position.iteration, report, should_stop)
        position.finished = True
        rest()


def iterate(steps: Steps, position: Position, report: Report, batches: Iterator[Batch]) -> None:
    """One iteration: one update of the parameters on one batch, or on the gradients of several (rule 6)."""
    steps.guard.begin(position.iteration, up_to_date=report.up_to_date)
    number = position.iteration + 1
    position.iteration, position.within = number, position.within + 1
    for name, group in zip(steps.lr_series, steps.optimizer.param_groups, strict=True):
        report.add(name, number, float(group["lr"]) * position.lr_scale)
    if isinstance(steps.optimizer, LBFGS):
        losses = [_closure_step(steps, position, report, batch) for batch in batches]
    else:
        losses = [_gradients(steps, position, report, batch, index) for index, batch in enumerate(batches)]
        report.add("train/loss", number, mean(losses))
        if may_step(steps, position, report):
            _step(steps, position, report)
    if steps.scheduler is not None and steps.scheduler_interval == "iteration":
        _advance(steps.scheduler, losses[-1])


def _gradients(steps: Steps, position: Position, report: Report, batch: Batch, index: int) -> Tensor:
    """Forward, loss and backward on one batch of an iteration; its loss, undivided."""
    report.progressed(position.epoch, position.iteration, size(batch))
    with steps.precision.autocast():
        outputs = steps.model(batch)
        loss = steps.loss(outputs, batch)
    if index == 0:
        steps.optimizer.zero_grad()
    if steps.guard.accepts(loss, outputs, batch, (position.within - 1) * steps.accumulate + index):
        steps.precision.backward(loss if steps.accumulate == 1 else loss / steps.accumulate)
        steps.train_metrics.update(outputs, batch)
    return loss.detach()


def _step(steps: Steps, position: Position, report: Report) -> None:
    """Clipping and the optimizer's step."""
    if steps.max_grad_norm is not None:
        steps.precision.unscale(steps.optimizer)
        report.add("grad_norm", position.iteration, nn.utils.clip_grad_norm_(steps.parameters(), steps.max_grad_norm))
    if position.lr_scale == 1:
        steps.precision.step(steps.optimizer)
        return
    with scaled(steps.optimizer, position.lr_scale):
        steps.precision.step(steps.optimizer)


def _closure_step(steps: Steps, position: Position, report: Report, batch: Batch) -> Tensor:
    """One step of LBFGS, which evaluates the loss as often as it wants; the loss of its first evaluation."""
    report.progressed(position.epoch, position.iteration, size(batch))
    seen: list[Tensor] = []

    def closure() -> Tensor:
        steps.optimizer.zero_grad()
        with steps.precision.autocast():
            outputs = steps.model(batch)
            loss = steps.loss(outputs, batch)
        first = not seen
        seen.append(loss.detach())
        if not first or steps.guard.accepts(loss, outputs, batch, position.within - 1):
            steps.precision.backward(loss)
            if first:
                steps.train_metrics.update(outputs, batch)
        if first:
            report.add("train/loss", position.iteration, seen[0])
            if not may_step(steps, position, report):
                raise LeftOut
        return loss

    with suppress(LeftOut), scaled(steps.optimizer, position.lr_scale):
        steps.optimizer.step(closure)  # type: ignore[arg-type]
    return seen[0]


def mean(losses: Sequence[Tensor]) -> Tensor:
    """The only loss as it is; of several the float64 mean, summed in order, on their device."""
    if len(losses) == 1:
        return losses[0]
    total = losses[0].double()
    for loss in losses[1:]:
        total = total + loss.double()
    return total / len(losses)


def end_epoch(steps: Steps, position: Position, report: Report, should_stop: ShouldStop, keep_best: Callable[[], None]) -> None:
    """The epoch's metrics, validation, scheduler, best weights and early stopping, in this order."""
    measured = {"train/loss": report.epoch_mean()}
    measured |= _report_metrics(steps.train_metrics, "train", position.iteration, report)
    measured |= evaluate(steps, steps.val, "val", position.iteration, report, should_stop)
    if steps.guard.strict:
        look_at_weights(steps, position, measured)
    score = measured.get("val/loss", measured["train/loss"])
    if steps.scheduler is not None and steps.scheduler_interval == "epoch":
        _advance(steps.scheduler, score if steps.monitor is None else measured[steps.monitor])
    if score < position.best and math.isfinite(score):
        position.best = score
        keep_best()
    report.new_epoch()
    position.epochs, position.within, position.skipped = position.epochs + 1, 0, 0
    position.stopped = steps.early_stopping.observe(measured)


def evaluate(steps: Steps, part: Part, name: str, iteration: int, report: Report, should_stop: ShouldStop) -> dict[str, float]:
    """`<name>/loss` and `<name>/<metric>` of a part, batches in order (rule 7). Nothing for a part without rows.

    A loss that is not finite makes every metric of the part NaN, and raises Diverged unless `skip` or `rollback` have a way to
    go on. Raises Stopped for any reason but TO_GO_ON: a validation is not left halfway.
    """
    if not len(part):
        return {}
    total = 0.0
    with _inference(steps.model.module):
        for start in range(0, len(part), steps.batch_size):
            batch = part.slice(start, start + steps.batch_size)
            why = should_stop()
            _stop_if(None if why in TO_GO_ON else why)
            with steps.precision.autocast():
                outputs = steps.model(batch)
                value = float(steps.loss(outputs, batch))
            total += value if steps.loss.reduction == "sum" else value * size(batch)
            if math.isfinite(total):
                steps.eval_metrics.update(outputs, batch)
        loss = total / len(part)
        report.add(f"{name}/loss", iteration, loss)
        metrics = _report_metrics(steps.eval_metrics, name, iteration, report, defined=math.isfinite(loss))
    if not math.isfinite(loss) and (not steps.guard.strict or (name == "test" and steps.guard.action == ROLLBACK)):
        raise Diverged(f"{name}/loss became {loss} after iteration {iteration}", iteration + 1)
    return {f"{name}/loss": loss, **metrics}


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients. Layers that draw even then (FractionalMaxPool2d) leave the generators as they were."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(list(devices)):
            yield
    finally:
        model.train()


def _report_metrics(metrics: Metrics, part: str, iteration: int, report: Report, *, defined: bool = True) -> dict[str, float]:
    found = metrics.compute() if defined else dict.fromkeys(metrics.names, math.nan)
    values = {f"{part}/{name}": value for name, value in found.items()}
    for name, value in values.items():
        report.add(name, iteration, value)
    metrics.reset()
    return values


def _advance(scheduler: LRScheduler, score: Any) -> None:
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(score)
    else:
        scheduler.step()


def _stop_if(why: str | None) -> None:
    if why is not None:
        raise Stopped(why)
