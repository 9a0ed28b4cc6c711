"""Metrics by torchmetrics' names (rule 8 of "What `seed` means"): outputs become probabilities, targets integers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
import torchmetrics
from torch import Tensor

from jobs.catalog import catalog
from jobs.spec import JobSpec, MetricComponent, SpecProblem
from workers.trainer.objective import OUTPUT, TARGET

if TYPE_CHECKING:
    from workers.trainer.data import Batch, Field


# Without num_outputs they average over all target columns, so that one number comes out.
OVER_ALL_COLUMNS = frozenset({"MeanSquaredError", "MeanAbsoluteError"})


class Metrics:
    """All metrics of a spec over one part of the data. Draws from no random generator."""

    def __init__(self, spec: JobSpec, target: Field, device: torch.device) -> None:
        """Raises what a metric's constructor raises."""
        self._loss = spec.loss.type
        self._metrics = {m.series: (m, build(m, target).to(device)) for m in spec.metrics}

    def update(self, outputs: Batch, batch: Batch) -> None:
        """One batch: the model's outputs as they are, the targets as the loss takes them."""
        for component, metric in self._metrics.values():
            metric.update(*seen_by(component, self._loss, outputs[OUTPUT].detach().float(), batch[TARGET]))

    def compute(self) -> dict[str, float]:
        """The metrics over everything since the last reset."""
        return {name: float(metric.compute()) for name, (_, metric) in self._metrics.items()}

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
    """The torchmetrics object, `num_classes` and `num_outputs` filled in. Raises what its constructor raises."""
    known = catalog().section("metrics")[component.type].arguments
    sizes = {"num_classes": target.classes}
    if component.type not in OVER_ALL_COLUMNS:
        sizes["num_outputs"] = target.width
    arguments = {name: size for name, size in sizes.items() if name in known and size is not None} | component.arguments()
    for module in (torchmetrics.classification, torchmetrics.regression):
        if hasattr(module, component.type):
            metric: torchmetrics.Metric = getattr(module, component.type)(**arguments)
            return metric
    raise ValueError(f"torchmetrics has no {component.type}")


def seen_by(component: MetricComponent, loss: str, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets in the form that a metric takes: probabilities and integers for classification."""
    if not component.type.startswith(("Binary", "Multiclass")):
        one = outputs.dim() == 2 and outputs.shape[1] == 1
        return (outputs.squeeze(1), targets.squeeze(1)) if one and targets.dim() == 2 else (outputs, targets)
    if loss == "CrossEntropyLoss":
        outputs = outputs.softmax(dim=1)
    elif loss == "NLLLoss":
        outputs = outputs.exp()
    elif loss == "BCEWithLogitsLoss":
        outputs = outputs.sigmoid()
    if component.type.startswith("Binary") and outputs.dim() == 2:
        outputs = outputs[:, -1]  # (n, 1), or (n, 2): the second class is the positive one
    return outputs, targets.reshape(len(targets)).long()


def check(spec: JobSpec, target: Field, outputs: Tensor, targets: Tensor) -> list[SpecProblem]:
    """Every metric tried on two rows of outputs and targets."""
    problems: list[SpecProblem] = []
    for index, component in enumerate(spec.metrics):
        if wrong := _wrong_size(component, target):
            problems.append(SpecProblem(f"/metrics/{index}/{wrong[0]}", "shape_mismatch", wrong[1]))
            continue
        if (reason := _unfit(component, spec, target, not targets.is_floating_point())) is not None:
            problems.append(SpecProblem(f"/metrics/{index}", "target_mismatch", f"{component.type} {reason}"))
            continue
        try:
            metric = build(component, target)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                metric.update(*seen_by(component, spec.loss.type, outputs, targets))
                value = metric.compute()
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise ValueError("it gives several numbers; a series holds one (average them by its own argument)")
        except Exception as error:
            text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            problems.append(SpecProblem(f"/metrics/{index}", "invalid_argument", f"{component.type}: {text}"))
    return problems


def _wrong_size(component: MetricComponent, target: Field) -> tuple[str, str] | None:
    """A given size that is not the data's, and what to say. Checked first: a metric takes memory by its sizes."""
    given = component.arguments()
    classes, width = given.get("num_classes"), given.get("num_outputs")
    if classes is not None and target.classes is not None and classes != target.classes:
        return "num_classes", f"the target has {target.classes} classes, not {classes}"
    if width is not None and width not in {1, target.width}:
        return "num_outputs", f"the target has {target.width} column(s), not {width}"
    return None


def _unfit(component: MetricComponent, spec: JobSpec, target: Field, targets_are_labels: bool) -> str | None:
    two = target.classes == 2
    if component.type.startswith("Binary") and not two:
        return f"wants two classes; the target has {target.classes or 'none, it is a number'}"
    if component.type.startswith("Multiclass") and (target.classes is None or spec.loss.type.startswith("BCE")):
        return "wants one output for each class; use a Binary metric, or CrossEntropyLoss with an output for each class"
    if not component.type.startswith(("Binary", "Multiclass")) and targets_are_labels:
        return "compares numbers, but the target holds class labels; use a Multiclass metric"
    return None
