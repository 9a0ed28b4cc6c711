"""Step 3 of a spec, its learning rate schedule: schedulers by name, alone or made of others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from jobs.arguments import SpecProblem, check_component
from jobs.catalog import Entry
from jobs.components import Component, long_component, own_members

MAX_NESTING = 4
MAX_SCHEDULERS = 64  # in all
OF_OTHERS = ("SequentialLR", "ChainedScheduler")


class SchedulerComponent(Component):
    """`interval` says when the scheduler steps. `monitor` is the series that ReduceLROnPlateau sees after each epoch.

    Left out, that is val/loss, or the epoch's mean train/loss where there is no validation part.
    """

    section = "lr_schedulers"
    interval: Literal["epoch", "iteration"] = "epoch"
    monitor: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None

    @classmethod
    def own_schemas(cls, entry: Entry) -> dict[str, Any]:
        own = super().own_schemas(entry)
        return own if entry.name == "ReduceLROnPlateau" else {"interval": own["interval"]}

    def schedulers(self) -> list[SchedulerComponent]:
        """What SequentialLR and ChainedScheduler are made of."""
        return [SchedulerComponent(**inner) for inner in self.arguments().get("schedulers", [])]


def long_scheduler(value: Any, depth: int = 0) -> Any:
    """The scheduler with short forms written long, inner ones too."""
    body = long_component(value)
    if depth < MAX_NESTING and isinstance(body, dict) and isinstance(body.get("schedulers"), list):
        return {**body, "schedulers": [long_scheduler(inner, depth + 1) for inner in body["schedulers"]]}
    return body


def check_scheduler(body: Any) -> Iterator[SpecProblem]:
    """Every problem with the arguments of a long-form scheduler and of those that it is made of."""
    counted = _count(body, 0)
    if counted > MAX_SCHEDULERS:
        detail = f"the schedule is made of {counted} schedulers; the limit is {MAX_SCHEDULERS}"
        yield SpecProblem("/lr_scheduler", "out_of_range", detail)
        return
    yield from check_component("lr_schedulers", body, "/lr_scheduler", own_members(SchedulerComponent))
    if isinstance(body, Mapping):
        yield from _check_monitor(body)
        yield from _check_inner(body, "/lr_scheduler", 1)


def _check_monitor(body: Mapping[str, Any]) -> Iterator[SpecProblem]:
    if body.get("monitor") is not None and (body.get("type") != "ReduceLROnPlateau" or body.get("interval") == "iteration"):
        detail = "only ReduceLROnPlateau with interval epoch watches a series; leave monitor out"
        yield SpecProblem("/lr_scheduler/monitor", "not_supported", detail)


def _check_inner(body: Mapping[str, Any], pointer: str, depth: int) -> Iterator[SpecProblem]:
    inner = body.get("schedulers")
    if body.get("type") not in OF_OTHERS or not isinstance(inner, list):
        return
    if depth >= MAX_NESTING:
        yield SpecProblem(f"{pointer}/schedulers", "too_deep", f"schedulers are nested deeper than {MAX_NESTING} levels")
        return
    for index, scheduler in enumerate(inner):
        where = f"{pointer}/schedulers/{index}"
        yield from check_component("lr_schedulers", scheduler, where)
        if isinstance(scheduler, Mapping):
            yield from _check_place(body["type"], index, scheduler.get("type"), where)
            yield from _check_inner(scheduler, where, depth + 1)
    milestones = body.get("milestones")
    if body["type"] == "SequentialLR" and isinstance(milestones, list):
        yield from _check_milestones(milestones, len(inner), f"{pointer}/milestones")


def _check_place(outer: str, index: int, kind: Any, where: str) -> Iterator[SpecProblem]:
    """Combinations that torch fails on, the second one only when its milestone comes."""
    if kind == "ReduceLROnPlateau":
        yield SpecProblem(f"{where}/type", "not_supported", f"{outer} has no series to show to ReduceLROnPlateau")
    if outer == "SequentialLR" and index > 0 and kind in OF_OTHERS:
        detail = f"SequentialLR starts each scheduler anew at its milestone, which {kind} cannot; it may come first"
        yield SpecProblem(f"{where}/type", "not_supported", detail)


def _check_milestones(milestones: list[Any], schedulers: int, pointer: str) -> Iterator[SpecProblem]:
    if len(milestones) != schedulers - 1:
        detail = f"SequentialLR has one milestone less than schedulers: {schedulers - 1}, not {len(milestones)}"
        yield SpecProblem(pointer, "out_of_range", detail)
    numbers = [m for m in milestones if isinstance(m, int)]
    if numbers != sorted(set(numbers)) or 0 in numbers:
        yield SpecProblem(pointer, "out_of_range", "milestones rise from one to the next, from 1 on")


def _count(body: Any, depth: int) -> int:
    inner = body.get("schedulers") if isinstance(body, Mapping) else None
    inside = sum(_count(i, depth + 1) for i in inner) if isinstance(inner, list) and depth < MAX_NESTING else 0
    return 1 + inside
