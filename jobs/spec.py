"""The job spec: strict pydantic for the fixed part, the catalog for everything that is a torch class.

`parse` is the one way in. It writes short forms long, finds every problem at once and gives an immutable JobSpec, which keeps
the long form in the order it came.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PrivateAttr, StringConstraints, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from jobs.arguments import SpecProblem, check_component, shown
from jobs.components import (
    Component,
    LossComponent,
    MetricComponent,
    OptimizerComponent,
    SchedulerComponent,
    Strict,
    long_component,
    own_members,
)
from jobs.data_spec import BuiltinDataset, FileDataset, Split
from jobs.deferred import deferred
from jobs.model_spec import SequentialModel, check_model, long_model
from jobs.pointers import explained, posted, unreadable

__all__ = [
    "BuiltinDataset",
    "Component",
    "FileDataset",
    "InvalidSpec",
    "JobSpec",
    "MetricComponent",
    "SpecProblem",
    "Split",
    "parse",
    "posted",
    "threads_for",
]

MAX_METRICS = 32
MAX_METADATA_BYTES = 16384


class InvalidSpec(Exception):
    """The spec cannot be trained; `problems` holds everything that is wrong with it."""

    def __init__(self, problems: list[SpecProblem]) -> None:
        super().__init__("; ".join(f"{p.pointer}: {p.detail}" for p in problems))
        self.problems = problems


class Checkpoint(Strict):
    """When a checkpoint is written, besides at the end, and how many are kept."""

    every_n_epochs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    every_seconds: Annotated[float, Field(ge=0.1, le=86_400)] | None = 30.0
    keep: Annotated[int, Field(ge=1, le=100)] = 2


class JobSpec(Strict):
    """One training job. Everywhere `{"type": T, ...}` is a torch class and its own keyword arguments."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    dataset: Annotated[BuiltinDataset | FileDataset, Field(discriminator="type")]
    split: Split = Split(train=1.0)
    model: SequentialModel
    loss: LossComponent
    optimizer: OptimizerComponent
    lr_scheduler: SchedulerComponent | None = None
    metrics: Annotated[list[MetricComponent], Field(max_length=MAX_METRICS)] = []
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    shuffle: bool = True
    drop_last: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda|cuda:[0-9]{1,2})$")] = "auto"
    precision: Literal["32-true"] = "32-true"
    exact: Literal[True] = True
    on_nonfinite: Literal["fail"] = "fail"
    max_grad_norm: Annotated[float, Field(gt=0)] | None = None
    threads: Annotated[int, Field(ge=1, le=64)] | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=30 * 86_400)] | None = None
    checkpoint: Checkpoint = Checkpoint()
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    metadata: Annotated[dict[str, Annotated[str, StringConstraints(max_length=2000)]], Field(max_length=64)] = {}

    _long: dict[str, Any] = PrivateAttr(default_factory=dict)

    @field_validator("metrics")
    @classmethod
    def _series_are_told_apart(cls, metrics: list[MetricComponent]) -> list[MetricComponent]:
        names = [m.series for m in metrics]
        if "loss" in names:
            raise PydanticCustomError("duplicate", 'a metric cannot be called "loss": that series is the loss itself')
        if len(set(names)) < len(names):
            raise PydanticCustomError("duplicate", "two metrics have one series name; give one of them another `name`")
        return metrics

    @field_validator("metadata")
    @classmethod
    def _metadata_is_small(cls, metadata: dict[str, str]) -> dict[str, str]:
        if sum(len(k) + len(v) for k, v in metadata.items()) > MAX_METADATA_BYTES:
            raise PydanticCustomError("out_of_range", "metadata holds more than {n} characters", {"n": MAX_METADATA_BYTES})
        return metadata

    def long_form(self) -> dict[str, Any]:
        """The fields that were given, short forms written long, in the order they came."""
        return self._long

    def canonical(self) -> str:
        """The long form as JSON text; `parse(json.loads(spec.canonical())) == spec`."""
        return json.dumps(self._long, ensure_ascii=False, allow_nan=False)


def threads_for(spec: JobSpec) -> int:
    """CPU threads of the job's process: a function of the spec alone, since the number of threads can change bits.

    One thread each keeps two jobs on two cores from running many times slower than one.
    """
    return spec.threads or 1


def parse(body: object) -> JobSpec:
    """The spec of a decoded JSON document. Raises InvalidSpec with every problem at once."""
    if not isinstance(body, dict):
        raise InvalidSpec([SpecProblem("", "wrong_type", f"a spec is a JSON object, not {shown(body)}")])
    if problems := list(unreadable(body)):
        raise InvalidSpec(problems)
    long = _long_form(body)
    problems = [*deferred(long), *_components(long)]
    try:
        spec = JobSpec.model_validate(long)
    except ValidationError as error:
        # What was already said of a member (a field of a later release is also an unknown one) is not said twice.
        claimed = tuple(p.pointer for p in problems)
        problems += [p for p in explained(error, MODELS) if not any(_within(p.pointer, c) for c in claimed)]
    if problems:
        raise InvalidSpec([posted(problem, body) for problem in problems])
    spec._long = long
    return spec


# Which fields an object may have, by its pointer.
MODELS: Mapping[str, Sequence[type[BaseModel]]] = {
    "": [JobSpec],
    "/dataset": [BuiltinDataset, FileDataset],
    "/split": [Split],
    "/model": [SequentialModel],
    "/checkpoint": [Checkpoint],
}


def _within(pointer: str, other: str) -> bool:
    return pointer == other or pointer.startswith(f"{other}/")


def _long_form(body: dict[str, Any]) -> dict[str, Any]:
    """A copy with "BCELoss" written {"type": "BCELoss"}, one target column as a list, order kept."""
    long = copy.deepcopy(body)
    for member in ("loss", "optimizer", "lr_scheduler"):
        if member in long:
            long[member] = long_component(long[member])
    if "model" in long:
        long["model"] = long_model(long["model"])
    if isinstance(long.get("metrics"), list):
        long["metrics"] = [long_component(metric) for metric in long["metrics"]]
    dataset = long.get("dataset")
    if isinstance(dataset, dict) and isinstance(dataset.get("target"), str):
        dataset["target"] = [dataset["target"]]
    return long


def _components(long: dict[str, Any]) -> Iterator[SpecProblem]:
    for member, kind in (("loss", LossComponent), ("optimizer", OptimizerComponent), ("lr_scheduler", SchedulerComponent)):
        if long.get(member) is not None:
            yield from check_component(kind.section, long[member], f"/{member}", own_members(kind))
    yield from check_model(long.get("model"))
    metrics = long.get("metrics")
    for index, metric in enumerate(metrics[:MAX_METRICS] if isinstance(metrics, list) else []):
        yield from check_component("metrics", metric, f"/metrics/{index}", own_members(MetricComponent))
