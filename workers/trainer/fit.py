"""Whether the loss, the model's outputs and the data's fields fit one another; nothing is ever broadcast."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jobs.components import LossComponent
from jobs.spec import InvalidSpec, JobSpec, SpecProblem
from workers.trainer.components import argument_problem
from workers.trainer.data import Batch, DataDescription, Field
from workers.trainer.objective import (
    BINARY_LOSSES,
    MULTI_LABEL_LOSSES,
    NON_NEGATIVE_LOSSES,
    OWN_PARAMETERS,
    SIGN_LOSSES,
    CompletedLoss,
    Criterion,
    Route,
    Shape,
    build_loss,
    complete_loss,
    field_of,
    target_form,
    target_routes,
)
from workers.trainer.ranges import NOT_NEGATIVE, PROBABILITIES, ends_with, last_layer

if TYPE_CHECKING:
    from workers.trainer.model import ModelOutput

MAX_SAMPLE = 2_000_000  # numbers of one row of outputs that a loss is tried on


# ---- the target's values


def check_targets(spec: JobSpec, description: DataDescription) -> list[SpecProblem]:
    """Whether the fields that feed the loss are what it can learn from."""
    routes, problems = target_routes(spec.loss, description)
    for route in routes:
        if route.argument in {"target", "target_", "targets"} and not problems:
            reason = _unfit(spec.loss.type, seen(spec, description, route.name))
            problems += [] if reason is None else [_mismatch(spec.loss, route, reason)]
    return problems


def seen(spec: JobSpec, description: DataDescription, name: str) -> Field:
    """A field with the range it has after `normalize`, which changes inputs only."""
    field = field_of(description, name)
    if name in description.targets or spec.dataset.normalize == "none":
        return field
    low, high = (0.0, 1.0) if spec.dataset.normalize == "minmax" else (-math.inf, math.inf)
    return replace(field, low=low, high=high)


def _unfit(loss: str, target: Field) -> str | None:
    """What is wrong with a target of these values, or None."""
    low, high, classes = target.low, target.high, target.classes
    form = target_form(LossComponent(type=loss))
    if form == "class":
        wanted = "use MSELoss, HuberLoss or another regression loss"
        return None if classes is not None else f"{loss} wants class labels, but the target is a number; {wanted}"
    if form == "binary" and (classes or 2) > 2:
        return f"{loss} wants two classes, but the target has {classes}; use CrossEntropyLoss"
    if (form == "binary" or loss in MULTI_LABEL_LOSSES) and not (low >= 0 and high <= 1):
        return f"{loss} wants targets between 0 and 1, but they run from {low:g} to {high:g}"
    if form == "float" and (classes or 0) > 2:
        return f"{loss} wants numbers, but the target holds {classes} class labels; use CrossEntropyLoss"
    if loss in SIGN_LOSSES and not (low >= -1 and high <= 1 if target.open_ended else low == -1 and high == 1):
        return f"{loss} wants targets -1 and 1, but they run from {low:g} to {high:g}"
    if loss in SIGN_LOSSES and (target.zeros or target.fractions):
        return f"{loss} wants targets -1 and 1, but there are {'zeros' if target.zeros else 'fractions'} among them"
    if loss in NON_NEGATIVE_LOSSES and low < 0:
        return f"{loss} wants targets of at least 0, but the smallest is {low:g}"
    return None


def _mismatch(loss: LossComponent, route: Route, detail: str) -> SpecProblem:
    return SpecProblem(_told_at(loss, route), "target_mismatch", detail)


def _told_at(loss: LossComponent, route: Route) -> str:
    return f"/loss/inputs/{route.argument}" if route.argument in (loss.inputs or {}) else "/loss"


# ---- the shapes


Shapes = dict[str, Shape]  # of one row, by the argument that it feeds
Misfit = tuple[str, str]  # an argument, and the shape that it should have


def numbers(field: Field) -> Shape:
    """The shape of one row of a field as numbers: a label counts as one column."""
    return field.shape or (1,)


def shapes(loss: CompletedLoss, description: DataDescription, outputs: Mapping[str, Shape]) -> Shapes:
    """The shape of one row of everything that feeds the loss."""
    form = target_form(loss.component)
    found = {}
    for route in loss.routes:
        if route.from_model:
            found[route.argument] = tuple(outputs[route.name])
        else:
            field = field_of(description, route.name)
            found[route.argument] = field.shape if form == "class" else numbers(field)
    return found


def check_shapes(
    spec: JobSpec,
    loss: CompletedLoss,
    description: DataDescription,
    outputs: Mapping[str, Shape],
    leading: Sequence[ModelOutput] = (),
) -> list[SpecProblem]:
    """Whether everything that feeds the loss has the shape that the loss compares with the rest."""
    found = shapes(loss, description, outputs)
    misfit = RULES.get(loss.type, _alike)(loss, found)
    if misfit is not None:
        return [_shape_problem(spec, loss, misfit, found, leading)]
    if loss.type == "BCELoss":
        hint = "BCELoss takes probabilities: end the model with Sigmoid, or use BCEWithLogitsLoss on what it gives now"
        return _outside(loss, "input", PROBABILITIES, leading, hint)
    if loss.type == "GaussianNLLLoss":
        return _negative_variance(spec, loss, description, leading)
    return list(_ctc_values(loss, description, found)) if loss.type == "CTCLoss" else []


def _alike(loss: CompletedLoss, found: Shapes) -> Misfit | None:
    """Classes at dimension 1, as torch has them, or the very shape of the target."""
    target = found["target"]
    prediction = next(a for a in found if a != "target")
    wanted = (loss.classes, *target) if target_form(loss.component) == "class" else target
    if found[prediction] == wanted:
        return None
    each = ", one number for each class" if target_form(loss.component) == "class" else ", the target's shape"
    return prediction, written(wanted) + each


def _rows(_loss: CompletedLoss, found: Shapes) -> Misfit | None:
    """Embeddings: all of one width, a vector each row."""
    first, *others = [a for a in found if a != "target"]
    if len(found[first]) != 1:
        return first, "(n, d), a vector for each row"
    bad = next((a for a in others if found[a] != found[first]), None)
    if bad is not None:
        return bad, f"{written(found[first])}, as {first} has"
    return ("target", "(n, 1), a sign for each row") if found.get("target", (1,)) != (1,) else None


def _all_alike(_loss: CompletedLoss, found: Shapes) -> Misfit | None:
    target = found["target"]
    bad = next((a for a in found if found[a] != target), None)
    return None if bad is None else (bad, f"{written(target)}, the target's shape")


def _variance(_loss: CompletedLoss, found: Shapes) -> Misfit | None:
    """One variance for every number, or one for every row's last dimension (torch's homoscedastic form)."""
    target = found["target"]
    if found["input"] != target:
        return "input", f"{written(target)}, the target's shape"
    fits = found["var"] in {target, (*target[:-1], 1)}
    return None if fits else ("var", f"{written(target)}, or one number in the last dimension")


def _hidden(loss: CompletedLoss, found: Shapes) -> Misfit | None:
    """Losses with a layer of their own: features in, labels of the layer's own shape."""
    argument, target = ("input_", "target_") if "input_" in found else ("input", "target")
    if len(found[argument]) != 1:
        return argument, "(n, d), the features of each row"
    wanted = tuple(loss.arguments.get("out_features", ()))
    return None if found[target] == wanted else (target, f"{written(wanted)}, whole labels")


def _sequences(_loss: CompletedLoss, found: Shapes) -> Misfit | None:
    if len(found["log_probs"]) != 2:
        return "log_probs", "(n, T, C), log-probabilities of C labels at T steps"
    if len(found["targets"]) != 1:
        return "targets", "(n, S), labels filled up to S"
    bad = next((a for a in ("input_lengths", "target_lengths") if found.get(a, (1,)) != (1,)), None)
    return None if bad is None else (bad, "(n, 1), a length for each row")


RULES: dict[str, Callable[[CompletedLoss, Shapes], Misfit | None]] = {
    "CosineEmbeddingLoss": _rows,
    "MarginRankingLoss": _all_alike,
    "TripletMarginLoss": _rows,
    "TripletMarginWithDistanceLoss": _rows,
    "GaussianNLLLoss": _variance,
    "AdaptiveLogSoftmaxWithLoss": _hidden,
    "LinearCrossEntropyLoss": _hidden,
    "CTCLoss": _sequences,
}


def _ctc_values(loss: CompletedLoss, description: DataDescription, found: Shapes) -> Iterator[SpecProblem]:
    """Labels and lengths that torch would read past the end for."""
    steps, labels = found["log_probs"]
    blank = loss.arguments.get("blank", 0)
    if blank >= labels:
        yield SpecProblem("/loss/blank", "out_of_range", f"blank is one of the {labels} labels, 0 to {labels - 1}, not {blank}")
    limits = {"targets": labels - 1, "input_lengths": steps, "target_lengths": found["targets"][0]}
    for argument, limit in limits.items():
        route = loss.route(argument)
        if route is not None and field_of(description, route.name).high > limit:
            high = field_of(description, route.name).high
            detail = f"{argument} ({route.name}) goes up to {high:g}, but the model's output allows {limit}"
            yield _mismatch(loss.component, route, detail)


def _shape_problem(
    spec: JobSpec, loss: CompletedLoss, misfit: Misfit, found: Shapes, leading: Sequence[ModelOutput]
) -> SpecProblem:
    argument, wanted = misfit
    route = loss.route(argument)
    assert route is not None
    alone = len([r for r in loss.routes if r.from_model]) == 1
    what = "the model's output" if route.from_model and alone else f"{argument} ({route.name})"
    detail = f"{what} has shape {written(found[argument])}, but {loss.type} wants {wanted}"
    where = _where(spec, route, found[argument], leading) if alone else _told_at(spec.loss, route)
    return SpecProblem(where, "shape_mismatch", detail)


def _where(spec: JobSpec, route: Route, shape: Shape, leading: Sequence[ModelOutput]) -> str:
    """Pointer to what decides the shape: the size of the last layer that has one, or what the spec says of the argument."""
    output = next((output for output in leading if route.from_model and output.name == route.name), None)
    if output is None or route.argument in (spec.loss.inputs or {}):
        return _told_at(spec.loss, route)
    for layer in output.layers if len(shape) == 1 else ():
        for name in ("out_features", "out_channels"):
            if name in layer.arguments:
                return f"{layer.pointer}/{name}"
    return output.pointer


def _outside(
    loss: CompletedLoss, argument: str, kinds: frozenset[str], leading: Sequence[ModelOutput], hint: str
) -> list[SpecProblem]:
    """A problem where an output does not end with one of these layers, at its last one."""
    route = loss.route(argument)
    if route is None or not route.from_model or ends_with(kinds, route.name, leading):
        return []
    return [SpecProblem(last_layer(route.name, leading), "out_of_range", hint)]


def _negative_variance(
    spec: JobSpec, loss: CompletedLoss, description: DataDescription, leading: Sequence[ModelOutput]
) -> list[SpecProblem]:
    route = loss.route("var")
    if route is not None and not route.from_model and (low := seen(spec, description, route.name).low) < 0:
        return [_mismatch(loss.component, route, f"a variance is at least 0, but the smallest {route.name} is {low:g}")]
    hint = "GaussianNLLLoss takes a variance, which is at least 0: end its output with Softplus, Sigmoid or ReLU"
    return _outside(loss, "var", NOT_NEGATIVE, leading, hint)


def written(shape: Shape) -> str:
    """A shape of one row with its batch dimension: (n, 3)."""
    return "(" + ", ".join(["n", *map(str, shape)]) + ")" if shape else "(n,)"


# ---- tried on numbers


def check_loss(
    spec: JobSpec, description: DataDescription, outputs: Mapping[str, Shape], leading: Sequence[ModelOutput] = ()
) -> tuple[Criterion | None, list[SpecProblem]]:
    """The loss over a model with these outputs (`leading` says which layers lead to them), tried on two rows of real numbers:
    BCELoss with integer targets passes on the
    meta device. A loss with parameters of its own is built there and not tried, since they may take any memory.
    """
    try:
        completed = complete_loss(spec, description, outputs)
    except InvalidSpec as error:
        return None, error.problems
    problems = [*check_shapes(spec, completed, description, outputs, leading), *_weight_sizes(completed, description)]
    if problems:
        return None, problems
    own = completed.type in OWN_PARAMETERS
    try:
        with torch.device("meta" if own else "cpu"):
            loss = build_loss(completed)
        tried = sample(completed, description, outputs)
        value = torch.zeros(()) if own or tried is None else loss(*tried)
    except Exception as error:
        return None, [argument_problem("/loss", spec.loss, error)]
    if value.dim() != 0:
        detail = f"{spec.loss.type} gives a value of shape {tuple(value.shape)}, not one number"
        return None, [SpecProblem("/loss", "target_mismatch", detail)]
    return loss, []


def _weight_sizes(loss: CompletedLoss, description: DataDescription) -> Iterator[SpecProblem]:
    """Weights that torch would broadcast the output to."""
    if loss.type not in BINARY_LOSSES | MULTI_LABEL_LOSSES:
        return
    width = numbers(field_of(description, loss.routes[-1].name))[-1]
    for name in ("weight", "pos_weight"):
        given = loss.arguments.get(name)
        if isinstance(given, list) and len(given) not in {1, width}:
            detail = f"{loss.type}'s {name} has {len(given)} numbers; the target has {width} column(s)"
            yield SpecProblem(f"/loss/{name}", "shape_mismatch", detail)


def sample(loss: CompletedLoss, description: DataDescription, outputs: Mapping[str, Shape]) -> tuple[Batch, Batch] | None:
    """Outputs and fields of two rows in the right form, for trying loss and metrics on; None where a row is very large."""
    fields = description.targets | description.inputs
    if sum(math.prod(s) for s in outputs.values()) + sum(f.width for f in fields.values()) > MAX_SAMPLE:
        return None
    made = {name: torch.full((2, *shape), 0.5) for name, shape in outputs.items()}
    return made, {name: _two_rows(field, name in description.targets, loss) for name, field in fields.items()}


def _two_rows(field: Field, is_target: bool, loss: CompletedLoss) -> Tensor:
    form = target_form(loss.component) if is_target else "float"
    ends = torch.tensor([0, (field.classes or 1) - 1]) if form == "class" else torch.tensor([field.low, field.high])
    shape = field.shape if form == "class" else numbers(field)
    rows = ends.reshape(2, *(1 for _ in shape)).expand(2, *shape).contiguous()
    return rows if form == "class" else (rows.long() if form == "tokens" else rows.float())
