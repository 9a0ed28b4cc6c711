"""Which fields a spec makes of a data set, by the schema alone: one function for each kind of data."""

from __future__ import annotations

import math
from typing import Any

import torch

from jobs.spec import BuiltinDataset, FileDataset, JobSpec, PythonDataset, SpecProblem
from workers.trainer.arrays import Arrays
from workers.trainer.columns import MAX_CLASSES, Columns, given_classes
from workers.trainer.field_sources import ArraySource, LabelSource, Pictures, Source, Windows
from workers.trainer.fields import INPUT, Field, InvalidData, Layout, Planned, beyond_float32, whole
from workers.trainer.objective import TARGET, TargetForm, target_form
from workers.trainer.own_fields import Arrayed, asked, open_ended

BYTES = 256
OPTIONS = {"images": ("size",), "text": ("level", "window", "stride")}
WHAT = {"images": "images", "text": "plain text"}
MAX_ROW_NUMBERS = 2**24


def plan(spec: JobSpec, schema: dict[str, Any]) -> Layout:
    """The fields and how they are read. Raises InvalidData with every problem."""
    problems: list[SpecProblem] = []
    source, form = schema["source"], target_form(spec.loss)
    if isinstance(spec.dataset, BuiltinDataset):
        layout = _builtin(schema, form)
    elif isinstance(spec.dataset, PythonDataset):
        layout = _named_arrays(spec.dataset, schema, form, problems)
    else:
        problems += _options(spec.dataset, source)
        if source == "text":
            layout = _text(spec.dataset, schema, problems)
        elif source == "npz":
            layout = _named_arrays(spec.dataset, schema, form, problems)
        else:
            layout = _table(spec.dataset, schema, form, problems)
    if spec.model.type == "Sequential" and layout.inputs and INPUT not in layout.inputs:
        detail = f"a Sequential takes the input called {INPUT!r}; the data set names {', '.join(layout.inputs)}"
        problems.append(SpecProblem("/dataset/inputs", "missing", detail))
    if spec.dataset.normalize != "none" and layout.inputs and not any(p.normalized for p in layout.inputs.values()):
        detail = "there is no input of numbers to normalize: sequences and whole numbers stay as they are"
        problems.append(SpecProblem("/dataset/normalize", "not_supported", detail))
    for planned in layout.fields.values():
        if planned.field.width > MAX_ROW_NUMBERS:
            detail = f"one row has {planned.field.width:,} numbers; the limit is {MAX_ROW_NUMBERS:,}"
            problems.append(SpecProblem(planned.pointer, "out_of_range", detail))
    for name in layout.inputs.keys() & layout.targets.keys():
        detail = f"an input and a target would both be called {name!r}: give one of them another name"
        problems.append(SpecProblem("/dataset", "duplicate", detail))
    if problems:
        raise InvalidData(problems)
    return layout


def _options(dataset: FileDataset, source: str) -> list[SpecProblem]:
    """Members that say nothing about a file of this format: nobody shall believe they were heard."""
    found = []
    for kind, names in OPTIONS.items():
        found += [
            (name, f"`{name}` is for {WHAT[kind]}") for name in names if source != kind and getattr(dataset, name) is not None
        ]
    if source == "text":
        unheard: tuple[str, ...] = ("target", "features", "categorical", "inputs", "targets")
        found += [(name, f"plain text has no columns for `{name}`") for name in unheard if getattr(dataset, name)]
    if source == "npz":
        unheard = ("target", "features", "categorical")
        found += [
            (name, f"an NPZ file has arrays: use `inputs` and `targets` for `{name}`")
            for name in unheard
            if getattr(dataset, name)
        ]
    if source == "images":
        found += [
            (name, f"the one input of images is their pixels; there are no `{name}`")
            for name in ("features", "inputs")
            if getattr(dataset, name)
        ]
    if source in ("text", "images") and dataset.missing != "error":
        found.append(("missing", f"nothing can be missing in {WHAT[source]}"))
    return [SpecProblem(f"/dataset/{name}", "not_supported", detail) for name, detail in found]


def _builtin(schema: dict[str, Any], form: TargetForm) -> Layout:
    classes = len(schema["classes"]) if schema["classes"] else None
    x = Field(tuple(schema["input_shape"]), schema["input_min"], schema["input_max"])
    ends = schema["target_min"], schema["target_max"]
    y = Field((1,), *ends) if classes is None else whole((), *ends, classes)
    inputs = {INPUT: Planned(x, lambda arrays: ArraySource(arrays["x"], torch.float32), normalized=True)}
    if form == "tokens":
        y = whole((1,), *ends, classes)
    target = Planned(y, lambda arrays: ArraySource(arrays["y"], y.dtype, shape=y.shape))
    return Layout(schema["rows"], inputs, {TARGET: target.as_number() if y.shape == () and form != "class" else target})


# ---- tables, and images with their labels


def _table(dataset: FileDataset, schema: dict[str, Any], form: TargetForm, problems: list[SpecProblem]) -> Layout:
    columns = Columns(dataset, schema, form, problems)
    targets: dict[str, Planned] = {}
    for name, source in (dataset.targets or {}).items():
        pointer = f"/dataset/targets/{name}"
        if found := _columns_of(columns, source.columns, pointer, problems):
            _add(targets, columns.target(name, found, pointer, source.dtype, source.classes), pointer, problems)
    named = {n for source in (dataset.targets or {}).values() for n in source.columns or []}
    if dataset.targets is None:
        names = dataset.target or _only_label(columns, schema, problems)
        named = set(names)
        if found := columns.known(names, "/dataset/target"):
            targets = columns.target(TARGET, found, "/dataset/target")
    if schema["source"] == "images":
        return Layout(schema["rows"], {INPUT: _pictures(dataset, schema, problems)}, targets)
    return Layout(schema["rows"], _table_inputs(dataset, columns, named, problems), targets)


def _add(fields: dict[str, Planned], more: dict[str, Planned], pointer: str, problems: list[SpecProblem]) -> None:
    """A field of sequences brings one more, its lengths, whose name may be taken."""
    detail = "two fields would be called {!r}: give this one another name"
    problems += [SpecProblem(pointer, "duplicate", detail.format(name)) for name in more.keys() & fields.keys()]
    fields |= more


def _columns_of(columns: Columns, names: list[str] | None, pointer: str, problems: list[SpecProblem]) -> list[dict[str, Any]]:
    if names is None:
        problems.append(SpecProblem(f"{pointer}/array", "not_supported", "a table has columns; arrays are in NPZ files"))
        return []
    return columns.known(names, f"{pointer}/columns")


def _only_label(columns: Columns, schema: dict[str, Any], problems: list[SpecProblem]) -> list[str]:
    if schema["source"] == "images" and len(columns.names) == 1:
        return columns.names
    detail = f"target is required: the file has the columns {', '.join(columns.names[:12])}"
    problems.append(SpecProblem("/dataset/target", "missing", detail))
    return []


def _table_inputs(dataset: FileDataset, columns: Columns, targets: set[str], problems: list[SpecProblem]) -> dict[str, Planned]:
    inputs: dict[str, Planned] = {}
    for name, source in (dataset.inputs or {}).items():
        pointer = f"/dataset/inputs/{name}"
        if source.classes is not None:
            problems.append(SpecProblem(f"{pointer}/classes", "not_supported", "`classes` is for targets"))
        if found := _columns_of(columns, source.columns, pointer, problems):
            _add(inputs, columns.input(name, found, pointer, source.dtype), pointer, problems)
    if dataset.inputs is not None:
        return inputs
    for index, name in enumerate(dataset.features or []):
        if name in targets:
            detail = f"{name!r} is the target and cannot be a feature too"
            problems.append(SpecProblem(f"/dataset/features/{index}", "out_of_range", detail))
    given = dataset.features if dataset.features is not None else columns.names
    features = columns.known(given, "/dataset/features")
    features = [column for column in features if column["name"] not in targets]
    if features:
        return columns.input(INPUT, features, "/dataset/features" if dataset.features else "/dataset")
    if not problems:
        problems.append(SpecProblem("/dataset", "invalid_data", "no feature column is left beside the target"))
    return {}


def _pictures(dataset: FileDataset, schema: dict[str, Any], problems: list[SpecProblem]) -> Planned:
    (low_h, high_h), (low_w, high_w) = schema["height"], schema["width"]
    if dataset.size is None and (low_h != high_h or low_w != high_w):
        sizes = f"{low_h} to {high_h} high and {low_w} to {high_w} wide"
        detail = f"the images are {sizes}: `size` [height, width] brings them to one size"
        problems.append(SpecProblem("/dataset/size", "missing", detail))
    height, width = dataset.size or (high_h, high_w)
    shape = (schema["channels"], height, width)

    def opened(arrays: Arrays) -> Source:
        return Pictures(arrays["pixels"], arrays["offsets"], arrays["sizes"], shape)

    return Planned(Field(shape, 0.0, 1.0), opened, normalized=True)


# ---- arrays


def _named_arrays(dataset: Arrayed, schema: dict[str, Any], form: TargetForm, problems: list[SpecProblem]) -> Layout:
    """Inputs and targets by the names of the arrays of an NPZ file, or of a user's Dataset."""
    made: dict[str, dict[str, Planned]] = {"inputs": {}, "targets": {}}
    rows: dict[str, int] = {}
    for member, fields in asked(dataset, schema, form).items():
        for name, (array, dtype, classes) in fields.items():
            pointer = f"/dataset/{member}/{name}" if getattr(dataset, member) else f"/dataset/{member}"
            if (about := _array(array, schema, pointer, problems)) is None:
                continue
            rows[str(array)] = about["shape"][0]
            of = _Array(str(array), about, dataset, pointer, problems)
            planned = of.input(dtype) if member == "inputs" else of.target(form, dtype, classes)
            made[member][name] = open_ended(planned, about, classes) if isinstance(dataset, PythonDataset) else planned
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in rows.items())
        problems.append(SpecProblem("/dataset", "invalid_data", f"the arrays differ in their number of rows: {listed}"))
    if not made["inputs"] and not problems:
        problems.append(SpecProblem("/dataset", "invalid_data", "no array is left for an input beside the targets"))
    return Layout(next(iter(rows.values()), 0), made["inputs"], made["targets"])


def _array(name: str | None, schema: dict[str, Any], pointer: str, problems: list[SpecProblem]) -> dict[str, Any] | None:
    """What the schema says of an array with rows; None after a problem."""
    whose = "the data set" if schema["source"] == "python" else "the file"
    if name is None:
        problems.append(SpecProblem(f"{pointer}/columns", "not_supported", f"{whose} has arrays, not columns"))
        return None
    about: dict[str, Any] | None = schema["arrays"].get(name)
    if about is None:
        detail = f"{whose} has no array {name!r}; it has {', '.join(list(schema['arrays'])[:12])}"
        problems.append(SpecProblem(pointer, "unknown_array", detail))
    elif not about["shape"]:
        problems.append(SpecProblem(pointer, "invalid_data", f"array {name!r} is one number and has no rows"))
        return None
    return about


class _Array:
    """One array as an input or a target."""

    def __init__(self, name: str, about: dict[str, Any], dataset: Arrayed, pointer: str, problems: list[SpecProblem]) -> None:
        self._name, self._about, self._dataset, self._pointer, self._problems = name, about, dataset, pointer, problems
        self._shape = tuple(about["shape"][1:])
        self._low, self._high = about.get("min", 0.0), about.get("max", 0.0)

    def _problem(self, detail: str, code: str = "invalid_data") -> None:
        self._problems.append(SpecProblem(self._pointer, code, detail))

    def _check_gaps(self, fillable: bool) -> None:
        if self._about.get("infinite"):
            self._problem(f"row {self._about['first_infinite']}, array {self._name!r}: a number is infinite")
        allowed = ("drop", "mean") if fillable else ("drop",)
        if self._about.get("missing") and self._dataset.missing not in allowed:
            detail = f"row {self._about['first_missing']}, array {self._name!r}: a number is missing (NaN)"
            self._problem(
                detail if self._dataset.missing == "error" else f"{detail}; only inputs of numbers are filled with a mean"
            )

    def _check_float32(self, *, subtracted: bool = False) -> None:
        if (detail := beyond_float32(self._about, subtracted=subtracted)) is not None:
            self._problem(f"array {self._name!r}, {detail}")

    def input(self, dtype: str | None) -> Planned:
        self._check_gaps(fillable=dtype != "int64")
        if dtype == "int64":
            return self._whole(negative=False)
        self._check_float32(subtracted=self._dataset.normalize != "none")
        shape = self._shape or (1,)
        precise = self._dataset.missing == "mean"
        return Planned(
            Field(shape, self._low, self._high),
            lambda arrays: ArraySource(arrays[self._name], torch.float32, precise=precise, shape=shape),
            self._pointer,
            gaps=bool(self._about.get("missing")),
            fillable=True,
            normalized=True,
        )

    def _whole(self, negative: bool, shape: tuple[int, ...] | None = None) -> Planned:
        if not self._about.get("integers") or self._high >= 2**53 or (self._low < 0 and not negative):
            row = f" (row {self._about['min_row']}: {self._low:g})" if self._low < 0 else ""
            self._problem(f"array {self._name!r} holds numbers that are not whole numbers from 0{row}")
        classes = int(self._high) + 1 if self._low >= 0 else None
        return self._planned(whole(self._shape if shape is None else shape, self._low, self._high, classes))

    def _planned(self, field: Field) -> Planned:
        gaps = bool(self._about.get("missing"))
        return Planned(
            field, lambda arrays: ArraySource(arrays[self._name], field.dtype, shape=field.shape), self._pointer, gaps
        )

    def target(self, form: TargetForm, dtype: str | None, classes: int | None) -> Planned:
        self._check_gaps(fillable=False)
        if dtype is None and form == "tokens":
            return self._whole(negative=False, shape=self._shape or (1,))
        if classes is not None or dtype == "int64":
            planned = self._whole(negative=True)
            if classes is None:
                return planned
            self._check_range(classes - 1, f"a label of {classes} classes (0 to {classes - 1})")
            return self._planned(given_classes(planned.field, classes))
        alone = math.prod(self._shape) == 1
        soft = self._low >= 0 and self._high <= 1
        if dtype == "float32" or form == "float" or (form == "binary" and (soft or not alone)):
            if form == "binary" and dtype is None:
                self._check_range(1, "between 0 and 1, as this loss wants it")
            else:
                self._check_float32()
            return self._planned(self._numbers(form))
        return self._label(form) if alone else self._whole(negative=True)

    def _numbers(self, form: TargetForm) -> Field:
        classes = 2 if form == "binary" else None
        fractions, zeros = not self._about.get("integers", True), self._about.get("zeros", False)
        return Field(self._shape or (1,), self._low, self._high, classes, fractions=fractions, zeros=zeros)

    def _label(self, form: TargetForm) -> Planned:
        values = self._about.get("values")
        if values is None:
            self._problem(f"array {self._name!r} has more than {MAX_CLASSES} different values, which is too many for classes")
        elif len(values) < 2:
            self._problem(f"array {self._name!r} holds one class only")
        elif form == "binary" and len(values) > 2:
            detail = f"array {self._name!r} has {len(values)} classes, but this loss wants two (or numbers between 0 and 1)"
            self._problem(f"{detail}: {self._worst(1)}")
        field = whole((), 0.0, float(len(values or [0]) - 1), len(values or [0]))
        gaps = bool(self._about.get("missing"))
        planned = Planned(field, lambda arrays: LabelSource(arrays[self._name], values), self._pointer, gaps)
        return planned if form == "class" else planned.as_number()

    def _check_range(self, high: float, what: str) -> None:
        if self._low < 0 or self._high > high:
            self._problem(f"{self._worst(high)} in array {self._name!r} is not {what}")

    def _worst(self, high: float) -> str:
        side = "max" if self._high > high else "min"
        return f"row {self._about[f'{side}_row']}: {self._about[side]:g}"


# ---- text


def _text(dataset: FileDataset, schema: dict[str, Any], problems: list[SpecProblem]) -> Layout:
    """x (T,) and y (T,), the same tokens one step later; row i begins at token i * stride."""
    window, level = dataset.window or 1, dataset.level or "character"
    stride = dataset.stride or window
    length, tokens = (schema["characters"], len(schema["vocabulary"])) if level == "character" else (schema["bytes"], BYTES)
    if dataset.window is None:
        problems.append(SpecProblem("/dataset/window", "missing", f"window is required: how many {level}s a row has"))
    elif length < window + 1:
        detail = f"the text has {length} {level}s, too few for a window of {window} and the one that follows"
        problems.append(SpecProblem("/dataset/window", "out_of_range", detail))
    if tokens < 2:
        problems.append(SpecProblem("/dataset", "invalid_data", f"the text holds one {level} only, again and again"))
    rows = max(0, (length - window - 1) // stride + 1)
    field = whole((window,), 0.0, float(tokens - 1), tokens)

    def planned(shift: int) -> Planned:
        return Planned(field, lambda arrays: Windows(arrays[f"{level}s"], window, stride, shift))

    return Layout(rows, {INPUT: planned(0)}, {TARGET: planned(1)})
