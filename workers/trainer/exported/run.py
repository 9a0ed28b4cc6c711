"""Runs a graph: one operator after another, as eager PyTorch would, so that autograd and the generators see the same calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workers.trainer.exported.arguments import MAX_LIST, Device, Mixed, Slot
from workers.trainer.exported.graph import Graph, Step
from workers.trainer.exported.problem import UnreadableProgram

MAX_ELEMENTS = 500_000_000  # of one value in the graph
MAX_DIMENSIONS = 16
MAX_TIME_STEPS = 10_000

Observe = Callable[[Step, Any], None]


def run(graph: Graph, values: list[Any], device: torch.device, observe: Observe | None = None) -> list[Any]:
    """The graph's outputs for these inputs, with every result shown to `observe`. Raises whatever an operator raises."""
    registers: list[Any] = values + [None] * (graph.registers - len(values))
    for step in graph.steps:
        positional = [_value(argument, registers, device) for argument in step.positional]
        if step.block is not None:
            with torch.set_grad_enabled(step.gradients):
                result: Any = run(step.block, positional, device, observe)
        else:
            keywords = {name: _value(argument, registers, device) for name, argument in step.keywords.items()}
            call = step.call if observe is None else _ON_META.get(step.name, step.call)
            assert call is not None
            result = call(*positional, **keywords)
            if observe is not None:
                observe(step, result)
        if isinstance(step.outputs, int):
            registers[step.outputs] = result
        else:
            for register, value in zip(step.outputs, result, strict=True):
                registers[register] = value
        for register in step.frees:
            registers[register] = None
    return [registers[slot.index] for slot in graph.outputs]


def _value(argument: Any, registers: list[Any], device: torch.device) -> Any:
    if isinstance(argument, Slot):
        return registers[argument.index]
    if isinstance(argument, Mixed):
        return [registers[item.index] if isinstance(item, Slot) else item for item in argument.items]
    if isinstance(argument, Device):
        return device
    return argument


META = torch.device("meta")


@functools.cache
def warm_up() -> None:
    """The first operator on the meta device imports a second's worth of torch and sympy; after it, reading imports nothing."""
    torch.empty(2, 3, device=META).add(1).softmax(0)


def dry_run(graph: Graph, values: list[Tensor]) -> list[Tensor]:
    """The outputs of a run on the meta device, which computes and holds nothing but shapes.

    Raises UnreadableProgram when a step does not work or gives a value that is too large.
    """

    warm_up()
    try:
        with torch.random.fork_rng([]), torch.no_grad():
            return run(graph, values, META, check_sizes)
    except UnreadableProgram:
        raise
    except Exception as error:
        raise UnreadableProgram(f"the program does not run: {_first_line(error)}") from error


def check_sizes(step: Step, result: Any) -> None:
    """Observes a run on the meta device. Raises UnreadableProgram when a value is too large.

    And when batch norm would take the variance of one number: torch's layer refuses that before it calls the operator.
    """
    if step.name == "batch_norm.default" and step.positional[5] is True and result.numel() == result.shape[1]:
        raise UnreadableProgram(f"batch norm wants more than 1 value a channel in training, not shape {list(result.shape)}")
    for value in result if isinstance(result, (tuple, list)) else (result,):
        if isinstance(value, Tensor):
            _check_size(step, value)


def _check_size(step: Step, value: Tensor) -> None:
    if value.dim() > MAX_DIMENSIONS or value.numel() > MAX_ELEMENTS:
        detail = f"{step.name} gives a tensor of shape {list(value.shape)[:20]}"
        raise UnreadableProgram(f"{detail}; {MAX_DIMENSIONS} dimensions and {MAX_ELEMENTS:,} elements are allowed")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]


# ---- operators that a dry run calls in another way


def _counted(operator: Callable[..., list[Tensor]], pieces: Callable[..., int]) -> Callable[..., list[Tensor]]:
    """How many tensors come out is known before they are made: a dimension of a billion would fill the memory with them."""

    def call(value: Tensor, *arguments: Any, **keywords: Any) -> list[Tensor]:
        if pieces(value, *arguments, **keywords) > MAX_LIST:
            raise ValueError(f"more than {MAX_LIST:,} tensors come out")
        return operator(value, *arguments, **keywords)

    return call


def _stepped(operator: Callable[..., Any]) -> Callable[..., Any]:
    """A recurrent layer takes its steps one by one, on the meta device too."""

    def call(value: Tensor, *arguments: Any, **keywords: Any) -> Any:
        if max(value.shape[:2], default=0) > MAX_TIME_STEPS:
            raise ValueError(f"a recurrent layer would take more than {MAX_TIME_STEPS:,} steps")
        return operator(value, *arguments, **keywords)

    return call


def _unbound(value: Tensor, dim: int = 0) -> int:
    return value.shape[dim]


def _split(value: Tensor, split_size: int, dim: int = 0) -> int:
    return value.shape[dim] // split_size


_aten = torch.ops.aten
_ON_META: dict[str, Callable[..., Any]] = {
    # A tensor on the meta device may have other strides than on the CPU (attention's output has), so that a view would fail.
    "view.default": _aten.reshape.default,
    "view_as.default": _aten.reshape_as.default,
    "unbind.int": _counted(_aten.unbind.int, _unbound),
    "split.Tensor": _counted(_aten.split.Tensor, _split),
    "lstm.input": _stepped(_aten.lstm.input),
    "gru.input": _stepped(_aten.gru.input),
    "rnn_tanh.input": _stepped(_aten.rnn_tanh.input),
    "rnn_relu.input": _stepped(_aten.rnn_relu.input),
}
