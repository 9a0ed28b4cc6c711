"""The job spec: strict pydantic for the fixed part, the catalog for everything that is a torch class.

`parse` is the one way in. It writes short forms long, finds every problem at once and gives an immutable JobSpec, which keeps
the long form in the order it came.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Annotated, Any

from pydantic import BaseModel, Field, PrivateAttr, StringConstraints, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from jobs.arguments import SpecProblem, check_component, did_you_mean, shown
from jobs.components import (
    Component,
    LossComponent,
    MetricComponent,
    Strict,
    TypeAlone,
    long_component,
    own_members,
)
from jobs.data_spec import BuiltinDataset, FileDataset, Split, long_dataset
from jobs.deferred import deferred
from jobs.loop_spec import Checkpoint, EarlyStopping, OnNonfinite, Precision
from jobs.model_spec import BROUGHT, MODELS_BY_POINTER, ModelSpec, check_model, long_model
from jobs.optimizer_spec import OptimizerComponent, check_optimizer, long_optimizer
from jobs.pointers import explained, posted, unreadable
from jobs.profiles import PLAIN, STRICT, Profile
from jobs.scheduler_spec import SchedulerComponent, check_scheduler, long_scheduler

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
    "profile_of",
    "threads_for",
]

MAX_METRICS = 32
MAX_PROBLEMS = 100  # more are no help, and each costs a search for the word that was meant
MAX_METADATA_BYTES = 16384


class InvalidSpec(Exception):
    """The spec cannot be trained; `problems` holds everything that is wrong with it."""

    def __init__(self, problems: list[SpecProblem]) -> None:
        super().__init__("; ".join(f"{p.pointer}: {p.detail}" for p in problems))
        self.problems = problems


class JobSpec(Strict):
    """One training job. Everywhere `{"type": T, ...}` is a torch class and its own keyword arguments."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    dataset: Annotated[BuiltinDataset | FileDataset, Field(discriminator="type")]
    split: Split = Split(train=1.0)
    model: Annotated[ModelSpec, Field(discriminator="type")]
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
    precision: Precision = "32-true"
    exact: bool = True
    on_nonfinite: Annotated[OnNonfinite, TypeAlone("fail", "skip", "rollback")] = OnNonfinite(type="fail")
    max_grad_norm: Annotated[float, Field(gt=0)] | None = None
    accumulate_grad_batches: Annotated[int, Field(ge=1, le=10_000)] = 1
    early_stopping: EarlyStopping | None = None
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


def profile_of(spec: JobSpec) -> Profile:
    """The sandbox profile that the job's process needs (docs/sandbox.md): strict for what the user wrote."""
    return STRICT if isinstance(spec.model, BROUGHT) else PLAIN


def parse(body: object) -> JobSpec:
    """The spec of a decoded JSON document. Raises InvalidSpec with every problem at once; of what is wrong without end only
    the first MAX_PROBLEMS that each look finds."""
    if not isinstance(body, dict):
        raise InvalidSpec([SpecProblem("", "wrong_type", f"a spec is a JSON object, not {shown(body)}")])
    if problems := list(islice(unreadable(body), MAX_PROBLEMS)):
        raise InvalidSpec(problems)
    long = _long_form(body)
    problems = list(islice(chain(deferred(long), _components(long)), MAX_PROBLEMS))
    try:
        spec = JobSpec.model_validate(long)
    except ValidationError as error:
        # What was already said of a member (a field of a later release is also an unknown one) is not said twice.
        claimed = tuple(p.pointer for p in problems)
        more = (p for p in explained(error, MODELS) if not any(_within(p.pointer, c) for c in claimed))
        problems += islice(more, MAX_PROBLEMS)
    problems = problems or list(_contradictions(spec))
    if problems:
        raise InvalidSpec([posted(problem, body) for problem in problems])
    spec._long = long
    return spec


def epoch_series(spec: JobSpec) -> list[str]:
    """The series with one value an epoch that a rule of the spec may watch: losses and metrics of the parts there are.

    `train/loss` stands for the mean of the epoch's losses.
    """
    parts = ("val", "train") if spec.split.val > 0 else ("train",)
    return [f"{part}/{name}" for part in parts for name in ("loss", *(m.series for m in spec.metrics))]


def _contradictions(spec: JobSpec) -> Iterator[SpecProblem]:
    """Fields that are right alone and wrong together."""
    for member, rule in (("early_stopping", spec.early_stopping), ("lr_scheduler", spec.lr_scheduler)):
        watched = rule.monitor if rule is not None else None
        if watched is not None and watched not in (known := epoch_series(spec)):
            hint = did_you_mean(watched, known)
            detail = f"no series {shown(watched)} is taken once an epoch; there are {', '.join(known)}{hint}"
            yield SpecProblem(f"/{member}/monitor", "unknown_choice", detail)
    if profile_of(spec) == STRICT and spec.device not in ("auto", "cpu"):
        detail = f"a model of the type {spec.model.type} runs in a sandbox that has no GPU: device is cpu, not {spec.device}"
        yield SpecProblem("/device", "not_supported", detail)
    mixed = spec.precision != "32-true"
    if mixed and spec.exact:
        detail = f"precision {spec.precision} gives other bits than the textbook loop in float32: it needs exact false"
        yield SpecProblem("/precision", "out_of_range", detail)
    if not mixed and not spec.exact:
        detail = "exact false is for a precision of 16 bits; faster arithmetic in 32 bits is not supported yet"
        yield SpecProblem("/exact", "not_supported", detail)
    for name in sorted(spec.on_nonfinite.model_fields_set - {"type"} if spec.on_nonfinite.type != "rollback" else ()):
        detail = f"{name} says how a rollback goes on: it needs the type rollback, not {spec.on_nonfinite.type}"
        yield SpecProblem(f"/on_nonfinite/{name}", "not_supported", detail)
    if spec.optimizer.type == "LBFGS":
        yield from _beside_lbfgs(spec)
    if mixed and spec.loss.type == "BCELoss":
        detail = f"BCELoss loses its digits near 0 and 1 in {spec.precision}: use BCEWithLogitsLoss on a model without Sigmoid"
        yield SpecProblem("/loss", "not_supported", detail)


def _beside_lbfgs(spec: JobSpec) -> Iterator[SpecProblem]:
    """A step of LBFGS evaluates one batch's loss and gradients several times: what comes between them has no place."""
    reason = "LBFGS evaluates the loss several times a step and compares the gradients it gets"
    if spec.max_grad_norm is not None:
        yield SpecProblem("/max_grad_norm", "not_supported", f"{reason}, so they cannot be clipped")
    if spec.accumulate_grad_batches > 1:
        yield SpecProblem("/accumulate_grad_batches", "not_supported", f"{reason}, so an iteration is one batch")
    if spec.precision == "16-mixed":
        yield SpecProblem("/precision", "not_supported", f"{reason}, so they cannot be scaled; use bf16-mixed")


# Which fields an object may have, by its pointer.
MODELS: Mapping[str, Sequence[type[BaseModel]]] = {
    "": [JobSpec],
    "/dataset": [BuiltinDataset, FileDataset],
    "/split": [Split],
    **MODELS_BY_POINTER,
    "/checkpoint": [Checkpoint],
    "/early_stopping": [EarlyStopping],
    "/on_nonfinite": [OnNonfinite],
}


def _within(pointer: str, other: str) -> bool:
    return pointer == other or pointer.startswith(f"{other}/")


def _long_form(body: dict[str, Any]) -> dict[str, Any]:
    """A copy with "BCELoss" written {"type": "BCELoss"}, one target column as a list, order kept."""
    long = copy.deepcopy(body)
    for member, written_long in (("loss", long_component), ("optimizer", long_optimizer), ("lr_scheduler", long_scheduler)):
        if member in long:
            long[member] = written_long(long[member])
    if "on_nonfinite" in long:
        long["on_nonfinite"] = long_component(long["on_nonfinite"])
    if "model" in long:
        long["model"] = long_model(long["model"])
    if isinstance(long.get("metrics"), list):
        long["metrics"] = [long_component(metric) for metric in long["metrics"]]
    if "dataset" in long:
        long["dataset"] = long_dataset(long["dataset"])
    return long


def _components(long: dict[str, Any]) -> Iterator[SpecProblem]:
    if long.get("loss") is not None:
        yield from check_component("losses", long["loss"], "/loss", own_members(LossComponent))
    if long.get("optimizer") is not None:
        yield from check_optimizer(long["optimizer"])
    if long.get("lr_scheduler") is not None:
        yield from check_scheduler(long["lr_scheduler"])
    yield from check_model(long.get("model"))
    metrics = long.get("metrics")
    for index, metric in enumerate(metrics[:MAX_METRICS] if isinstance(metrics, list) else []):
        yield from check_component("metrics", metric, f"/metrics/{index}", own_members(MetricComponent))
