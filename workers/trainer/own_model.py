"""Step 2 for a model that is a class in the user's own source, under profile strict only.

Sizes come from a trial: the class is built once, before the seed is set, and takes a batch of zeros. The model that trains is
another instance, built by the rule 4 of "What `seed` means".
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jobs.model_spec import PythonModel
from jobs.spec import JobSpec, SpecProblem
from workers.trainer.data import Batch, DataDescription
from workers.trainer.model import BuildProblem, CompletedModel, Model, ModelOutput, batch_rows, last_batch_rows
from workers.trainer.objective import OUTPUT
from workers.trainer.source import SourceProblem, build, file_name, load_class, user_errors

HERE = "/model"


@dataclass(frozen=True)
class OwnModel:
    """The user's class and its arguments."""

    cls: type[nn.Module]
    kwargs: Mapping[str, Any]

    def build(self) -> nn.Module:
        """A new instance. Raises SourceProblem; draws whatever the user's constructor draws."""
        return build(self.cls, self.kwargs)

    def model(self, inputs: tuple[str, ...], outputs: list[str]) -> Model:
        """A new instance that says where in the source it fails."""
        try:
            return _Watched(self.build(), inputs, outputs)
        except SourceProblem as problem:
            raise problem.within(HERE) from problem


class _Watched(Model):
    def __call__(self, batch: Batch) -> Batch:
        with user_errors(HERE, f"{type(self.module).__name__}.forward"):
            return super().__call__(batch)


def complete_own(spec: JobSpec, description: DataDescription, path: Path) -> CompletedModel:
    """The class in the file at `path` as this job's model. Raises BuildProblem with everything that does not fit."""
    assert isinstance(spec.model, PythonModel)
    try:
        cls = load_class(path.read_bytes(), spec.model.class_name, nn.Module, file_name(spec, "model"))
        own = OwnModel(cls, spec.model.kwargs)
        trial = own.build()
        names = _input_names(own.cls, description)
        outputs = _tried(trial, names, description, batch_rows(spec, description), last_batch_rows(spec, description))
    except SourceProblem as problem:
        raise BuildProblem(problem.within(HERE).problems) from problem
    named = (OUTPUT,) if len(outputs) == 1 else tuple(f"{OUTPUT}_{number}" for number in range(len(outputs)))
    told = (ModelOutput(name, HERE, tuple(one.shape[1:]), ()) for name, one in zip(named, outputs, strict=True))
    return CompletedModel((), names, tuple(told), (), trial, own)


def _input_names(cls: type[nn.Module], description: DataDescription) -> tuple[str, ...]:
    """Which field of the data feeds each argument of `forward`: by name where the data has them all, else in order."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [one for one in inspect.signature(cls.forward).parameters.values() if one.kind in kinds][1:]
    needed = [one.name for one in known if one.default is inspect.Parameter.empty]
    given = list(description.inputs)
    if needed and set(needed) <= set(given):
        return tuple(needed)
    if len(needed) <= len(given) <= len(known) or not known:
        return tuple(given)
    taken = f"forward takes {len(needed)} inputs ({', '.join(needed)})"
    detail = f"{cls.__name__}.{taken}, but the data has {len(given)} ({', '.join(given)})"
    raise SourceProblem([SpecProblem("/class", "shape_mismatch", detail)])


def _tried(trial: nn.Module, names: tuple[str, ...], description: DataDescription, rows: int, short: int) -> list[Tensor]:
    """What the model gives for zeros, in training and in evaluation, with a full batch and with the last one."""
    found: list[Tensor] = []
    for training in (True, False):
        for count in (rows, short) if short != rows else (rows,):
            trial.train(training)
            given = [torch.zeros((count, *description.inputs[n].shape), dtype=description.inputs[n].dtype) for n in names]
            outputs = _outputs(trial, given, count)
            if found and [one.shape[1:] for one in outputs] != [one.shape[1:] for one in found]:
                detail = "forward gives other shapes in evaluation, or for the last batch, than for a full one in training"
                raise SourceProblem([SpecProblem("/class", "shape_mismatch", detail)])
            found = found or outputs
    trial.train()
    return found


def _outputs(trial: nn.Module, given: list[Tensor], rows: int) -> list[Tensor]:
    name = type(trial).__name__
    shapes = ", ".join(str(tuple(one.shape)) for one in given)
    with torch.no_grad(), user_errors("/class", f"{name}.forward on input of shape {shapes}"):
        returned = trial(*given)
    outputs = list(returned) if isinstance(returned, tuple) else [returned]
    for one in outputs:
        if not isinstance(one, Tensor) or one.dtype != torch.float32 or one.dim() < 1 or len(one) != rows:
            what = f"a tensor {one.dtype} of shape {tuple(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
            detail = f"{name}.forward gives {what}; a loss takes float32 tensors with a row for each of the {rows} that came in"
            raise SourceProblem([SpecProblem("/class", "shape_mismatch", detail)])
    return outputs
