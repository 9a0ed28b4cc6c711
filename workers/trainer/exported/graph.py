"""A program's graph: read from JSON into steps that a loop can run, every name, operator and argument checked.

What torch writes beside the steps (symbolic shapes, guards, source lines, how containers nest) is never looked at: shapes
come from a dry run instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from workers.trainer.exported.arguments import HERE, Mixed, Slot, find, name_of, read, sequence, union
from workers.trainer.exported.operators import Operator, Parameter, operators
from workers.trainer.exported.problem import UnreadableProgram

MAX_STEPS = 20_000
MAX_VALUES = 20_000  # inputs, parameters and buffers of one graph
MAX_NESTING = 4

# Checks that torch adds to a graph. They compute nothing, and the ones that hold here were made by the dry run.
CHECKS = frozenset(
    f"torch.ops.aten.{name}"
    for name in (
        "_assert_tensor_metadata.default",
        "_assert_scalar.default",
        "_assert_async.msg",
        "sym_constrain_range.default",
        "sym_constrain_range_for_size.default",
    )
)
# The only operator with a graph inside: what a `with torch.no_grad():` in `forward` becomes.
GRAD_BLOCK = "torch.ops.higher_order.wrap_with_set_grad_enabled"

RESULTS = {"as_tensor": "Tensor", "as_sym_int": "int", "as_sym_float": "float", "as_sym_bool": "bool"}
FITTING = {"Tensor": {"Tensor"}, "int": {"int"}, "float": {"float"}, "bool": {"bool"}, "number": {"int", "float"}}


@dataclass(frozen=True)
class Step:
    """One call: `call(*positional, **keywords)`, its results into the registers `outputs`, then `frees` are emptied.

    `outputs` is one register, or a tuple of them where the call gives a tuple or list. A step with a `block` runs that graph
    instead, with gradients on or off.
    """

    name: str
    call: Callable[..., Any] | None
    positional: tuple[Any, ...]
    keywords: dict[str, Any]
    outputs: int | tuple[int, ...]
    frees: tuple[int, ...] = ()
    block: Graph | None = None
    gradients: bool = True


@dataclass(frozen=True)
class Graph:
    """Steps over numbered registers. The inputs are the first registers, in order."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Slot, ...]
    registers: int


def parse(document: Any) -> Graph:
    """The graph in the JSON of torch's `Graph`. Raises UnreadableProgram."""
    return _Parser(0, [0]).graph(document)


class _Parser:
    """One graph's names; `counted` holds the steps so far, of the graphs inside too."""

    def __init__(self, depth: int, counted: list[int]) -> None:
        if depth > MAX_NESTING:
            raise UnreadableProgram(f"graphs are nested more than {MAX_NESTING} deep")
        self._depth, self._counted = depth, counted
        self._defined: dict[str, tuple[int, str]] = {}

    def graph(self, document: Any) -> Graph:
        if not isinstance(document, dict):
            raise UnreadableProgram("a graph is missing")
        inputs = tuple(self._input(item) for item in sequence(document.get("inputs"), MAX_VALUES))
        steps = [step for node in sequence(document.get("nodes"), MAX_STEPS) if (step := self._step(node)) is not None]
        outputs = tuple(self._output(item) for item in sequence(document.get("outputs")))
        kept = {slot.index for slot in outputs}
        return Graph(inputs, _with_frees(steps, len(inputs), kept), outputs, len(self._defined))

    def _input(self, item: Any) -> str:
        tag, content = union(item)
        if tag == "as_tensor":
            name = name_of(content)
        elif tag == "as_sym_int" and self._depth:
            name = _symbol_name(content)
        else:
            raise UnreadableProgram(f"an input of the graph is of the kind {tag[:40]!a}; only tensors are allowed")
        self._define(name, RESULTS[tag])
        return name

    def _output(self, item: Any) -> Slot:
        tag, content = union(item)
        if tag == "as_tensor":
            return find(name_of(content), ("Tensor",), self._defined)
        if tag == "as_sym_int" and self._depth:
            return find(_symbol_name(content), ("int",), self._defined)
        raise UnreadableProgram(f"an output of the graph is of the kind {tag[:40]!a}; return a tensor or a tuple of tensors")

    def _define(self, name: str, kind: str) -> int:
        if name in self._defined:
            raise UnreadableProgram(f"two steps define {name[:60]!a}")
        self._defined[name] = (len(self._defined), kind)
        return len(self._defined) - 1

    # ---- steps

    def _step(self, node: Any) -> Step | None:
        self._counted[0] += 1
        if self._counted[0] > MAX_STEPS:
            raise UnreadableProgram(f"the graph has more than {MAX_STEPS:,} steps")
        target = node.get("target") if isinstance(node, dict) else None
        if not isinstance(target, str):
            raise UnreadableProgram("a step names no operator")
        if target in CHECKS:
            return None
        try:
            if target == GRAD_BLOCK:
                return self._block(node)
            if target not in operators():
                raise UnreadableProgram("this operator is not allowed in a program that is trained here")
            return self._call(operators()[target], node)
        except UnreadableProgram as problem:
            raise UnreadableProgram(f"{target[:80]!a}: {problem}") from problem

    def _call(self, operator: Operator, node: dict[str, Any]) -> Step:
        given = _given(node)
        known = {parameter.name for parameter in operator.parameters}
        for name in given:
            if name not in known:
                raise UnreadableProgram(f"it has no argument {name[:40]!a}")
        positional, keywords = self._arguments(operator.parameters, given)
        if operator.makes_tensors:
            keywords["device"] = HERE  # where the program runs, also on the meta device, whatever torch's default is
        return Step(operator.name, operator.call, positional, keywords, self._results(operator.returns, node))

    def _arguments(self, parameters: tuple[Parameter, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        for parameter in parameters:
            if parameter.name not in given:
                if parameter.required:
                    raise UnreadableProgram(f"its argument {parameter.name} is missing")
                continue
            value = read(given[parameter.name], parameter, self._defined)
            # Positional until the first one that was left out: an operator's own names may clash with Python's.
            if not parameter.keyword_only and not keywords and len(positional) == parameters.index(parameter):
                positional.append(value)
            else:
                keywords[parameter.name] = value
        return tuple(positional), keywords

    def _results(self, returns: tuple[str, ...], node: dict[str, Any]) -> int | tuple[int, ...]:
        outputs = [union(item) for item in sequence(node.get("outputs"))]
        if returns == ("List[Tensor]",):
            if len(outputs) != 1 or outputs[0][0] != "as_tensors":
                raise UnreadableProgram("it gives a list of tensors")
            return tuple(self._define(name_of(item), "Tensor") for item in sequence(outputs[0][1]))
        if len(outputs) != len(returns):
            raise UnreadableProgram(f"it gives {len(returns)} results, not {len(outputs)}")
        registers = tuple(self._result(kind, *output) for kind, output in zip(returns, outputs, strict=True))
        return registers[0] if len(registers) == 1 else registers

    def _result(self, kind: str, tag: str, content: Any) -> int:
        found = RESULTS.get(tag)
        if found is None or found not in FITTING[kind]:
            raise UnreadableProgram(f"it gives a {kind}, not {tag[:40]!a}")
        return self._define(name_of(content) if found == "Tensor" else _symbol_name(content), found)

    def _block(self, node: dict[str, Any]) -> Step:
        arguments = [union(item.get("arg") if isinstance(item, dict) else None) for item in sequence(node.get("inputs"))]
        if len(arguments) < 2 or arguments[0][0] != "as_bool" or arguments[1][0] != "as_graph":
            raise UnreadableProgram("it takes true or false and a graph")
        gradients, inner = arguments[0][1], arguments[1][1]
        if not isinstance(gradients, bool) or not isinstance(inner, dict):
            raise UnreadableProgram("it takes true or false and a graph")
        block = _Parser(self._depth + 1, self._counted).graph(inner.get("graph"))
        values = tuple(self._passed(*argument) for argument in arguments[2:])
        outputs = [union(item) for item in sequence(node.get("outputs"))]
        if len(values) != len(block.inputs) or len(outputs) != len(block.outputs):
            raise UnreadableProgram("what goes in or comes out is not what its graph has")
        registers = tuple(self._result("number" if tag != "as_tensor" else "Tensor", tag, content) for tag, content in outputs)
        return Step("set_grad_enabled", None, values, {}, registers, block=block, gradients=gradients)

    def _passed(self, tag: str, content: Any) -> Slot:
        if tag == "as_tensor":
            return find(name_of(content), ("Tensor",), self._defined)
        if tag == "as_sym_int":
            return find(_symbol_name(content), ("int",), self._defined)
        raise UnreadableProgram("it takes tensors only")


def _symbol_name(content: Any) -> str:
    tag, name = union(content)
    if tag != "as_name" or not isinstance(name, str):
        raise UnreadableProgram("a size has no name")
    return name


def _given(node: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in sequence(node.get("inputs")):
        name = name_of(item)
        if name in found:
            raise UnreadableProgram(f"its argument {name[:40]!a} is given twice")
        found[name] = item.get("arg")
    return found


def _with_frees(steps: list[Step], inputs: int, kept: set[int]) -> tuple[Step, ...]:
    """Each value is let go after the last step that uses it, as a local variable would be."""
    last: dict[int, int] = {}
    for number, step in enumerate(steps):
        for register in (*_used(step), *(step.outputs if isinstance(step.outputs, tuple) else (step.outputs,))):
            last[register] = number
    frees: list[list[int]] = [[] for _ in steps]
    for register, number in last.items():
        if register >= inputs and register not in kept:
            frees[number].append(register)
    return tuple(replace(step, frees=tuple(free)) for step, free in zip(steps, frees, strict=True))


def _used(step: Step) -> list[int]:
    used: list[int] = []
    for value in (*step.positional, *step.keywords.values()):
        items = value.items if isinstance(value, Mixed) else (value,)
        used += [item.index for item in items if isinstance(item, Slot)]
    return used
