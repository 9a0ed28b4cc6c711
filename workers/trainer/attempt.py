"""One attempt at one job, from an assignment to its last word: builds the four steps, resumes, trains, saves.

`run` never raises for a fault of the job: every fault becomes one Ended message, and its traceback goes to the job's log.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from jobs.spec import InvalidSpec, JobSpec, parse
from workers.protocol import Assignment, Channel, Checkpointed, Ended, Incident, Started, suspect_of
from workers.trainer import checkpoint, own_data
from workers.trainer.artifacts import LAST, Artifacts, CannotWrite
from workers.trainer.brought import completed_model
from workers.trainer.checkpoint import Checkpoints
from workers.trainer.control import Control, SupervisorGone
from workers.trainer.data import DataDescription, InvalidData, Part, describe, load
from workers.trainer.early_stopping import EarlyStopping
from workers.trainer.effective import effective_spec
from workers.trainer.environment import changes, environment
from workers.trainer.examine import examine
from workers.trainer.feed import Feed
from workers.trainer.last_finite import finite
from workers.trainer.loop import TO_GO_ON, Position, Steps, Stopped, train
from workers.trainer.metrics import Metrics
from workers.trainer.model import BuildProblem, CompletedModel, build
from workers.trainer.nonfinite import FAIL, Diverged, Guard, Place, RolledBack
from workers.trainer.objective import build_loss, complete_loss
from workers.trainer.optimizers import build_optimizer
from workers.trainer.own_fields import settled
from workers.trainer.param_groups import Parameters
from workers.trainer.precision import Precision
from workers.trainer.recorder import Recorder
from workers.trainer.rollback import Anchor
from workers.trainer.schedulers import build_scheduler, steps_of
from workers.trainer.source import SourceProblem
from workers.trainer.weights import initialize, take_over

MESSAGE_CHARACTERS = 2000
OVER = ("succeeded", "failed", "cancelled")  # no later attempt will want the rows of a user's own data set
MAX_UNSAVED_TOLD = 20  # each is an event; the log has them all


def run(assignment: Assignment, channel: Channel) -> None:
    """Trains and sends Started, Points, Checkpointed and exactly one Ended. Says nothing more once the supervisor is gone."""
    control = Control(channel)
    try:
        ended = _outcome(assignment, control)
        if ended.state in OVER and assignment.source_file is not None:
            own_data.discard(Path(assignment.dataset))
        control.send(ended)
    except SupervisorGone:
        print("the supervisor is gone; this attempt ends here", file=sys.stderr)


def _outcome(assignment: Assignment, control: Control) -> Ended:
    """The attempt's last word, whatever happens in it. Raises SupervisorGone only."""
    try:
        return Attempt(assignment, control).run()
    except SupervisorGone:
        raise
    except (InvalidSpec, InvalidData, BuildProblem) as error:
        first = error.problems[0]
        reason = "invalid_data" if isinstance(error, InvalidData) else "invalid_spec"
        return Ended("failed", reason, _short(first.detail), first.pointer)
    except SourceProblem as error:  # its traceback is in the log already
        return Ended("failed", "error", _short(str(error)), error.problems[0].pointer)
    except CannotWrite as error:
        return Ended("failed", "error", _short(str(error)))
    except DatasetOutOfMemory as error:
        return Ended("failed", "out_of_memory", _short(str(error)), "/dataset/class")
    except Exception as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
        if _out_of_memory(error):
            return Ended("failed", "out_of_memory", f"{suspect_of(assignment.spec)}; {_short(text)}", "/batch_size")
        return Ended("failed", "error", _short(text))


class DatasetOutOfMemory(Exception):
    """The user's own Dataset took more memory than there was while its items were read: no batch is to blame."""


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)


def _short(text: str) -> str:
    return text if len(text) <= MESSAGE_CHARACTERS else text[:MESSAGE_CHARACTERS] + " ..."


def set_up_torch(device: torch.device, threads: int) -> None:
    """Threads as assigned; on CUDA no TF32 and cuDNN's deterministic algorithms, since `precision` promises 32 bits.

    On the CPU nothing else is set: the promise there is the bits of a plain loop.
    """
    torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False


class Attempt:
    """Owns the parts of one attempt and what happens between two iterations."""

    def __init__(self, assignment: Assignment, control: Control) -> None:
        """Builds the four steps in the order of rule 4. Raises InvalidSpec, InvalidData, BuildProblem and torch's errors."""
        self._began = time.monotonic()
        self._assignment, self._control = assignment, control
        self._spec = parse(json.loads(assignment.spec))
        self._device = torch.device(assignment.device)
        set_up_torch(self._device, assignment.threads)
        folder = Path(assignment.job_folder)
        self._artifacts = Artifacts(folder / "artifacts", assignment.spec)
        self._checkpoints = Checkpoints(folder / "checkpoints", self._spec.checkpoint.keep)
        self._recorder = Recorder(control.send, self._device, tolerant=self._spec.on_nonfinite.type != FAIL)
        self._anchor = Anchor(self._spec.on_nonfinite)
        self._notes: list[str] = []
        self._steps, self._effective = self._build()
        self._position = Position()
        self._seconds_before = 0.0  # of training, in the attempts that led to the checkpoint
        self._saved_at, self._saved_iteration = time.monotonic(), 0
        self._saved_epochs = 0
        self._unsaved: str | None = None  # why the last checkpoint that was due is not there
        self._unsaved_told = 0

    def run(self) -> Ended:
        """From here to the end. Raises SupervisorGone and whatever is a fault of the job but not Stopped or Diverged."""
        self._control.send(self._start())
        if self._spec.timeout_seconds is not None:
            self._control.stop_after(self._spec.timeout_seconds - self._seconds())
        try:
            why = self._train()
        except Diverged as diverged:
            self._recorder.send()
            self._control.settle()
            return self._diverged(diverged)
        except Exception:
            self._recorder.send()  # what led up to the fault; a failed device is not read again
            raise
        if why in TO_GO_ON:
            return Ended("paused" if why == "pause" else "given_back", message=self._unsaved)
        self._control.settle()
        if why is not None:
            return self._cut_short(why)
        self._artifacts.write_last(self._steps.learned())
        stopped = self._position.stopped
        return Ended("succeeded", message=None if stopped is None else f"stopped early: {stopped}")

    def _diverged(self, diverged: Diverged) -> Ended:
        text = self._explained(diverged)  # first: what is kept replaces what it looks at
        try:
            kept = self._keep_finite(diverged)
        except CannotWrite as error:
            kept = str(error)
        return Ended("failed", "diverged", _short(f"{text}; {kept}"))

    def _cut_short(self, why: str) -> Ended:
        """The last word of a run that was cancelled or ran out of time: what it learned is kept, if there is room for it."""
        unwritten = ""
        try:
            self._artifacts.write_last(self._steps.learned())
        except CannotWrite as error:
            unwritten = f"; {error}"
        if why == "timeout":
            text = f"the job ran for its timeout_seconds ({self._spec.timeout_seconds:g}){unwritten}"
            return Ended("failed", "timeout", text)
        return Ended("cancelled", message=f"stopped as asked{unwritten}" if unwritten else None)

    def _train(self) -> str | None:
        """None at the end of the run, or why it stopped; every point has been sent. Raises Diverged."""
        while True:
            self._anchor.mark(self._steps, self._position, self._recorder)
            try:
                train(self._steps, self._position, self._recorder, self._control.should_stop, self._rest, self._keep_best)
            except RolledBack as error:
                self._roll_back(error)
                continue
            except Stopped as stopped:
                if stopped.why in TO_GO_ON and self._position.iteration != self._saved_iteration:
                    self._save()
                self._recorder.flush()
                return stopped.why
            return None

    def _roll_back(self, error: RolledBack) -> None:
        """Raises Diverged when that is no way to go on."""
        self._recorder.flush()
        self._control.settle()  # the supervisor drops stored points only
        self._position, incident = self._anchor.go_back(error, self._steps, self._position, self._recorder)
        self._steps.guard.last_finite.forget()
        self._checkpoints.drop_after(self._position.iteration)  # else one could be resumed whose points are gone
        self._control.went_back(incident)
        self._save()

    def _explained(self, diverged: Diverged) -> str:
        """What is to blame for a train loss under `fail`; the other rules have said it already."""
        steps, position = self._steps, self._position
        back = position.iteration - diverged.iteration
        if steps.guard.strict or back < 0:
            return str(diverged)
        place = Place(diverged.iteration, position.within - back, steps.accumulate)
        return f"{diverged}: {steps.guard.fault(place, ahead=self._ahead)}"

    def _keep_finite(self, diverged: Diverged) -> str:
        """Writes the last finite weights; says which they are."""
        ahead = self._ahead and diverged.iteration <= self._position.iteration
        after = self._steps.guard.last_finite.put_back(diverged.iteration, ahead)
        for state in self._checkpoints.usable() if after is None else ():
            self._steps.model.module.load_state_dict(state["model"])
            self._steps.loss.module.load_state_dict(state["loss"])
            if finite(list(self._steps.learned().values())):
                after = state["position"]["iteration"]
                break
        if after is None:
            self._artifacts.write_best()
            return "no finite weights are left to keep"
        self._artifacts.write_last(self._steps.learned())
        return f"{LAST} has the weights after iteration {after}"

    @property
    def _ahead(self) -> bool:
        """Whether the device may have gone on behind a loss that is not finite."""
        return self._device.type != "cpu" and not self._steps.guard.strict

    # ---- before the first iteration

    def _build(self) -> tuple[Steps, dict[str, Any]]:
        spec, dataset, device = self._spec, Path(self._assignment.dataset), self._device
        description = self._description()
        file = self._assignment.model_file
        completed = completed_model(spec, description, None if file is None else Path(file))
        description = self._settled(description, completed)
        completed_loss = complete_loss(spec, description, completed.shapes())
        parts = load(spec, dataset)
        torch.manual_seed(spec.seed)
        model = build(completed)
        initialize(model.module, spec.model.initializers)
        if spec.model.init_from is not None and self._assignment.init_from is not None:
            take_over(spec.model.init_from, model.module, Path(self._assignment.init_from))
        loss = build_loss(completed_loss, parts.train)
        optimizing = build_optimizer(spec, Parameters.of(model.module, loss))
        scheduler = build_scheduler(spec, optimizing.optimizer, steps_of(spec, len(parts.train)))
        model.module.to(device)
        loss.module.to(device)
        effective = effective_spec(spec, completed, loss, optimizing, scheduler, str(device))
        feed = _feed(spec, parts.train, device)
        scaled = spec.precision == "16-mixed"
        steps = Steps(
            feed=feed,
            val=parts.val.to(device),
            test=parts.test.to(device),
            model=model,
            loss=loss,
            optimizer=optimizing.optimizer,
            lr_series=optimizing.lr_series,
            scheduler=scheduler[0] if scheduler is not None else None,
            monitor=spec.lr_scheduler.monitor if spec.lr_scheduler else None,
            train_metrics=Metrics(spec, description, loss, device),
            eval_metrics=Metrics(spec, description, loss, device),
            precision=Precision(spec.precision, device),
            early_stopping=EarlyStopping(spec),
            guard=Guard(spec.on_nonfinite.type, model.module, loss, feed, scaled=scaled, device=device),
            batch_size=spec.batch_size,
            epochs=spec.epochs,
            scheduler_interval=spec.lr_scheduler.interval if spec.lr_scheduler else "epoch",
            max_grad_norm=spec.max_grad_norm,
            accumulate=spec.accumulate_grad_batches,
        )
        return steps, effective

    def _description(self) -> DataDescription:
        """Of the data, which a user's own Dataset gives now, unless an earlier attempt has read it."""
        given, folder = self._assignment, Path(self._assignment.dataset)
        if given.source_file is not None:
            try:
                self._notes += own_data.prepare(self._spec, Path(given.source_file), folder, given.disk_bytes)
            except Exception as error:
                if not _out_of_memory(error):
                    raise
                traceback.print_exc()
                raise DatasetOutOfMemory(f"reading the data set: {type(error).__name__}: {error}") from error
        return describe(self._spec, folder)

    def _settled(self, description: DataDescription, completed: CompletedModel) -> DataDescription:
        """A user's own data was not all there at POST: what it is checked for, it is checked for now. Raises InvalidData."""
        if self._assignment.source_file is None:
            return description
        description = settled(self._spec, description, completed.shapes())
        init_from = self._assignment.init_from
        if problems := examine(self._spec, description, completed, None if init_from is None else Path(init_from)).problems:
            raise InvalidData(problems)
        return description

    def _start(self) -> Started:
        """Takes up the newest whole checkpoint, if there is one."""
        state, notes = self._checkpoints.latest()
        if state is not None:
            self._seconds_before = state["seconds"]
            self._position = checkpoint.restore(state, self._steps, self._recorder)
            self._anchor.restore(state)
            self._saved_iteration, self._saved_epochs = self._position.iteration, self._position.epochs
        here = environment(self._device)
        parameters = self._steps.parameters()
        return Started(
            environment=here,
            effective_spec=self._effective,
            parameters={
                "total": sum(p.numel() for p in parameters),
                "trainable": sum(p.numel() for p in parameters if p.requires_grad),
            },
            iterations=self._steps.iterations,
            samples=self._steps.epochs * self._steps.feed.samples,
            resumed_from=self._position.iteration,
            notes=self._notes + notes + changes(self._assignment.environment, here),
        )

    # ---- between two iterations

    def _rest(self) -> None:
        """Points leave when they are due, and a checkpoint is saved when it is."""
        self._recorder.flush_if_due()
        self._anchor.mark(self._steps, self._position, self._recorder)
        if self._checkpoint_due():
            self._save()

    def _checkpoint_due(self) -> bool:
        plan, position = self._spec.checkpoint, self._position
        if position.finished:
            return True
        if plan.every_seconds is not None and time.monotonic() - self._saved_at >= plan.every_seconds:
            return True
        every = plan.every_n_epochs
        return every is not None and position.within == 0 and position.epochs - self._saved_epochs >= every

    def _save(self) -> None:
        """One checkpoint, and the best weights that belong to it, after every point up to here has been stored. One that
        cannot be written is told of; the run goes on, and its place stays that of the checkpoint before."""
        position = self._position
        self._recorder.flush()
        state = checkpoint.capture(self._steps, position, self._recorder)
        state |= {"seconds": self._seconds(), **self._anchor.state(position)}
        self._saved_at, self._saved_epochs = time.monotonic(), position.epochs
        try:
            self._checkpoints.save(state, position.iteration, position.epoch, self._before_rename)
        except CannotWrite as error:
            self._could_not_save(error)
            return
        self._saved_iteration, self._unsaved = position.iteration, None
        self._control.send(Checkpointed(position.iteration, position.epoch))

    def _could_not_save(self, error: CannotWrite) -> None:
        before = f"goes on from iteration {self._saved_iteration}" if self._saved_iteration else "begins again"
        self._unsaved = f"{error}; an attempt that is cut short {before}"
        print(self._unsaved, file=sys.stderr)
        self._unsaved_told += 1
        if self._unsaved_told <= MAX_UNSAVED_TOLD:
            self._control.send(Incident("checkpoint_failed", self._unsaved, self._position.iteration))

    def _before_rename(self) -> None:
        self._control.settle()
        self._artifacts.write_best()

    def _keep_best(self) -> None:
        self._artifacts.keep_best(self._steps.learned())

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._began


def _feed(spec: JobSpec, part: Part, device: torch.device) -> Feed:
    return Feed(part, spec.batch_size, shuffle=spec.shuffle, drop_last=spec.drop_last, seed=spec.seed, device=device)
