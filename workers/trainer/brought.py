"""Step 2 for a model that the user brought as an exported program: whether it takes the data, and what it gives.

The program was read when it was uploaded; here its two graphs run on the meta device with the batches of this job.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from jobs.model_spec import ExportedModel, PythonModel
from jobs.spec import JobSpec, SpecProblem
from workers.trainer.data import DataDescription, Field
from workers.trainer.exported.problem import UnreadableProgram
from workers.trainer.exported.program import Program, TensorSpec, read
from workers.trainer.model import BuildProblem, CompletedModel, Model, ModelOutput, batch_rows, complete, last_batch_rows
from workers.trainer.objective import OUTPUT
from workers.trainer.own_model import complete_own

HERE = "/model/id"


@dataclass(frozen=True)
class _Exported:
    program: Program

    def model(self, inputs: tuple[str, ...], outputs: list[str]) -> Model:
        return Model(self.program.build(), inputs, outputs)


def completed_model(spec: JobSpec, description: DataDescription, path: Path | None) -> CompletedModel:
    """The model with every size filled in, layers or what the user brought; `path` is the file of that. Raises BuildProblem."""
    if isinstance(spec.model, ExportedModel | PythonModel):
        assert path is not None
        complete_brought = complete_program if isinstance(spec.model, ExportedModel) else complete_own
        return complete_brought(spec, description, path)
    return complete(spec, description)


def complete_program(spec: JobSpec, description: DataDescription, path: Path) -> CompletedModel:
    """The program in the file at `path` as this job's model. Raises BuildProblem with everything that does not fit."""
    try:
        program = read(path)
    except (UnreadableProgram, OSError) as error:
        why = error if isinstance(error, UnreadableProgram) else "the file is not there"
        raise BuildProblem([SpecProblem(HERE, "invalid_program", f"the model cannot be read: {why}")]) from error
    names = _input_names(program, description)
    problems = [
        problem
        for name, taken in zip(names, program.inputs, strict=True)
        for problem in _input_problems(name, taken, description.inputs[name])
    ]
    problems += _output_problems(program)
    if problems:
        raise BuildProblem(problems)
    for rows in {batch_rows(spec, description), last_batch_rows(spec, description)}:
        _try(program, rows)
    outputs = tuple(
        ModelOutput(OUTPUT if len(given) == 1 else one.name, HERE, _fixed(one), ())
        for given in [program.outputs()]
        for one in given
    )
    return CompletedModel((), names, outputs, (), program.on_meta(), _Exported(program))


def _input_names(program: Program, description: DataDescription) -> tuple[str, ...]:
    """Which field of the data feeds each argument of `forward`: by name where the data has them all, else in order."""
    taken, given = [one.name for one in program.inputs], list(description.inputs)
    if set(taken) <= set(given):
        return tuple(taken)
    if len(taken) == len(given):
        return tuple(given)
    detail = f"the model takes {len(taken)} inputs ({', '.join(taken)}), but the data has {len(given)} ({', '.join(given)})"
    raise BuildProblem([SpecProblem(HERE, "shape_mismatch", detail)])


def _input_problems(name: str, taken: TensorSpec, field: Field) -> Iterator[SpecProblem]:
    wanted, comes = _written(taken.shape), _written((None, *field.shape))
    if taken.shape[1:] != tuple(field.shape):
        detail = f"the model takes {taken.name} of shape {wanted}, but the data's {name} has shape {comes}"
        yield SpecProblem(HERE, "shape_mismatch", detail)
    if taken.dtype != field.dtype:
        detail = f"the model takes {taken.name} as {_plain(taken.dtype)}, but the data's {name} is {_plain(field.dtype)}"
        yield SpecProblem(HERE, "wrong_type", detail)


def _output_problems(program: Program) -> Iterator[SpecProblem]:
    train, evaluated = program.outputs("train"), program.outputs("eval")
    for one in train:
        if one.dtype != torch.float32:
            yield SpecProblem(HERE, "wrong_type", f"the model's {one.name} is {_plain(one.dtype)}; a loss takes float32")
        if one.shape[:1] != (None,) or None in one.shape[1:]:
            detail = f"the model's {one.name} has shape {_written(one.shape)}; its first size, and no other, is the batch"
            yield SpecProblem(HERE, "shape_mismatch", detail)
    if [(one.dtype, one.shape) for one in train] != [(one.dtype, one.shape) for one in evaluated]:
        shapes = [", ".join(_written(one.shape) for one in outputs) for outputs in (train, evaluated)]
        detail = f"the model gives {shapes[0]} in training and {shapes[1]} in evaluation; they must be alike"
        yield SpecProblem(HERE, "shape_mismatch", detail)


def _try(program: Program, rows: int) -> None:
    """Both graphs with so many rows. Raises BuildProblem."""
    for mode in ("train", "eval"):
        try:
            outputs: Sequence[Tensor] = program.run_on_meta(mode, rows)
        except UnreadableProgram as error:
            detail = (
                f"the model cannot take a batch of {rows} row(s), as one of this job is ({error}); "
                "set drop_last to leave a short last one out, or choose another batch_size"
            )
            raise BuildProblem([SpecProblem("/batch_size", "out_of_range", detail)]) from error
        if any(len(output) != rows for output in outputs):
            detail = f"the model does not give one row for each of a batch of {rows}"
            raise BuildProblem([SpecProblem(HERE, "shape_mismatch", detail)])


def _fixed(one: TensorSpec) -> tuple[int, ...]:
    return tuple(size for size in one.shape[1:] if size is not None)


def _written(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("n" if size is None else str(size) for size in shape) + ")"


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
