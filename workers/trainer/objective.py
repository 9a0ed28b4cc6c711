"""Step 3, its first half: the loss by name, and which output of the model or field of the data feeds each of its arguments."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from jobs.arguments import did_you_mean, escape, shown
from jobs.catalog import catalog
from jobs.components import LossComponent
from jobs.spec import Component, InvalidSpec, JobSpec, SpecProblem
from workers.trainer import balance
from workers.trainer.components import live_arguments
from workers.trainer.fields import LENGTHS as SUFFIX

if TYPE_CHECKING:  # data.py asks this module for the target's form
    from workers.trainer.data import Batch, DataDescription, Field, Part

TargetForm = Literal["class", "binary", "float", "tokens"]
Shape = tuple[int, ...]

CLASS_LOSSES = frozenset(
    {"CrossEntropyLoss", "NLLLoss", "MultiMarginLoss", "AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss"}
)
BINARY_LOSSES = frozenset({"BCELoss", "BCEWithLogitsLoss"})
SIGN_LOSSES = frozenset({"SoftMarginLoss", "HingeEmbeddingLoss", "CosineEmbeddingLoss", "MarginRankingLoss"})
NON_NEGATIVE_LOSSES = frozenset({"PoissonNLLLoss", "KLDivLoss"})
MULTI_LABEL_LOSSES = frozenset({"MultiLabelMarginLoss", "MultiLabelSoftMarginLoss"})
OWN_PARAMETERS = frozenset({"AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss"})

OUTPUT, TARGET = "output", "y"  # the only output of a Sequential, the only target of a data set that names none
# Arguments of forward that the data feeds where the spec does not say otherwise; the model's outputs feed all others.
FROM_DATA = frozenset({"target", "target_", "targets", "input_lengths", "target_lengths"})
LENGTHS = ("input_lengths", "target_lengths")  # CTCLoss: counted where no field gives them


def target_form(loss: Component) -> TargetForm:
    """class: int64 labels (n,); binary: float32 (n, k) in [0, 1]; float: float32 (n, k); tokens: int64 (n, k)."""
    if loss.type in CLASS_LOSSES:
        return "class"
    if loss.type == "CTCLoss":
        return "tokens"
    return "binary" if loss.type in BINARY_LOSSES else "float"


# ---- what feeds what


@dataclass(frozen=True)
class Route:
    """One argument of a loss's forward, and the output or field that feeds it."""

    argument: str
    name: str
    from_model: bool


def target_routes(loss: LossComponent, description: DataDescription) -> tuple[list[Route], list[SpecProblem]]:
    """The arguments that the data feeds: by `inputs`, else the data's targets in order."""
    arguments = [a for a in _forward(loss) if a in FROM_DATA]
    fields = [*description.targets, *description.inputs]
    return _routes(loss, arguments, list(description.targets), fields, from_model=False)


def prediction_routes(
    loss: LossComponent, outputs: Collection[str], description: DataDescription
) -> tuple[list[Route], list[SpecProblem]]:
    """The other arguments: by `inputs` (an output before a field of that name), else the model's outputs in order."""
    arguments = [a for a in _forward(loss) if a not in FROM_DATA]
    fields = [*description.targets, *description.inputs]
    routes, problems = _routes(loss, arguments, list(outputs), [*outputs, *fields], from_model=True)
    routes = [Route(r.argument, r.name, r.name in outputs) for r in routes]
    if routes and not problems and not any(r.from_model for r in routes):
        detail = f"no argument of {loss.type} is an output of the model, so nothing could learn"
        problems.append(SpecProblem("/loss/inputs", "out_of_range", detail))
    return routes, problems


def _forward(loss: Component) -> tuple[str, ...]:
    return catalog().section("losses")[loss.type].forward


def _routes(
    loss: LossComponent, arguments: Sequence[str], natural: list[str], known: list[str], *, from_model: bool
) -> tuple[list[Route], list[SpecProblem]]:
    given = {a: name for a, name in (loss.inputs or {}).items() if a in _forward(loss)}
    if "target_lengths" in arguments and natural:
        # The lengths that come with a field of sequences are that field's, though another argument stands before.
        own = given.get("targets", next((n for n in natural if n not in given.values()), "")) + SUFFIX
        if own in natural and own not in given.values():
            given.setdefault("target_lengths", own)
    free = iter([name for name in natural if name not in given.values()])
    routes, problems = [], []
    for argument in arguments:
        name = given.get(argument) or next(free, None)
        if name is None:
            problems += [] if argument in LENGTHS else [_missing(loss, argument, natural, from_model)]
        elif name not in known:
            what = "output of the model or field of the data" if from_model else "field of the data"
            detail = f"there is no {what} {shown(name)}; there are {', '.join(known)}{did_you_mean(name, known)}"
            problems.append(SpecProblem(f"/loss/inputs/{argument}", "unknown_choice", detail))
        else:
            routes.append(Route(argument, name, from_model))
    return routes, problems


def _missing(loss: Component, argument: str, natural: list[str], from_model: bool) -> SpecProblem:
    whose = "the model's outputs" if from_model else "the data's targets"
    detail = (
        f"{loss.type} takes {', '.join(_forward(loss))}, and {whose} ({', '.join(natural) or 'none'}) leave nothing for "
        f"{argument}: say in loss.inputs what feeds it"
    )
    return SpecProblem(f"/loss/inputs/{argument}", "missing", detail)


def unknown_arguments(loss: LossComponent) -> Iterator[SpecProblem]:
    """Keys of `inputs` that the loss's forward does not have."""
    forward = _forward(loss)
    for name in loss.inputs or {}:
        if name not in forward:
            detail = f"{loss.type} takes {', '.join(forward)}, not {shown(name)}{did_you_mean(name, forward)}"
            yield SpecProblem(f"/loss/inputs/{escape(name)}", "unknown_field", detail)


# ---- the loss with every size filled in


@dataclass(frozen=True)
class CompletedLoss:
    """A loss with its sizes and what feeds it; `arguments` are JSON values, `weight` may still be "balanced"."""

    component: LossComponent
    arguments: dict[str, Any]
    inferred: frozenset[str]
    routes: tuple[Route, ...]
    classes: int = 0  # of the target, 0 where it is a number

    @property
    def type(self) -> str:
        return self.component.type

    def route(self, argument: str) -> Route | None:
        """What feeds an argument of forward, or None (a length of CTCLoss that is counted)."""
        return next((r for r in self.routes if r.argument == argument), None)


def complete_loss(spec: JobSpec, description: DataDescription, outputs: Mapping[str, Shape]) -> CompletedLoss:
    """The loss over a model with these outputs (shapes of one row). Raises InvalidSpec with every problem."""
    predictions, problems = prediction_routes(spec.loss, outputs, description)
    targets, more = target_routes(spec.loss, description)
    problems = [*unknown_arguments(spec.loss), *problems, *more]
    if problems:
        raise InvalidSpec(problems)
    arguments, inferred = _fill(spec.loss, predictions[0], targets, description, outputs)
    classes = (field_of(description, targets[0].name).classes or 0) if targets else 0
    return CompletedLoss(spec.loss, arguments, inferred, (*predictions, *targets), classes)


def _fill(
    loss: LossComponent, prediction: Route, targets: list[Route], description: DataDescription, outputs: Mapping[str, Shape]
) -> tuple[dict[str, Any], frozenset[str]]:
    """Sizes of a loss's own parameters. Raises InvalidSpec when a given one does not fit."""
    if loss.type not in OWN_PARAMETERS:
        return loss.arguments(), frozenset()
    shape = outputs.get(prediction.name, ())
    classes = field_of(description, targets[0].name).classes
    names = ("in_features", "n_classes" if loss.type == "AdaptiveLogSoftmaxWithLoss" else "num_classes")
    found = dict(zip(names, (shape[-1] if shape else None, classes), strict=True))
    given, problems = loss.arguments(), []
    for name, size in found.items():
        if size is not None and given.get(name, size) != size:
            why = "the model's output has" if name == "in_features" else "the target has"
            problems.append(SpecProblem(f"/loss/{name}", "shape_mismatch", f"{why} {size}, not {shown(given[name])}"))
    if problems:
        raise InvalidSpec(problems)
    sizes = {name: size for name, size in found.items() if size is not None}
    return sizes | given, frozenset(sizes) - frozenset(given)


def field_of(description: DataDescription, name: str) -> Field:
    """A target or input of the data."""
    return description.targets[name] if name in description.targets else description.inputs[name]


class Criterion:
    """A loss of torch.nn, fed by name from the model's outputs and the batch."""

    def __init__(self, module: nn.Module, loss: CompletedLoss, balanced: bool = False) -> None:
        """`balanced` says that the module's weights were counted from the training part."""
        self.module, self.loss, self._balanced = module, loss, balanced
        self._routes = [(r.argument, r.name, r.from_model) for r in loss.routes]
        self._prepare = PREPARE.get(loss.type)

    def __call__(self, outputs: Batch, batch: Batch) -> Tensor:
        """The loss as the module returns it, of no dimension; NaN where it refuses outputs that are not finite."""
        fed = {argument: (outputs if from_model else batch)[name] for argument, name, from_model in self._routes}
        try:
            value = self.module(**(fed if self._prepare is None else self._prepare(self.module, fed)))
        except (RuntimeError, ValueError):  # BCELoss wants numbers in [0, 1], which NaN is not
            if all(bool(output.isfinite().all()) for output in outputs.values()):
                raise
            value = sum(output.sum() for output in outputs.values()) * math.nan
        loss: Tensor = value[1] if isinstance(value, tuple) else value  # AdaptiveLogSoftmaxWithLoss gives (output, loss)
        return loss

    @property
    def reduction(self) -> str:
        """ "mean" or "sum"."""
        return str(getattr(self.module, "reduction", "mean"))

    def parameters(self) -> dict[str, nn.Parameter]:
        """The loss's own parameters, named apart from the model's."""
        return {f"loss.{name}": parameter for name, parameter in self.module.named_parameters()}

    def read_back(self) -> dict[str, Any]:
        """Every argument as the live module has it."""
        found = live_arguments("losses", self.loss.component, self.module)
        linear = getattr(self.module, "linear", None)
        if isinstance(linear, nn.Linear):  # LinearCrossEntropyLoss keeps these two in its layer
            found |= {"in_features": linear.in_features, "bias": linear.bias is not None}
        if self.loss.type == "AdaptiveLogSoftmaxWithLoss":
            found["cutoffs"] = found["cutoffs"][:-1]  # torch adds the number of classes
        uncounted = [n for n, v in self.loss.arguments.items() if v == balance.BALANCED and not self._balanced]
        return found | dict.fromkeys(uncounted, balance.BALANCED)

    def scores(self, output: Tensor) -> Tensor:
        """An output of the model as the loss reads it: probabilities where the loss says which they are."""
        kind = self.loss.type
        if kind == "LinearCrossEntropyLoss":
            output = self.module.linear(output)  # type: ignore[operator]
        if kind in {"CrossEntropyLoss", "LinearCrossEntropyLoss"}:
            return output.softmax(dim=1)
        if kind in {"BCEWithLogitsLoss", *MULTI_LABEL_LOSSES}:
            return output.sigmoid()
        if kind == "AdaptiveLogSoftmaxWithLoss":
            return self.module.log_prob(output).exp()  # type: ignore[operator, no-any-return]
        return output.exp() if kind == "NLLLoss" else output


def build_loss(loss: CompletedLoss, train: Part | None = None) -> Criterion:
    """The loss by its constructor, tensor arguments (`weight`, `pos_weight`) float32 on the CPU; its own parameters draw here.

    Where a weight is "balanced" it is counted from `train`; without it ones stand for it. Raises what the constructor raises,
    and InvalidSpec when a class has no row in `train`.
    """
    known = catalog().section("losses")[loss.type].arguments
    arguments: dict[str, Any] = {}
    for name, value in loss.arguments.items():
        if value == balance.BALANCED and "tensor" in known[name].forms:
            arguments[name] = None if train is None else balance.weights(name, train.field(loss.routes[-1].name), loss)
        elif isinstance(value, list):
            tensor = "tensor" in known[name].forms
            arguments[name] = torch.tensor(value, dtype=torch.float32, device="cpu") if tensor else _sizes(loss.type, value)
        else:
            arguments[name] = value
    return Criterion(getattr(nn, loss.type)(**arguments), loss, balanced=train is not None)


def _sizes(kind: str, value: list[Any]) -> list[Any] | tuple[Any, ...]:
    return value if kind == "AdaptiveLogSoftmaxWithLoss" else tuple(value)  # it adds to its list of cutoffs


# ---- arguments in the form that torch wants them


def _rows_of_signs(_module: nn.Module, fed: Batch) -> Batch:
    target = fed["target"]
    return fed | {"target": target.squeeze(1) if target.dim() == 2 else target}


def _labels_first(_module: nn.Module, fed: Batch) -> Batch:
    """0/1 columns as MultiLabelMarginLoss reads them: the row's labels in rising order, then -1."""
    on = fed["target"] > 0.5
    labels = torch.arange(on.shape[1], device=on.device).expand_as(on)
    sorted_labels = labels.masked_fill(~on, on.shape[1]).sort(dim=1).values
    return fed | {"target": sorted_labels.masked_fill(sorted_labels == on.shape[1], -1)}


def _time_first(module: nn.Module, fed: Batch) -> Batch:
    """CTCLoss: log_probs (n, T, C) become (T, n, C). Without lengths the input's are T, the targets' how many are labels."""
    log_probs, targets = fed["log_probs"].transpose(0, 1), fed["targets"].long()
    labels = (targets >= 0) & (targets != module.blank)
    counted = {
        "input_lengths": torch.full((log_probs.shape[1],), log_probs.shape[0], device=targets.device),
        "target_lengths": labels.sum(dim=1),
    }
    lengths = {name: fed[name].reshape(-1).long() if name in fed else counted[name] for name in LENGTHS}
    return {"log_probs": log_probs, "targets": targets, **lengths}


PREPARE = {"CosineEmbeddingLoss": _rows_of_signs, "MultiLabelMarginLoss": _labels_first, "CTCLoss": _time_first}
