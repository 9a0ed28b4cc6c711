"""Which parameters go into which group of which optimizer, by the patterns of a spec."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

from jobs.arguments import did_you_mean, shown
from jobs.optimizer_spec import TAKES_REST, OptimizerComponent
from jobs.spec import InvalidSpec, SpecProblem
from workers.trainer.objective import Criterion

Named = list[tuple[str, nn.Parameter]]
DEFAULT, REST = "default", "rest"  # groups that no pattern made, in the names of the lr series


@dataclass(frozen=True)
class Parameters:
    """Every parameter by name, the model's first, and the names of those whose gradients are sparse."""

    named: Named
    sparse: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: nn.Module, loss: Criterion | None) -> Parameters:
        own = list(loss.parameters().items()) if loss is not None else []
        embeddings = (
            f"{name}.weight" if name else "weight"
            for name, module in model.named_modules()
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
        )
        return cls([*model.named_parameters(), *own], frozenset(embeddings))


@dataclass
class Grouping:
    """Parameters of the optimizer by label ("0" for the first of param_groups, "default"), of its rest, and the frozen ones."""

    groups: dict[str, Named] = field(default_factory=dict)
    rest: Named = field(default_factory=list)
    frozen: Named = field(default_factory=list)


def grouped(spec: OptimizerComponent, parameters: Parameters) -> Grouping:
    """Raises InvalidSpec when a pattern matches nothing, two groups want one parameter, or the optimizer cannot take one."""
    wanted = _Wanted(parameters.named)
    found = Grouping()
    for index, part in enumerate(spec.param_groups or []):
        taken = wanted.take(part.params, f"/optimizer/param_groups/{index}/params")
        if part.frozen:
            found.frozen += taken
        else:
            found.groups[str(index)] = taken
    if spec.rest is not None:
        found.rest = wanted.take(spec.rest.params or [], "/optimizer/rest/params")
    left = wanted.left()
    found.rest += [(n, p) for n, p in left if spec.rest is not None and not takes(spec.type, n, p, parameters)]
    chosen = {name for name, _ in found.rest}
    if default := [(n, p) for n, p in left if n not in chosen]:
        found.groups[DEFAULT] = default
    problems = wanted.problems or _untakable(spec, found, parameters)
    if problems:
        raise InvalidSpec(problems)
    order = {name: i for i, (name, _) in enumerate(parameters.named)}
    found.rest.sort(key=lambda pair: order[pair[0]])
    return found


def takes(optimizer: str, name: str, parameter: nn.Parameter, parameters: Parameters) -> bool:
    """Whether an optimizer can train a parameter at all."""
    if optimizer == "Muon":
        return parameter.dim() == 2 and name not in parameters.sparse
    return optimizer != "SparseAdam" or name in parameters.sparse


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern means a parameter: by its own name, or by that of a layer that holds it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:count]), pattern) for count in range(1, len(parts) + 1))


class _Wanted:
    """Hands out each parameter once."""

    def __init__(self, named: Named) -> None:
        self._named = named
        self._taken: dict[str, str] = {}  # by whom: the pointer
        self.problems: list[SpecProblem] = []

    def take(self, patterns: Sequence[str], pointer: str) -> Named:
        taken: set[str] = set()
        for index, pattern in enumerate(patterns):
            hits = {name for name, _ in self._named if matches(name, pattern)}
            if not hits:
                self._nothing(pattern, f"{pointer}/{index}")
            for name in sorted(hits & self._taken.keys()):
                detail = f"{name} is in {self._taken[name].removesuffix('/params')} already; a parameter has one group"
                self.problems.append(SpecProblem(f"{pointer}/{index}", "duplicate", detail))
                break
            taken |= hits - self._taken.keys()
        self._taken |= dict.fromkeys(taken, pointer)
        return [(name, parameter) for name, parameter in self._named if name in taken]

    def left(self) -> Named:
        return [(name, parameter) for name, parameter in self._named if name not in self._taken]

    def _nothing(self, pattern: str, pointer: str) -> None:
        names = [name for name, _ in self._named]
        listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        detail = f"no parameter or layer is called {shown(pattern)}; there are {listed}{did_you_mean(pattern, names)}"
        self.problems.append(SpecProblem(pointer, "unknown_choice", detail))


def _untakable(spec: OptimizerComponent, found: Grouping, parameters: Parameters) -> list[SpecProblem]:
    problems = []
    for label, named in found.groups.items():
        bad = [n for n, p in named if not takes(spec.type, n, p, parameters)]
        if bad and label == DEFAULT:
            detail = f"{spec.type} takes {TAKES_REST[spec.type]} only: give `rest`, an optimizer for {_listed(bad)}"
            problems.append(SpecProblem("/optimizer/rest", "missing", detail))
        elif bad:
            detail = f"{spec.type} takes {TAKES_REST[spec.type]} only, not {_listed(bad)}"
            problems.append(SpecProblem(f"/optimizer/param_groups/{label}/params", "out_of_range", detail))
    if not found.groups:
        left = f"no {TAKES_REST[spec.type]}" if found.rest else "nothing"
        problems.append(SpecProblem("/optimizer", "out_of_range", f"there is {left} for {spec.type} to train"))
    if spec.rest is not None and not found.rest and not problems:
        detail = f"{spec.type} takes every parameter that there is, so rest has nothing to train; leave it out"
        problems.append(SpecProblem("/optimizer/rest", "out_of_range", detail))
    return problems


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
