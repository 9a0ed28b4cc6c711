"""Step 3, its first half: the loss by name, what feeds it, and whether it fits the model's output and the target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from jobs.catalog import catalog
from jobs.spec import Component, JobSpec, SpecProblem
from workers.trainer.components import argument_problem

if TYPE_CHECKING:  # data.py asks this module for the target's form
    from workers.trainer.data import Batch, Field

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


OUTPUT, TARGET = "output", "y"  # the only output of a Sequential, the only target of a data set that names none


class Criterion:
    """A loss of torch.nn, fed by name from the model's outputs and the batch."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, outputs: Batch, batch: Batch) -> Tensor:
        """The loss as the module returns it, of no dimension."""
        value: Tensor = self.module(outputs[OUTPUT], batch[TARGET])
        return value

    @property
    def reduction(self) -> str:
        """ "mean" or "sum"."""
        return str(self.module.reduction)


def build_loss(spec: JobSpec) -> Criterion:
    """The loss, its tensor arguments (`weight`, `pos_weight`) float32. Raises what the constructor raises."""
    known = catalog().section("losses")[spec.loss.type].arguments
    arguments = {
        name: torch.tensor(value, dtype=torch.float32) if isinstance(value, list) and "tensor" in known[name].forms else value
        for name, value in spec.loss.arguments().items()
    }
    return Criterion(getattr(nn, spec.loss.type)(**arguments))


# ---- does it fit


def check_target(spec: JobSpec, target: Field) -> list[SpecProblem]:
    """Whether the data's target is what the loss can learn from."""
    loss, low, high = spec.loss.type, target.low, target.high
    form = target_form(spec.loss)
    if form == "class" and target.classes is None:
        return [
            _loss_problem(
                f"{loss} wants class labels, but the target is a number; use MSELoss, HuberLoss or another regression loss"
            )
        ]
    if form == "binary" and (target.classes or 2) > 2:
        return [_loss_problem(f"{loss} wants two classes, but the target has {target.classes}; use CrossEntropyLoss")]
    if form == "binary" and not (low >= 0 and high <= 1):
        return [_loss_problem(f"{loss} wants targets between 0 and 1, but they run from {low:g} to {high:g}")]
    if form == "float" and (target.classes or 0) > 2:
        return [
            _loss_problem(f"{loss} wants numbers, but the target holds {target.classes} class labels; use CrossEntropyLoss")
        ]
    if loss in SIGN_LOSSES and not (low == -1 and high == 1):
        return [_loss_problem(f"{loss} wants targets -1 and 1, but they run from {low:g} to {high:g}")]
    if loss in NON_NEGATIVE_LOSSES and low < 0:
        return [_loss_problem(f"{loss} wants targets of at least 0, but the smallest is {low:g}")]
    return []


def check_output(spec: JobSpec, target: Field, shape: tuple[int, ...]) -> list[SpecProblem]:
    """Whether an output of `shape` (one row) is what the loss compares with the target; nothing is ever broadcast."""
    width = target.classes if target_form(spec.loss) == "class" else target.width
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


def sample(spec: JobSpec, target: Field) -> tuple[Tensor, Tensor]:
    """An output and a target of two rows in the right form, for trying loss and metrics on."""
    if target_form(spec.loss) == "class":
        return torch.full((2, target.classes or 1), 0.5), torch.tensor([0, (target.classes or 1) - 1])
    ends = torch.tensor([[target.low], [target.high]], dtype=torch.float32)
    return torch.full((2, target.width), 0.5), ends.expand(2, target.width).contiguous()


def check_loss(spec: JobSpec, target: Field) -> tuple[Criterion | None, list[SpecProblem]]:
    """The loss, tried on two rows of real numbers: BCELoss with integer targets passes on the meta device."""
    for name in ("weight", "pos_weight") if spec.loss.type in BINARY_LOSSES else ():
        given = spec.loss.arguments().get(name)
        if given is not None and len(given) not in {1, target.width}:  # torch would broadcast the output to it
            detail = f"{spec.loss.type}'s {name} has {len(given)} numbers; the target has {target.width} column(s)"
            return None, [SpecProblem(f"/loss/{name}", "shape_mismatch", detail)]
    try:
        loss = build_loss(spec)
        output, wanted = sample(spec, target)
        value = loss({OUTPUT: output}, {TARGET: wanted})
    except Exception as error:
        return None, [argument_problem("/loss", spec.loss, error)]
    if value.dim() != 0:
        return None, [_loss_problem(f"{spec.loss.type} gives a value of shape {tuple(value.shape)}, not one number")]
    return loss, []


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
