"""Metrics by torchmetrics' names (rule 8 of "What `seed` means"): outputs become probabilities, targets integers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torchmetrics
from torch import Tensor

from jobs.arguments import did_you_mean, escape, shown
from jobs.catalog import catalog
from jobs.components import MetricComponent
from jobs.spec import JobSpec, SpecProblem
from workers.trainer.data import Batch, DataDescription, Field
from workers.trainer.figures import check_series, figures
from workers.trainer.fit import numbers, sample, written
from workers.trainer.objective import FROM_DATA, OWN_PARAMETERS, Criterion, Shape, field_of, target_form
from workers.trainer.place import first_line
from workers.trainer.ranges import POSITIVE, ends_with

if TYPE_CHECKING:
    from workers.trainer.model import ModelOutput

# Without num_outputs they average over all target columns, as torchmetrics has it.
OVER_ALL_COLUMNS = frozenset({"MeanSquaredError", "MeanAbsoluteError"})
OF_ENSEMBLES = frozenset({"ContinuousRankedProbabilityScore"})  # several predictions for one target
MAX_MEMBERS = 1000
CLASSIFICATION = ("Binary", "Multiclass", "Multilabel")
ARGUMENTS = ("preds", "target")


@dataclass(frozen=True)
class Measure:
    """One metric of a spec in its place: what it sees."""

    component: MetricComponent
    preds: str  # an output of the model
    target: str  # a field of the data
    by_loss: bool  # preds is what the loss reads too, so the loss says what its numbers mean

    @property
    def type(self) -> str:
        return self.component.type

    def seen(self, loss: Criterion, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and targets in the form that the metric takes: probabilities and integers for classification."""
        if not self.type.startswith(CLASSIFICATION):
            one = targets.dim() == 2 and targets.shape[1] == 1
            narrow = outputs.dim() == 2 and outputs.shape[1] == 1 and self.type not in OF_ENSEMBLES
            return outputs.squeeze(1) if one and narrow else outputs, targets.squeeze(1) if one else targets
        if self.by_loss:
            outputs = loss.scores(outputs)
        if self.type.startswith("Binary"):  # (n, 1), or (n, 2): the second class is the positive one
            return outputs[:, -1] if outputs.dim() == 2 else outputs, targets.reshape(len(targets)).long()
        return outputs, targets.long()


def measure(component: MetricComponent, loss: Criterion, description: DataDescription) -> Measure:
    """What a metric sees: by its `inputs`, else what the loss compares: its first output and its target."""
    given = component.inputs or {}
    routes = loss.loss.routes
    compared = next((r.name for r in routes if r.argument in FROM_DATA), next(iter(description.targets), ""))
    preds = given.get("preds", next(r.name for r in routes if r.from_model))
    return Measure(component, preds, given.get("target", compared), any(r.from_model and r.name == preds for r in routes))


class Metrics:
    """All metrics of a spec over one part of the data. Draws from no random generator."""

    def __init__(self, spec: JobSpec, description: DataDescription, loss: Criterion, device: torch.device) -> None:
        """Raises what a metric's constructor raises."""
        self._loss = loss
        self._metrics: dict[str, tuple[Measure, torchmetrics.Metric]] = {}
        for component in spec.metrics:
            found = measure(component, loss, description)
            self._metrics[component.series] = found, build(component, field_of(description, found.target)).to(device)

    def update(self, outputs: Batch, batch: Batch) -> None:
        """One batch: the model's outputs as they are, the fields as the loss takes them.

        Raises ValueError, which names the metric, for numbers that it is not defined for.
        """
        with torch.no_grad():  # a loss with a layer of its own makes probabilities by it
            for name, (found, metric) in self._metrics.items():
                seen = found.seen(self._loss, outputs[found.preds].detach().float(), batch[found.target])
                try:
                    metric.update(*seen)
                except ValueError as error:
                    raise ValueError(f"metric {name}: {first_line(error)}") from error

    @property
    def names(self) -> list[str]:
        """The series' names, without the part."""
        return list(self._metrics)

    def compute(self) -> dict[str, float]:
        """The metrics over everything since the last reset, by the series they go to."""
        return {
            f"{name}{path}": number
            for name, (found, metric) in self._metrics.items()
            for path, number in figures(found.type, metric.compute()).items()
        }

    def reset(self) -> None:
        for _, metric in self._metrics.values():
            metric.reset()

    def state(self) -> dict[str, dict[str, Any]]:
        """What has been collected since the last reset, for a checkpoint."""
        return {
            name: {"count": metric._update_count, "values": {k: _copied(getattr(metric, k)) for k in metric._defaults}}
            for name, (_, metric) in self._metrics.items()
        }

    def restore(self, state: dict[str, dict[str, Any]]) -> None:
        """Takes up what `state` gave."""
        for name, (_, metric) in self._metrics.items():
            metric._update_count = state[name]["count"]
            metric._computed = None
            for key, value in state[name]["values"].items():
                setattr(metric, key, _moved(value, metric.device))


def _copied(value: Any) -> Any:
    return [v.clone() for v in value] if isinstance(value, list) else value.clone()


def _moved(value: Any, device: torch.device) -> Any:
    return [v.to(device) for v in value] if isinstance(value, list) else value.to(device)


def build(component: MetricComponent, target: Field) -> torchmetrics.Metric:
    """The torchmetrics object, `num_classes`, `num_labels` and `num_outputs` filled in. Raises what its constructor raises."""
    known = catalog().section("metrics")[component.type].arguments
    sizes = {"num_classes": target.classes, "num_labels": target.width}
    if component.type not in OVER_ALL_COLUMNS:
        sizes["num_outputs"] = target.width
    arguments = {name: size for name, size in sizes.items() if name in known and size is not None} | component.arguments()
    for module in (torchmetrics.classification, torchmetrics.regression):
        if hasattr(module, component.type):
            metric: torchmetrics.Metric = getattr(module, component.type)(**arguments)
            return metric
    raise ValueError(f"torchmetrics has no {component.type}")


# ---- does it fit


def check(
    spec: JobSpec,
    description: DataDescription,
    loss: Criterion,
    outputs: Mapping[str, Shape],
    leading: Sequence[ModelOutput] = (),
) -> list[SpecProblem]:
    """Every metric tried on two rows of outputs and targets, or one where a part has one. `loss` may be on the meta device."""
    tried = sample(loss.loss, description, outputs)
    problems: list[SpecProblem] = []
    given = {component.series: [""] for component in spec.metrics} if tried is None else {}
    for index, component in enumerate(spec.metrics):
        found = measure(component, loss, description)
        problem = _unknown(found, description, outputs) or _misfit(found, loss, description, outputs)
        problem = problem or _undefined(found, leading)
        if problem is None and tried is not None:
            paths = _tried(found, loss, description, tried)
            problem = paths if isinstance(paths, SpecProblem) else _alone(found, loss, description, tried)
            given |= {component.series: paths} if isinstance(paths, list) else {}
        if problem is not None:
            problems.append(SpecProblem(f"/metrics/{index}{problem.pointer}", problem.code, problem.detail))
    return problems or list(check_series(spec, given))


def _unknown(found: Measure, description: DataDescription, outputs: Mapping[str, Shape]) -> SpecProblem | None:
    """A name in `inputs` that there is not. Pointers of this and what follows begin at the metric."""
    known = {"preds": list(outputs), "target": [*description.targets, *description.inputs]}
    for name in found.component.inputs or {}:
        if name not in ARGUMENTS:
            detail = f"{found.type} takes preds and target, not {shown(name)}"
            return SpecProblem(f"/inputs/{escape(name)}", "unknown_field", detail)
    for argument, name in (("preds", found.preds), ("target", found.target)):
        if name not in known[argument]:
            what = "output of the model" if argument == "preds" else "field of the data"
            hint = did_you_mean(name, known[argument])
            detail = f"there is no {what} {shown(name)}; there are {', '.join(known[argument])}{hint}"
            return SpecProblem(f"/inputs/{argument}", "unknown_choice", detail)
    return None


def _misfit(found: Measure, loss: Criterion, description: DataDescription, outputs: Mapping[str, Shape]) -> SpecProblem | None:
    target = field_of(description, found.target)
    if wrong := _wrong_size(found.component, target):
        return SpecProblem(f"/{wrong[0]}", "shape_mismatch", wrong[1])
    if (reason := _unfit(found, loss, target, description)) is not None:
        return SpecProblem("", "target_mismatch", f"{found.type} {reason}")
    given, wanted = tuple(outputs[found.preds]), _wanted(found, target)
    if found.by_loss and loss.loss.type in OWN_PARAMETERS:
        return None
    if given not in wanted:
        detail = f"{found.type} wants preds of shape {written(wanted[0])}, but {found.preds} has {written(given)}"
        return SpecProblem("/inputs/preds" if "preds" in (found.component.inputs or {}) else "", "shape_mismatch", detail)
    return None


def _wanted(found: Measure, target: Field) -> list[Shape]:
    """Shapes of one row of outputs that fit a target; nothing is broadcast."""
    if found.type.startswith("Binary"):
        return [(1,), (2,)]
    if found.type in OF_ENSEMBLES:
        return [(k,) for k in range(2, MAX_MEMBERS + 1)]
    if found.type.startswith("Multiclass"):
        return [(target.classes or 1, *target.shape)]
    return [numbers(target)]


def _wrong_size(component: MetricComponent, target: Field) -> tuple[str, str] | None:
    """A given size that is not the data's, and what to say. Checked first: a metric takes memory by its sizes."""
    given = component.arguments()
    classes, labels, width = given.get("num_classes"), given.get("num_labels"), given.get("num_outputs")
    if classes is not None and target.classes is not None and classes != target.classes:
        return "num_classes", f"the target has {target.classes} classes, not {classes}"
    if labels is not None and labels != target.width:
        return "num_labels", f"the target has {target.width} column(s), not {labels}"
    if width is not None and width not in {1, target.width}:
        return "num_outputs", f"the target has {target.width} column(s), not {width}"
    return None


def _unfit(found: Measure, loss: Criterion, target: Field, description: DataDescription) -> str | None:
    labels = target.classes is not None and found.target in description.targets and target_form(loss.loss.component) == "class"
    if found.type.startswith(("Binary", "Multilabel")) and target.fractions:
        return "wants targets 0 and 1, but there are fractions among them; a regression metric compares probabilities"
    if found.type.startswith("Binary") and target.classes != 2:
        return f"wants two classes; the target has {target.classes or 'none, it is a number'}"
    if found.type.startswith("Multiclass") and not labels:
        return "wants one output for each class; use a Binary metric, or CrossEntropyLoss with an output for each class"
    if found.type.startswith("Multilabel") and (labels or target.width < 2 or target.low < 0 or target.high > 1):
        return "wants several target columns of 0 and 1, one for each label"
    if not found.type.startswith(CLASSIFICATION) and labels:
        return "compares numbers, but the target holds class labels; use a Multiclass metric"
    return None


def _tried(
    found: Measure, loss: Criterion, description: DataDescription, tried: tuple[Batch, Batch]
) -> list[str] | SpecProblem:
    """What follows the metric's name in its series, or why it cannot be computed."""
    outputs, batch = tried[0][found.preds], tried[1][found.target]
    own = found.by_loss and loss.loss.type in OWN_PARAMETERS
    seen = Measure(found.component, found.preds, found.target, found.by_loss and not own)
    if own:
        outputs = torch.full((len(batch), loss.loss.classes), 0.5)
    try:
        metric = build(found.component, field_of(description, found.target))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metric.update(*seen.seen(loss, outputs, batch))
            return list(figures(found.type, metric.compute()))
    except Exception as error:
        return SpecProblem("", "invalid_argument", f"{found.type}: {first_line(error)}")


def _alone(found: Measure, loss: Criterion, description: DataDescription, tried: tuple[Batch, Batch]) -> SpecProblem | None:
    """A metric that one row is not enough for, where a part has no more."""
    part = next((part for part, rows in description.counts.items() if rows == 1), None)
    one, other = ({name: values[:1] for name, values in rows.items()} for rows in tried)
    problem = None if part is None else _tried(found, loss, description, (one, other))
    if not isinstance(problem, SpecProblem):
        return None
    return SpecProblem("", "out_of_range", f"the {part} part has one row, which is not enough: {problem.detail}")


def _undefined(found: Measure, leading: Sequence[ModelOutput]) -> SpecProblem | None:
    """A deviance of predictions that may be 0 or less, which torchmetrics fails on in the batch where one is."""
    if found.type != "TweedieDevianceScore" or found.component.arguments().get("power", 0) == 0:
        return None
    if ends_with(POSITIVE, found.preds, leading):
        return None
    power = found.component.arguments()["power"]
    detail = f"TweedieDevianceScore with power {power:g} wants predictions greater than 0: end the model with Softplus"
    return SpecProblem("/power", "out_of_range", detail)
