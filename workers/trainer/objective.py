"""Step 3, the objective: loss, optimizer and scheduler by name, and whether the loss fits the model's output and the target."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from jobs.catalog import catalog
from jobs.spec import Component, JobSpec, SpecProblem
from workers.trainer.metrics import Metrics as Metrics

if TYPE_CHECKING:  # data.py asks this module for the target's form
    from workers.trainer.data import DataDescription

TargetForm = Literal["class", "binary", "float"]

CLASS_LOSSES = frozenset({"CrossEntropyLoss", "NLLLoss", "MultiMarginLoss"})
BINARY_LOSSES = frozenset({"BCELoss", "BCEWithLogitsLoss"})
SIGN_LOSSES = frozenset({"SoftMarginLoss", "HingeEmbeddingLoss"})
NON_NEGATIVE_LOSSES = frozenset({"PoissonNLLLoss", "KLDivLoss"})

# Layers whose output lies in [0, 1], and layers behind them that leave it there.
PROBABILITIES = frozenset({"Sigmoid", "Hardsigmoid", "Softmax", "Softmax2d", "Softmin"})
TRANSPARENT = frozenset({"Flatten", "Unflatten", "Identity"})


def target_form(loss: Component) -> TargetForm:
    """class: int64 labels (n,); binary: float32 (n, 1) in [0, 1]; float: float32 (n, k)."""
    if loss.type in CLASS_LOSSES:
        return "class"
    return "binary" if loss.type in BINARY_LOSSES else "float"


def build_loss(spec: JobSpec) -> nn.Module:
    """The loss, its tensor arguments (`weight`, `pos_weight`) float32. Raises what the constructor raises."""
    known = catalog().section("losses")[spec.loss.type].arguments
    arguments = {
        name: torch.tensor(value, dtype=torch.float32) if isinstance(value, list) and "tensor" in known[name].forms else value
        for name, value in spec.loss.arguments().items()
    }
    loss: nn.Module = getattr(nn, spec.loss.type)(**arguments)
    return loss


def build_optimizer(spec: JobSpec, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimizer; lists become tuples, as in `betas=(0.9, 0.999)`. Raises what the constructor raises."""
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.optimizer.arguments().items()}
    optimizer: Optimizer = getattr(optim, spec.optimizer.type)(parameters, **arguments)
    return optimizer


def build_scheduler(spec: JobSpec, optimizer: Optimizer) -> LRScheduler | None:
    """The scheduler, or None. Raises what the constructor raises."""
    if spec.lr_scheduler is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "call optimizer.step() first" is about loops that a user wrote
        scheduler: LRScheduler = getattr(optim.lr_scheduler, spec.lr_scheduler.type)(optimizer, **spec.lr_scheduler.arguments())
    return scheduler


# ---- does it fit


def check_target(spec: JobSpec, description: DataDescription) -> list[SpecProblem]:
    """Whether the data's target is what the loss can learn from."""
    loss, low, high = spec.loss.type, description.target_min, description.target_max
    form = target_form(spec.loss)
    if form == "class" and description.classes is None:
        return [
            _loss_problem(
                f"{loss} wants class labels, but the target is a number; use MSELoss, HuberLoss or another regression loss"
            )
        ]
    if form == "binary" and (description.classes or 2) > 2:
        return [_loss_problem(f"{loss} wants two classes, but the target has {description.classes}; use CrossEntropyLoss")]
    if form == "binary" and not (low >= 0 and high <= 1):
        return [_loss_problem(f"{loss} wants targets between 0 and 1, but they run from {low:g} to {high:g}")]
    if form == "float" and (description.classes or 0) > 2:
        return [
            _loss_problem(
                f"{loss} wants numbers, but the target holds {description.classes} class labels; use CrossEntropyLoss"
            )
        ]
    if loss in SIGN_LOSSES and not (low == -1 and high == 1):
        return [_loss_problem(f"{loss} wants targets -1 and 1, but they run from {low:g} to {high:g}")]
    if loss in NON_NEGATIVE_LOSSES and low < 0:
        return [_loss_problem(f"{loss} wants targets of at least 0, but the smallest is {low:g}")]
    return []


def check_output(spec: JobSpec, description: DataDescription, shape: tuple[int, ...]) -> list[SpecProblem]:
    """Whether an output of `shape` (one row) is what the loss compares with the target; nothing is ever broadcast."""
    width = description.classes if target_form(spec.loss) == "class" else description.target_width
    where = _last_sized_layer(spec)
    if shape != (width,):
        wanted = f"(n, {width})" + (
            ", one number for each class" if target_form(spec.loss) == "class" else ", the target's shape"
        )
        detail = f"the model's output has shape {_written(shape)}, but {spec.loss.type} wants {wanted}"
        return [SpecProblem(where if len(shape) == 1 else "/model/layers", "shape_mismatch", detail)]
    last = next((layer.type for layer in reversed(spec.model.layers) if layer.type not in TRANSPARENT), "")
    if spec.loss.type == "BCELoss" and last not in PROBABILITIES:
        detail = "BCELoss takes probabilities: end the model with Sigmoid, or use BCEWithLogitsLoss on what it gives now"
        return [SpecProblem(f"/model/layers/{len(spec.model.layers) - 1}", "out_of_range", detail)]
    return []


def sample(spec: JobSpec, description: DataDescription) -> tuple[Tensor, Tensor]:
    """An output and a target of two rows in the right form, for trying loss and metrics on."""
    if target_form(spec.loss) == "class":
        return torch.full((2, description.classes or 1), 0.5), torch.tensor([0, (description.classes or 1) - 1])
    ends = [[description.target_min], [description.target_max]]
    target = torch.tensor(ends, dtype=torch.float32).expand(2, description.target_width)
    return torch.full((2, description.target_width), 0.5), target.contiguous()


def check_loss(spec: JobSpec, description: DataDescription) -> tuple[nn.Module | None, list[SpecProblem]]:
    """The loss, tried on two rows of real numbers: BCELoss with integer targets passes on the meta device."""
    for name in ("weight", "pos_weight") if spec.loss.type in BINARY_LOSSES else ():
        given = spec.loss.arguments().get(name)
        if given is not None and len(given) not in {1, description.target_width}:  # torch would broadcast the output to it
            detail = f"{spec.loss.type}'s {name} has {len(given)} numbers; the target has {description.target_width} column(s)"
            return None, [SpecProblem(f"/loss/{name}", "shape_mismatch", detail)]
    try:
        loss = build_loss(spec)
        value = loss(*sample(spec, description))
    except Exception as error:
        return None, [_argument_problem("/loss", spec.loss, error)]
    if value.dim() != 0:
        return None, [_loss_problem(f"{spec.loss.type} gives a value of shape {tuple(value.shape)}, not one number")]
    return loss, []


def check_optimizer(
    spec: JobSpec, parameters: list[nn.Parameter], steps: int
) -> tuple[Optimizer | None, LRScheduler | None, list[SpecProblem]]:
    """Optimizer and scheduler, or what their constructors say. `steps` is how often the scheduler will step."""
    if not parameters:
        return (
            None,
            None,
            [SpecProblem("/model/layers", "out_of_range", "no layer has parameters, so there is nothing to train")],
        )
    try:
        optimizer = build_optimizer(spec, parameters)
    except Exception as error:
        return None, None, [_argument_problem("/optimizer", spec.optimizer, error)]
    try:
        scheduler = build_scheduler(spec, optimizer)
    except Exception as error:
        assert spec.lr_scheduler is not None
        return optimizer, None, [_argument_problem("/lr_scheduler", spec.lr_scheduler, error)]
    total = getattr(scheduler, "total_steps", None)
    if total is not None and total < steps:
        detail = f"OneCycleLR covers {total} steps, but it will be stepped {steps} times"
        return optimizer, None, [SpecProblem("/lr_scheduler/total_steps", "out_of_range", detail)]
    return optimizer, scheduler, []


def _argument_problem(pointer: str, component: Component, error: Exception) -> SpecProblem:
    """The constructor's own words, at the argument they name."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    words = text.lower().replace("_", " ")
    named = next((n for n in component.arguments() if _names(n.lower().replace("_", " "), words)), None)
    return SpecProblem(f"{pointer}/{named}" if named else pointer, "invalid_argument", f"{component.type}: {text}")


def _names(argument: str, words: str) -> bool:
    # torch says "beta" of betas and "epsilon" of eps; a name as short as `p` must be the whole word.
    pattern = rf"\b{re.escape(argument)}\b" if len(argument) < 3 else rf"\b{re.escape(argument.rstrip('s'))}"
    return re.search(pattern, words) is not None


def _loss_problem(detail: str) -> SpecProblem:
    return SpecProblem("/loss", "target_mismatch", detail)


def _last_sized_layer(spec: JobSpec) -> str:
    """Pointer to the size that decides the output's width."""
    for index in reversed(range(len(spec.model.layers))):
        for name in ("out_features", "out_channels"):
            if name in spec.model.layers[index].arguments():
                return f"/model/layers/{index}/{name}"
    return "/model/layers"


def _written(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(["n", *map(str, shape)]) + ")"


def live_arguments(section: str, component: Component, value: Any) -> dict[str, Any]:
    """Every argument of a component as the live object `value` has it (an optimizer's defaults, a module's attributes)."""
    known = catalog().section(section)[component.type].arguments
    defaults = value.defaults if isinstance(value, Optimizer) else vars(value)
    # MultiStepLR keeps its list of milestones as a Counter.
    defaults = {k: sorted(v.elements()) if isinstance(v, Counter) else v for k, v in defaults.items()}
    given = component.arguments()
    buffers = dict(value.named_buffers()) if isinstance(value, nn.Module) else {}
    return {
        name: buffers.get(name, defaults.get(name, given.get(name, argument.default)))
        for name, argument in known.items()
        if argument.refused is None
    }
