"""Step 1 of a spec: which data, and how its rows are split."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from jobs.components import ClassName, Kwargs, OneOrMore, Strict
from jobs.transforms import FieldName, Transforms

ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Side = Annotated[int, Field(ge=1, le=4096)]
SPLIT_TOLERANCE = 1e-9
MAX_FIELDS = 64


class BuiltinDataset(Strict):
    type: Literal["builtin"]
    name: Literal["iris", "wine", "breast_cancer", "diabetes", "digits"]
    normalize: Literal["none", "standard", "minmax"] = "none"
    transforms: Transforms = []


class FieldSource(Strict):
    """What one named input or target is made of: columns of a table, or an array of an NPZ file or of a Dataset's items.

    `dtype` "int64" keeps whole numbers and category codes as they are, for embeddings and class labels; "float32" makes numbers
    of them. `classes` says that labels are whole numbers from 0 to classes - 1.
    """

    columns: Annotated[list[ColumnName], Field(min_length=1, max_length=4096)] | None = None
    array: ColumnName | None = None
    dtype: Literal["float32", "int64"] | None = None
    classes: Annotated[int, Field(ge=2, le=1_000_000)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> FieldSource:
        if (self.columns is None) == (self.array is None):
            raise PydanticCustomError("out_of_range", "give either `columns` of a table or an `array`, by its name")
        if self.classes is not None and self.dtype == "float32":
            raise PydanticCustomError("out_of_range", "`classes` is for labels, whose dtype is int64")
        _distinct(self.columns)
        return self


FieldSources = Annotated[dict[FieldName, FieldSource], Field(min_length=1, max_length=MAX_FIELDS)]


class FileDataset(Strict):
    """An upload. Columns are for CSV, Parquet and labelled images; `size` for images; `level`, `window`, `stride` for text."""

    type: Literal["file"]
    id: Annotated[str, StringConstraints(pattern=r"^file_[0-9a-f]{24}$")]
    target: Annotated[list[ColumnName], Field(min_length=1, max_length=256), OneOrMore()] | None = None
    features: Annotated[list[ColumnName], Field(min_length=1, max_length=4096)] | None = None
    categorical: Annotated[list[ColumnName], Field(max_length=4096)] = []
    inputs: FieldSources | None = None
    targets: FieldSources | None = None
    normalize: Literal["none", "standard", "minmax"] = "none"
    missing: Literal["error", "drop", "mean"] = "error"
    transforms: Transforms = []
    size: Annotated[list[Side], Field(min_length=2, max_length=2), OneOrMore()] | None = None
    level: Literal["byte", "character"] | None = None
    window: Annotated[int, Field(ge=1, le=65_536)] | None = None
    stride: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    @field_validator("target", "features", "categorical")
    @classmethod
    def _no_name_twice(cls, names: list[str] | None) -> list[str] | None:
        _distinct(names)
        return names

    @model_validator(mode="after")
    def _said_once(self) -> FileDataset:
        if self.inputs is not None and self.features is not None:
            raise PydanticCustomError("out_of_range", "give either `features` or named `inputs`, not both")
        if self.targets is not None and self.target is not None:
            raise PydanticCustomError("out_of_range", "give either `target` or named `targets`, not both")
        _apart(self.inputs, self.targets)
        return self


class PythonDataset(Strict):
    """A class that inherits torch.utils.data.Dataset, in a source file that was uploaded to /v1/files, built with `kwargs`.

    Only where the operator has set POSTGRAD_ALLOW_PYTHON=1 (docs/python.md). `inputs` and `targets` name what its items hold.
    """

    type: Literal["python"]
    id: Annotated[str, StringConstraints(pattern=r"^file_[0-9a-f]{24}$")]
    class_name: ClassName = Field(alias="class")
    kwargs: Kwargs = {}
    inputs: FieldSources | None = None
    targets: FieldSources | None = None
    normalize: Literal["none", "standard", "minmax"] = "none"
    missing: Literal["error", "drop", "mean"] = "error"
    transforms: Transforms = []

    @model_validator(mode="after")
    def _said_once(self) -> PythonDataset:
        _apart(self.inputs, self.targets)
        return self


def _apart(inputs: dict[str, FieldSource] | None, targets: dict[str, FieldSource] | None) -> None:
    if both := set(inputs or {}) & set(targets or {}):
        raise PydanticCustomError("duplicate", "{name} names an input and a target", {"name": min(both)})


def _distinct(names: list[str] | None) -> None:
    if names and len(set(names)) < len(names):
        raise PydanticCustomError("duplicate", "a column stands twice")


def long_dataset(dataset: Any) -> Any:
    """The data set with one target column as a list, and one number as a square size."""
    if not isinstance(dataset, dict):
        return dataset
    long = dict(dataset)
    if isinstance(long.get("target"), str):
        long["target"] = [long["target"]]
    if isinstance(long.get("size"), int) and not isinstance(long["size"], bool):
        long["size"] = [long["size"], long["size"]]
    if isinstance(long.get("transforms"), list):
        long["transforms"] = [{"type": t} if isinstance(t, str) else t for t in long["transforms"]]
    return long


Fraction = Annotated[float, Field(ge=0, le=1)]


class Split(Strict):
    """Fractions of the rows; a left-out one is 0. Without `split` everything trains. `stratify` keeps the classes' shares."""

    train: Fraction = 0.0
    val: Fraction = 0.0
    test: Fraction = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stratify: bool = False

    @model_validator(mode="after")
    def _sums_to_one(self) -> Split:
        total = self.train + self.val + self.test
        if abs(total - 1) > SPLIT_TOLERANCE:
            raise PydanticCustomError(
                "out_of_range", "train, val and test sum to {total}, not to 1", {"total": round(total, 9)}
            )
        if self.train == 0:
            raise PydanticCustomError("out_of_range", "nothing is left to train on: train is 0")
        return self
