"""The module that runs named steps: what every model of layers becomes, a Sequential being steps called 0, 1, 2, ..."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from workers.trainer.calls import Call, plain

Owned = Mapping[str, nn.Module | nn.Parameter]


@dataclass(frozen=True)
class Step:
    """One call. `name` is its output's name, `module` the name of the module (or parameter) that it is given, None for an
    operation.

    `outputs` are the names of what the call gives, where that is a tuple; `over` those that no later step needs.
    """

    name: str
    call: Call
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    module: str | None = None
    over: tuple[str, ...] = ()


class Graph(nn.Module):
    """Runs its steps in order. The state_dict's keys are `<name of the module>.<parameter>`."""

    def __init__(self, inputs: Sequence[str], owned: Owned, steps: Sequence[Step], outputs: Sequence[str]) -> None:
        super().__init__()
        for name, module in owned.items():
            if isinstance(module, nn.Parameter):
                self.register_parameter(name, module)
            else:
                self.add_module(name, module)
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._steps = tuple(_freed(steps, self._outputs))
        self._is_chain = _is_chain(self._inputs, self._steps, self._outputs)

    def forward(self, *inputs: Tensor) -> Any:
        """The output, or a tuple of them, for the inputs in their order, each with the batch first."""
        if self._is_chain:
            (x,) = inputs
            for module in self._modules.values():
                x = module(x)  # type: ignore[misc]
            return x
        values: dict[str, Tensor] = dict(zip(self._inputs, inputs, strict=True))
        for step in self._steps:
            taken = [values[name] for name in step.inputs]
            for name in step.over:
                values.pop(name, None)
            given = step.call(*taken) if step.module is None else step.call(self._owned(step.module), *taken)
            if isinstance(given, tuple):
                values.update(zip(step.outputs, given, strict=False))
            else:
                values[step.name] = given
        found = tuple(values[name] for name in self._outputs)
        return found if len(found) > 1 else found[0]

    def _owned(self, name: str) -> nn.Module | nn.Parameter | None:
        return self._modules[name] if name in self._modules else self._parameters[name]

    def owned(self) -> Owned:
        """What it was given: its modules, and the parameters that are nodes of their own."""
        return {**dict(self.named_children()), **dict(self.named_parameters(recurse=False))}


def _is_chain(inputs: tuple[str, ...], steps: Sequence[Step], outputs: tuple[str, ...]) -> bool:
    """Whether each step is a module of its own that takes what the one before gives: a third of the time goes into names."""
    names = [step.name for step in steps]
    taken = [(name,) for name in (*inputs, *names)]
    own = all(step.call is plain and step.module == step.name for step in steps)
    return own and len(inputs) == 1 and [step.inputs for step in steps] == taken[:-1] and (*outputs,) == taken[-1]


def _freed(steps: Sequence[Step], outputs: tuple[str, ...]) -> list[Step]:
    """Each step with the names that it is the last to need, so that no tensor is kept for longer than in a plain forward."""
    needed, found = set(outputs), []
    for step in reversed(steps):
        last = {name for name in step.inputs if name not in needed}
        found.append(replace(step, over=tuple(sorted(last))))
        needed |= set(step.inputs)
    return found[::-1]


RESERVED = frozenset(dir(Graph((), {}, (), ())))  # attributes of every module, which no node can be called
