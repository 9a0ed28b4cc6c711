"""The service's loop over a module and fields made by hand, for what no Sequential on a built-in set can show."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from jobs.spec import JobSpec, parse
from workers.trainer import checkpoint
from workers.trainer.data import Batch, DataDescription, Field, Part
from workers.trainer.early_stopping import EarlyStopping
from workers.trainer.feed import Feed
from workers.trainer.loop import Position, Steps, Stopped, train
from workers.trainer.metrics import Metrics
from workers.trainer.model import Model
from workers.trainer.nonfinite import Guard
from workers.trainer.objective import build_loss, complete_loss
from workers.trainer.optimizers import build_optimizer
from workers.trainer.param_groups import Parameters
from workers.trainer.precision import Precision
from workers.trainer.recorder import Recorder
from workers.trainer.schedulers import build_scheduler, steps_of

CPU = torch.device("cpu")


@dataclass
class Bench:
    """A spec, a way to build its module, and rows. `inputs` are the fields that the module takes, `outputs` what it gives."""

    spec: dict[str, Any]
    module: Callable[[], nn.Module]
    fields: Batch
    outputs: Sequence[str] = ("output",)
    targets: Sequence[str] = ("y",)
    classes: dict[str, int] = field(default_factory=dict)
    val_rows: int = 0

    def description(self) -> DataDescription:
        rows = len(next(iter(self.fields.values())))
        described = {name: self._field(name, values) for name, values in self.fields.items()}
        inputs = {name: found for name, found in described.items() if name not in self.targets}
        counts = {"train": rows - self.val_rows, "val": self.val_rows, "test": 0}
        return DataDescription(rows, inputs, {name: described[name] for name in self.targets}, counts)

    def _field(self, name: str, values: Tensor) -> Field:
        return Field(tuple(values.shape[1:]), float(values.min()), float(values.max()), self.classes.get(name))

    def steps(self) -> Steps:
        """As workers/trainer/attempt.py builds them (rule 4)."""
        spec: JobSpec = parse(self.spec)
        description = self.description()
        count = description.counts["train"]
        whole = Part(self.fields)
        training, val = Part(whole.slice(0, count)), Part(whole.slice(count, description.rows))
        torch.manual_seed(spec.seed)
        model = Model(self.module(), list(description.inputs), self.outputs)
        tried = Model(copy.deepcopy(model.module), list(description.inputs), self.outputs)
        with torch.no_grad(), torch.random.fork_rng():
            given = tried(training.slice(0, 2))
        shapes = {name: tuple(value.shape[1:]) for name, value in given.items()}
        loss = build_loss(complete_loss(spec, description, shapes), training)
        feed = Feed(training, spec.batch_size, shuffle=spec.shuffle, drop_last=spec.drop_last, seed=spec.seed, device=CPU)
        optimizing = build_optimizer(spec, Parameters.of(model.module, loss))
        scheduler = build_scheduler(spec, optimizing.optimizer, steps_of(spec, count))
        return Steps(
            feed=feed,
            val=val,
            test=Part(whole.slice(0, 0)),
            model=model,
            loss=loss,
            optimizer=optimizing.optimizer,
            lr_series=optimizing.lr_series,
            scheduler=scheduler[0] if scheduler is not None else None,
            monitor=spec.lr_scheduler.monitor if spec.lr_scheduler else None,
            train_metrics=Metrics(spec, description, loss, CPU),
            eval_metrics=Metrics(spec, description, loss, CPU),
            precision=Precision(spec.precision, CPU),
            early_stopping=EarlyStopping(spec),
            guard=Guard(spec.on_nonfinite.type, model.module, loss, feed, scaled=spec.precision == "16-mixed", device=CPU),
            batch_size=spec.batch_size,
            epochs=spec.epochs,
            scheduler_interval=spec.lr_scheduler.interval if spec.lr_scheduler else "epoch",
            max_grad_norm=spec.max_grad_norm,
        )

    def run(self) -> Run:
        """From the first iteration to the last."""
        run = Run(self.steps())
        run.go_on()
        return run

    def run_in_two(self, stop: int) -> Run:
        """The same, left after iteration `stop` and taken up from a checkpoint's bytes in freshly built steps."""
        first = Run(self.steps())
        first.go_on(stop)
        assert first.position.iteration == stop, "it ended before it could be left"
        saved = io.BytesIO()
        torch.save(checkpoint.capture(first.steps, first.position, first.recorder), saved)
        saved.seek(0)
        second = Run(self.steps(), first.curve)
        second.position = checkpoint.restore(torch.load(saved, weights_only=True), second.steps, second.recorder)
        second.go_on()
        return second


class Run:
    """One run of the loop and its curve."""

    def __init__(self, steps: Steps, curve: dict[str, list[float]] | None = None) -> None:
        self.steps, self.position, self.curve = steps, Position(), curve if curve is not None else {}
        self.recorder = Recorder(self._keep, CPU)

    def _keep(self, points: Any) -> None:
        for name, (_, values) in points.series.items():
            self.curve.setdefault(name, []).extend(values.tolist())

    def go_on(self, stop: int | None = None) -> None:
        def why() -> str | None:
            return "give_back" if stop is not None and self.position.iteration >= stop else None

        with contextlib.suppress(Stopped):
            train(self.steps, self.position, self.recorder, why, lambda: None, lambda: None)
        self.recorder.flush()

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.steps.learned().items()}


def alike(one: Run, other: Run) -> None:
    """Two runs ended with the very same curve and weights."""
    assert one.curve == other.curve
    assert one.weights().keys() == other.weights().keys()
    assert all(torch.equal(one.weights()[name], tensor) for name, tensor in other.weights().items())
