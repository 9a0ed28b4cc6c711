"""Step 1 of a spec: which data, and how its rows are split."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from jobs.components import Strict

ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
SPLIT_TOLERANCE = 1e-9


class OneOrMore:
    """The schema of a list that may be written as its only member; `parse` makes a list of it."""

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        several = handler(core_schema)
        return {"anyOf": [several["items"], several]}


class BuiltinDataset(Strict):
    type: Literal["builtin"]
    name: Literal["iris", "wine", "breast_cancer", "diabetes", "digits"]
    normalize: Literal["none", "standard", "minmax"] = "none"


class FileDataset(Strict):
    type: Literal["file"]
    id: Annotated[str, StringConstraints(pattern=r"^file_[0-9a-f]{24}$")]
    target: Annotated[list[ColumnName], Field(min_length=1, max_length=256), OneOrMore()]
    features: Annotated[list[ColumnName], Field(min_length=1, max_length=4096)] | None = None
    categorical: Annotated[list[ColumnName], Field(max_length=4096)] = []
    normalize: Literal["none", "standard", "minmax"] = "none"

    @field_validator("target", "features", "categorical")
    @classmethod
    def _no_name_twice(cls, names: list[str] | None) -> list[str] | None:
        if names and len(set(names)) < len(names):
            raise PydanticCustomError("duplicate", "a column stands twice")
        return names


Fraction = Annotated[float, Field(ge=0, le=1)]


class Split(Strict):
    """Fractions of the rows; a left-out one is 0. Without `split` everything trains."""

    train: Fraction = 0.0
    val: Fraction = 0.0
    test: Fraction = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None

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
