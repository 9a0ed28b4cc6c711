"""Transforms of a data set's rows: torchvision's names and arguments, for the few that are plain tensor operations.

Random ones change the training part only. What each computes and draws is in docs/seed.md.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from jobs.components import Strict

FIELD_NAME = r"^[a-z_][a-z0-9_]{0,63}$"
FieldName = Annotated[str, StringConstraints(pattern=FIELD_NAME)]
Probability = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=1000)]


class OnInput(Strict):
    """`input` names the input that is changed, "x" where there is one."""

    input: FieldName = "x"


class Normalize(OnInput):
    """`(x - mean) / std` with one figure per channel of an image, or per feature of a row; one figure serves all."""

    type: Literal["Normalize"]
    mean: Annotated[list[Annotated[float, Field(ge=-1e9, le=1e9)]], Field(min_length=1, max_length=4096)]
    std: Annotated[list[Annotated[float, Field(gt=0, le=1e9)]], Field(min_length=1, max_length=4096)]


class OneHot(OnInput):
    """Whole numbers from 0 become float32 vectors of length `num_classes`, by default one more than the largest."""

    type: Literal["OneHot"]
    num_classes: Annotated[int, Field(ge=1, le=65_536)] | None = None


class RandomHorizontalFlip(OnInput):
    type: Literal["RandomHorizontalFlip"]
    p: Probability = 0.5


class RandomVerticalFlip(OnInput):
    type: Literal["RandomVerticalFlip"]
    p: Probability = 0.5


class RandomCrop(OnInput):
    """`padding` zeros on every side, then a window of the image's own size somewhere in it."""

    type: Literal["RandomCrop"]
    padding: Annotated[int, Field(ge=1, le=1024)]


class RandomAffine(OnInput):
    """Rotation within ± `degrees`, shift within ± `translate` of width and height, `scale`, shear within ± `shear` degrees."""

    type: Literal["RandomAffine"]
    degrees: Annotated[float, Field(ge=0, le=180)]
    translate: Annotated[list[Probability], Field(min_length=2, max_length=2)] = [0.0, 0.0]
    scale: Annotated[list[Annotated[float, Field(gt=0, le=100)]], Field(min_length=2, max_length=2)] = [1.0, 1.0]
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0

    @model_validator(mode="after")
    def _in_order(self) -> RandomAffine:
        _ordered("scale", self.scale)
        return self


class RandomErasing(OnInput):
    """With probability `p` a rectangle becomes `value`: `scale` is its share of the area, `ratio` height over width."""

    type: Literal["RandomErasing"]
    p: Probability = 0.5
    scale: Annotated[list[Probability], Field(min_length=2, max_length=2)] = [0.02, 0.33]
    ratio: Annotated[list[Annotated[float, Field(gt=0, le=100)]], Field(min_length=2, max_length=2)] = [0.3, 3.3]
    value: Annotated[float, Field(ge=-1e9, le=1e9)] = 0.0

    @model_validator(mode="after")
    def _in_order(self) -> RandomErasing:
        _ordered("scale", self.scale)
        _ordered("ratio", self.ratio)
        return self


class GaussianNoise(OnInput):
    """Adds `mean + sigma * noise`, the noise drawn from the normal distribution."""

    type: Literal["GaussianNoise"]
    mean: Annotated[float, Field(ge=-1e9, le=1e9)] = 0.0
    sigma: Amount = 0.1


class ColorJitter(OnInput):
    """Brightness and contrast times a factor within `1 ± amount`; nothing is cut off at 0 or 1."""

    type: Literal["ColorJitter"]
    brightness: Probability = 0.0
    contrast: Probability = 0.0


Transform = Annotated[
    Normalize
    | OneHot
    | RandomHorizontalFlip
    | RandomVerticalFlip
    | RandomCrop
    | RandomAffine
    | RandomErasing
    | GaussianNoise
    | ColorJitter,
    Field(discriminator="type"),
]
NAMES = tuple(kind.__name__ for kind in OnInput.__subclasses__())
Transforms = Annotated[list[Transform], Field(max_length=32)]


def _ordered(name: str, ends: list[float]) -> None:
    if ends[0] > ends[1]:
        raise PydanticCustomError("out_of_range", "{name} goes from the smaller to the larger number", {"name": name})
