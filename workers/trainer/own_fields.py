"""Which fields a spec makes of the items of a user's Dataset, and how many classes their labels have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

from jobs.spec import FileDataset, JobSpec, PythonDataset, SpecProblem
from workers.trainer.fields import INPUT, DataDescription, Field, InvalidData, Planned
from workers.trainer.objective import TARGET, TargetForm, field_of, prediction_routes, target_form, target_routes

# Of a target without a dtype of its own, by what the loss takes: torch's labels are used as they are, never counted.
DTYPES: dict[TargetForm, str] = {"class": "int64", "binary": "float32"}
# Losses with a layer of their own: its size is an argument.
OWN_CLASSES = {"AdaptiveLogSoftmaxWithLoss": "n_classes", "LinearCrossEntropyLoss": "num_classes"}

Arrayed: TypeAlias = FileDataset | PythonDataset  # data sets of arrays by name
Asked: TypeAlias = dict[str, tuple[str | None, str | None, int | None]]  # by the field's name its array, dtype and classes


def asked(dataset: Arrayed, schema: dict[str, Any], form: TargetForm) -> dict[str, Asked]:
    """The inputs and targets that the spec names of arrays, or those that it means where it names none."""
    inputs: Asked = {n: (s.array, s.dtype, s.classes) for n, s in (dataset.inputs or {}).items()}
    targets: Asked = {n: (s.array, s.dtype, s.classes) for n, s in (dataset.targets or {}).items()}
    targets = targets or {TARGET: (TARGET, None, None)}
    if isinstance(dataset, FileDataset):
        return {"inputs": inputs or {INPUT: (INPUT, None, None)}, "targets": targets}
    targets = {n: (a, d or (DTYPES.get(form) if c is None else None), c) for n, (a, d, c) in targets.items()}
    used = {array for array, _, _ in targets.values()}
    inputs = inputs or {name: (name, None, None) for name in schema["arrays"] if name not in used}
    kept = {name for name, about in schema["arrays"].items() if about["dtype"] == "int64"}
    inputs = {n: (a, d or ("int64" if a in kept else None), c) for n, (a, d, c) in inputs.items()}
    return {"inputs": inputs, "targets": targets}


def open_ended(planned: Planned, about: dict[str, Any], classes: int | None) -> Planned:
    """The field of a user's item: more may come than was seen, of rows that were not read and of labels that did not occur."""
    label = planned.field.classes is not None and classes is None
    if not (about.get("partial") or label):
        return planned
    return replace(planned, field=replace(planned.field, open_ended=True, high_row=about.get("max_row")))


def settled(spec: JobSpec, description: DataDescription, outputs: dict[str, tuple[int, ...]]) -> DataDescription:
    """The same data, with as many classes as the model (of these outputs) has room for, as torch's losses have it.

    Raises InvalidData for a label beyond them.
    """
    routes, problems = target_routes(spec.loss, description)
    predictions, more = prediction_routes(spec.loss, outputs, description)
    if target_form(spec.loss) != "class" or problems or more or not isinstance(spec.dataset, PythonDataset):
        return description
    shape = outputs.get(predictions[0].name, ())
    own = OWN_CLASSES.get(spec.loss.type)
    room = spec.loss.arguments().get(own) if own else (shape[0] if shape else None)
    targets = dict(description.targets)
    for route in routes:
        field = field_of(description, route.name)
        if field.open_ended and field.classes is not None and route.name in targets and isinstance(room, int):
            targets[route.name] = _with_room(spec.dataset, route.name, field, room)
    return replace(description, targets=targets)


def _with_room(dataset: PythonDataset, name: str, field: Field, room: int) -> Field:
    if field.high >= room:
        pointer = f"/dataset/targets/{name}" if dataset.targets else "/dataset/class"
        row = f"row {field.high_row}: " if field.high_row else ""
        detail = f"{row}the label {field.high:g} is none of 0 to {room - 1}, for which the model has outputs"
        raise InvalidData([SpecProblem(pointer, "invalid_data", detail)])
    return replace(field, classes=room, integers=room, high=float(room - 1))
