"""Step 3, its second half: optimizer and scheduler by name, and what their constructors say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import optim
from torch.optim import Optimizer

from jobs.spec import Component, InvalidSpec, JobSpec, SpecProblem
from workers.trainer.components import argument_problem, live_arguments
from workers.trainer.param_groups import REST, Grouping, Parameters, grouped

TAKE_SPARSE = frozenset({"SGD", "Adagrad", "SparseAdam", "LBFGS"})  # the first two without weight_decay


class Together(Optimizer):
    """Two optimizers that step one after the other. Their groups are this one's, so that a scheduler moves them all."""

    def __init__(self, first: Optimizer, second: Optimizer) -> None:
        self.parts = (first, second)
        super().__init__([g for part in self.parts for g in part.param_groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of each. Raises ValueError for a closure, which would have to be evaluated twice."""
        if closure is not None:
            raise ValueError("two optimizers share no closure")
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [g for part in self.parts for g in part.param_groups]  # loading made new ones


@dataclass(frozen=True)
class Optimizing:
    """The optimizer of a run. `labels` name its groups in order; `matched` tells which parameters they hold."""

    optimizer: Optimizer
    main: Optimizer
    rest: Optimizer | None
    labels: list[str]
    matched: dict[str, list[str]]
    made: dict[str, dict[str, Any]]  # each group's arguments before a scheduler has moved its learning rate

    @property
    def lr_series(self) -> list[str]:
        """Names of the learning rates' series: `lr`, or one for each group where there are several."""
        return ["lr"] if len(self.labels) == 1 else [f"lr/{label}" for label in self.labels]


def build_optimizer(spec: JobSpec, parameters: Parameters) -> Optimizing:
    """The optimizer over its groups; lists become tuples, as in `betas=(0.9, 0.999)`. Frozen parameters ask for no gradient.

    Raises InvalidSpec for groups that cannot be made, and what the constructor raises.
    """
    found = grouped(spec.optimizer, parameters)
    for _, parameter in found.frozen:
        parameter.requires_grad_(False)
    main = _construct(spec.optimizer, _groups(spec, found))
    rest = None if spec.optimizer.rest is None else _construct(spec.optimizer.rest, [p for _, p in found.rest])
    labels = [*found.groups, *([REST] if rest is not None else [])]
    named = {**found.groups, **({REST: found.rest} if rest is not None else {})}
    matched = {label: [name for name, _ in pairs] for label, pairs in named.items()}
    optimizer = main if rest is None else Together(main, rest)
    made = {label: dict(group) for label, group in zip(labels, optimizer.param_groups, strict=True)}
    return Optimizing(optimizer, main, rest, labels, matched, made)


def _groups(spec: JobSpec, found: Grouping) -> list[Any]:
    if len(found.groups) == 1 and not any(label.isdigit() for label in found.groups):
        return [parameter for _, parameter in next(iter(found.groups.values()))]
    groups = []
    for label, pairs in found.groups.items():
        own = (spec.optimizer.param_groups or [])[int(label)].arguments() if label.isdigit() else {}
        groups.append({"params": [parameter for _, parameter in pairs], **_tuples(own)})
    return groups


def _construct(component: Component, parameters: list[Any]) -> Optimizer:
    optimizer: Optimizer = getattr(optim, component.type)(parameters, **_tuples(component.arguments()))
    return optimizer


def _tuples(arguments: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}


def check_optimizer(spec: JobSpec, parameters: Parameters) -> tuple[Optimizing | None, list[SpecProblem]]:
    """The optimizer, or what its constructor says."""
    if not parameters.named:
        return None, [SpecProblem("/model", "out_of_range", "no layer has parameters, so there is nothing to train")]
    try:
        made = build_optimizer(spec, parameters)
    except InvalidSpec as error:
        return None, error.problems
    except Exception as error:
        return None, [argument_problem("/optimizer", spec.optimizer, error)]
    problems = _sparse_problems(spec, made, parameters)
    return made, problems


def _sparse_problems(spec: JobSpec, made: Optimizing, parameters: Parameters) -> list[SpecProblem]:
    """Sparse gradients where torch would fail in the first step."""
    trained = {name for names in made.matched.values() for name in names}
    sparse = sorted(parameters.sparse & trained)
    if not sparse:
        return []
    problems = []
    for label, live in zip(made.labels, made.optimizer.param_groups, strict=True):
        component = spec.optimizer.rest if label == REST else spec.optimizer
        assert component is not None
        where = "/optimizer/rest" if label == REST else "/optimizer"
        if not parameters.sparse & set(made.matched[label]):
            continue
        if component.type not in TAKE_SPARSE:
            detail = (
                f"{component.type} cannot take the sparse gradients of {sparse[0]}; use SparseAdam, with rest for the others"
            )
            problems.append(SpecProblem(where, "not_supported", detail))
        elif live.get("weight_decay"):
            detail = f"{component.type} has no weight_decay for the sparse gradients of {sparse[0]}"
            problems.append(SpecProblem(f"{where}/weight_decay", "not_supported", detail))
    if spec.max_grad_norm is not None:
        detail = f"torch has no norm of sparse gradients, which {sparse[0]} has: leave max_grad_norm out"
        problems.append(SpecProblem("/max_grad_norm", "not_supported", detail))
    return problems


def read_back(spec: JobSpec, made: Optimizing) -> dict[str, dict[str, Any]]:
    """Arguments as the live objects have them: of "" (the optimizer), of each of its groups by label, and of "rest"."""
    found = {"": live_arguments("optimizers", spec.optimizer, made.main)}
    for label, live in made.made.items():
        if label == REST:
            assert spec.optimizer.rest is not None
            assert made.rest is not None
            found[REST] = live_arguments("optimizers", spec.optimizer.rest, made.rest)
        else:
            found[label] = {name: live.get(name, value) for name, value in found[""].items()}
    return found
