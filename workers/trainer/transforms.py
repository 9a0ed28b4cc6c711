"""Transforms as tensor operations on one batch: float32 (n, c, h, w) for images.

Random ones touch the training part only and draw from the generator they are given, on the CPU, in the order of the list; what
each draws and computes is in docs/seed.md, word for word, so that a textbook loop has the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from jobs import transforms as spec
from jobs.spec import SpecProblem
from workers.trainer.fields import Batch, Field

Random = Callable[[Any, Tensor, Generator], Tensor]


class Pipeline:
    """The transforms of a data set, in order. `fields` are the inputs as a model sees them."""

    def __init__(self, steps: Sequence[spec.OnInput] = (), fields: Mapping[str, Field] | None = None) -> None:
        self._steps, self.fields = tuple(steps), dict(fields or {})

    @property
    def random(self) -> bool:
        """Whether the training part draws anything."""
        return any(type(step) in RANDOM for step in self._steps)

    def train(self, batch: Batch, generator: Generator) -> Batch:
        """A batch of the training part; random transforms draw from `generator`."""
        changed = dict(batch)
        for step in self._steps:
            x = changed[step.input]
            changed[step.input] = RANDOM[type(step)](step, x, generator) if type(step) in RANDOM else fixed(step, x)
        return changed

    def evaluate(self, batch: Batch) -> Batch:
        """A batch of any other part: random transforms leave it alone."""
        changed = dict(batch)
        for step in self._steps:
            if type(step) not in RANDOM:
                changed[step.input] = fixed(step, changed[step.input])
        return changed


def pipeline(steps: Sequence[spec.OnInput], inputs: Mapping[str, Field], problems: list[SpecProblem]) -> Pipeline:
    """The transforms over these inputs; what does not fit is added to `problems`."""
    fields, fitted = dict(inputs), []
    for index, step in enumerate(steps):
        pointer, name = f"/dataset/transforms/{index}", type(step).__name__
        if step.input not in fields:
            detail = f"there is no input {step.input!r}; there is {', '.join(fields)}"
            problems.append(SpecProblem(f"{pointer}/input", "unknown_choice", detail))
        elif (wrong := _unfit(step, fields[step.input])) is not None:
            problems.append(SpecProblem(pointer, "shape_mismatch", f"{name} {wrong}"))
        else:
            step = _completed(step, fields[step.input])
            fields[step.input] = _changed(step, fields[step.input])
            fitted.append(step)
    return Pipeline(fitted, fields)


def _unfit(step: spec.OnInput, field: Field) -> str | None:
    if isinstance(step, spec.OneHot):
        if field.dtype != torch.int64 or field.classes is None:
            return "wants whole numbers from 0: give the input the dtype int64"
        if field.open_ended and step.num_classes is None:
            return "wants num_classes: how large the numbers are is not known before all of them have been read"
        return f"has {step.num_classes} classes, but the numbers go up to {field.high:g}" if _too_few(step, field) else None
    if field.dtype != torch.float32:
        return "wants numbers, but the input is int64"
    if isinstance(step, spec.Normalize):
        known = {1, field.shape[0] if len(field.shape) == 3 else field.shape[-1]}
        sizes = {len(step.mean), len(step.std)}
        return None if sizes <= known else f"wants {' or '.join(map(str, sorted(known)))} figures, not {max(sizes)}"
    if isinstance(step, spec.GaussianNoise):
        return None
    return None if len(field.shape) == 3 else f"wants images (n, c, h, w), but a row has the shape {list(field.shape)}"


def _too_few(step: spec.OneHot, field: Field) -> bool:
    return step.num_classes is not None and field.classes is not None and step.num_classes < field.classes


def _completed(step: spec.OnInput, field: Field) -> spec.OnInput:
    if isinstance(step, spec.OneHot) and step.num_classes is None:
        return step.model_copy(update={"num_classes": field.classes})
    return step


def _changed(step: spec.OnInput, field: Field) -> Field:
    if isinstance(step, spec.OneHot):
        return Field((*field.shape, step.num_classes or 0), 0.0, 1.0)
    if isinstance(step, spec.Normalize):
        ends = [(end - m) / s for end in (field.low, field.high) for m, s in zip(step.mean, step.std, strict=False)]
        return replace(field, low=min(ends), high=max(ends))
    return field


# ---- the same for every part


def fixed(step: spec.OnInput, x: Tensor) -> Tensor:
    """Normalize and OneHot."""
    if isinstance(step, spec.OneHot):
        return F.one_hot(x, step.num_classes or -1).float()
    assert isinstance(step, spec.Normalize)
    shape = (-1, 1, 1) if x.dim() == 4 else (-1,)
    mean, std = (torch.tensor(v, dtype=torch.float32, device=x.device).reshape(shape) for v in (step.mean, step.std))
    return (x - mean) / std


# ---- the training part only


def horizontal_flip(step: spec.RandomHorizontalFlip, x: Tensor, generator: Generator) -> Tensor:
    chosen = torch.rand(len(x), generator=generator) < step.p
    return torch.where(_each(chosen, x), x.flip(3), x)


def vertical_flip(step: spec.RandomVerticalFlip, x: Tensor, generator: Generator) -> Tensor:
    chosen = torch.rand(len(x), generator=generator) < step.p
    return torch.where(_each(chosen, x), x.flip(2), x)


def crop(step: spec.RandomCrop, x: Tensor, generator: Generator) -> Tensor:
    n, _, h, w = x.shape
    corner = torch.randint(0, 2 * step.padding + 1, (n, 2), generator=generator).to(x.device)
    padded = F.pad(x, (step.padding,) * 4)
    rows = corner[:, :1] + torch.arange(h, device=x.device)
    columns = corner[:, 1:] + torch.arange(w, device=x.device)
    image = torch.arange(n, device=x.device)
    return padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def affine(step: spec.RandomAffine, x: Tensor, generator: Generator) -> Tensor:
    n, _, h, w = x.shape
    u = torch.rand(n, 5, generator=generator)
    angle, shear = (2 * u[:, 0] - 1) * math.radians(step.degrees), (2 * u[:, 4] - 1) * math.radians(step.shear)
    shift_x, shift_y = (2 * u[:, 1] - 1) * (2 * step.translate[0]), (2 * u[:, 2] - 1) * (2 * step.translate[1])
    scale = step.scale[0] + u[:, 3] * (step.scale[1] - step.scale[0])
    cos, sin, tan = angle.cos() / scale, angle.sin() / scale, shear.tan()
    # From a place in the result to its place in the image, both in [-1, 1]; h / w keeps a rotation from skewing a long image.
    first = torch.stack([cos - tan * sin, (sin + tan * cos) * (h / w), -shift_x], dim=1)
    second = torch.stack([-sin * (w / h), cos, -shift_y], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid.to(x.device), mode="bilinear", padding_mode="zeros", align_corners=False)


def erase(step: spec.RandomErasing, x: Tensor, generator: Generator) -> Tensor:
    n, _, h, w = x.shape
    chosen = torch.rand(n, generator=generator) < step.p
    u = torch.rand(n, 4, generator=generator)
    area = (step.scale[0] + u[:, 0] * (step.scale[1] - step.scale[0])) * (h * w)
    low, high = math.log(step.ratio[0]), math.log(step.ratio[1])
    ratio = (low + u[:, 1] * (high - low)).exp()
    height = (area * ratio).sqrt().round().clamp(1, h)
    width = (area / ratio).sqrt().round().clamp(1, w)
    top, left = (u[:, 2] * (h - height + 1)).floor(), (u[:, 3] * (w - width + 1)).floor()
    rows, columns = torch.arange(h), torch.arange(w)
    in_rows = (rows >= top[:, None]) & (rows < (top + height)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + width)[:, None])
    inside = chosen[:, None, None] & in_rows[:, :, None] & in_columns[:, None, :]
    return torch.where(inside[:, None].to(x.device), step.value, x)


def noise(step: spec.GaussianNoise, x: Tensor, generator: Generator) -> Tensor:
    return x + (step.mean + step.sigma * torch.randn(x.shape, generator=generator).to(x.device))


def jitter(step: spec.ColorJitter, x: Tensor, generator: Generator) -> Tensor:
    u = torch.rand(len(x), 2, generator=generator).to(x.device)
    bright, contrast = 1 + (2 * u[:, 0] - 1) * step.brightness, 1 + (2 * u[:, 1] - 1) * step.contrast
    x = x * _each(bright, x)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * _each(contrast, x)


def _each(values: Tensor, x: Tensor) -> Tensor:
    """One value per image, to be broadcast over it."""
    return values.to(x.device)[:, None, None, None]


RANDOM: dict[type[spec.OnInput], Random] = {
    spec.RandomHorizontalFlip: horizontal_flip,
    spec.RandomVerticalFlip: vertical_flip,
    spec.RandomCrop: crop,
    spec.RandomAffine: affine,
    spec.RandomErasing: erase,
    spec.GaussianNoise: noise,
    spec.ColorJitter: jitter,
}
