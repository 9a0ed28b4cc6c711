"""The shape of a Graph model: names, what each node takes, and that every name leads to what came before it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jobs.arguments import SpecProblem, check_component, did_you_mean, escape, shown
from jobs.catalog import MAX_LAYERS, Entry, catalog
from jobs.supplement import MASKS

MAX_NAMES = 16  # inputs or outputs of a graph or of a node
NAME = r"^[a-z_][a-z0-9_]*$"
REFERENCE = r"^[a-z_][a-z0-9_]*(\.[a-z0-9]+)?$"
SHARED = "shared"
PARAMETER = "Parameter"


def check_graph(model: Mapping[str, Any]) -> Iterator[SpecProblem]:
    """Every problem with the nodes of a long-form Graph and with what refers to them."""
    nodes, inputs = model.get("nodes"), _names(model.get("inputs"))
    if not isinstance(nodes, Mapping):
        return
    yield from _twice(inputs, "/model/inputs", "input")
    graph = _Graph(inputs, dict(list(nodes.items())[:MAX_LAYERS]))
    for name in graph.nodes:
        yield from graph.check_node(name)
    outputs = _names(model.get("outputs"))
    yield from _twice(outputs, "/model/outputs", "output")
    for index, reference in enumerate(outputs):
        yield from graph.check_reference(reference, f"/model/outputs/{index}", list(graph.nodes))
    yield from graph.check_use(outputs)


def _names(value: Any) -> list[str]:
    names = value[:MAX_NAMES] if isinstance(value, list) else []
    return [name for name in names if isinstance(name, str)] if len(names) == sum(isinstance(n, str) for n in names) else []


def _twice(names: list[str], pointer: str, what: str) -> Iterator[SpecProblem]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield SpecProblem(f"{pointer}/{index}", "duplicate", f"{what} {shown(name)} stands twice")


def _check_named(name: str, entry: Entry, given: list[Any], pointer: str) -> Iterator[SpecProblem]:
    """Inputs by the names of torch's forward: known ones, those that there must be, and none left out in between."""
    if not entry.forward:
        yield SpecProblem(pointer, "wrong_type", f"node {name} ({entry.name}) takes a list of inputs, without names")
        return
    for unknown in [member for member in given if member not in entry.forward]:
        hint = did_you_mean(str(unknown), entry.forward) or f"; it takes {', '.join(entry.forward)}"
        yield SpecProblem(
            f"{pointer}/{escape(unknown)}", "unknown_field", f"{entry.name} has no input {shown(str(unknown))}{hint}"
        )
    inputs = entry.forward[: entry.inputs[1]]
    last = max((inputs.index(member) for member in given if member in inputs), default=0)
    for missing in [member for member in inputs[: max(last + 1, entry.inputs[0])] if member not in given]:
        yield SpecProblem(f"{pointer}/{missing}", "missing", f"{entry.name} needs {missing}")


class _Graph:
    """The nodes, each seen with those before it."""

    def __init__(self, inputs: list[str], nodes: dict[str, Any]) -> None:
        self.inputs, self.nodes = inputs, nodes

    def entry(self, name: str) -> Entry | None:
        """What a node calls: its own class or operation, or the module that it shares."""
        node = self.nodes.get(name)
        kind = node.get("type") if isinstance(node, Mapping) else None
        if not isinstance(kind, str):
            return None
        if kind == SHARED:
            kind = self._shared_kind(node.get("module") if isinstance(node, Mapping) else None)
        found = catalog().section("layers").get(kind) or catalog().section("operations").get(kind)
        return found if found is not None and found.refused is None else None

    def _shared_kind(self, module: object) -> str:
        node = self.nodes.get(module) if isinstance(module, str) else None
        kind = node.get("type") if isinstance(node, Mapping) else None
        return kind if isinstance(kind, str) and kind in catalog().section("layers") else ""

    def check_node(self, name: str) -> Iterator[SpecProblem]:
        node, pointer = self.nodes[name], f"/model/nodes/{escape(name)}"
        before = [*self.inputs, *list(self.nodes)[: list(self.nodes).index(name)]]
        if name in self.inputs:
            yield SpecProblem(pointer, "duplicate", f"{shown(name)} is an input of the graph; give the node another name")
        kind = node.get("type") if isinstance(node, Mapping) else None
        operations = catalog().section("operations")
        section = "operations" if isinstance(kind, str) and kind in operations else "layers"
        if isinstance(kind, str) and section == "layers" and kind not in catalog().section("layers"):
            hint = did_you_mean(kind, [*catalog().section("layers"), *operations])
            yield SpecProblem(f"{pointer}/type", "unknown_type", f"there is no layer or operation {shown(kind)}{hint}")
            return
        yield from check_component(section, node, pointer, frozenset({"inputs"}))
        if isinstance(node, Mapping):
            yield from self._check_masks_of_lengths(node, pointer)
        if kind == SHARED:
            yield from self._check_shared(node.get("module"), f"{pointer}/module", before)
        if isinstance(node, Mapping):
            yield from self._check_inputs(name, node.get("inputs"), f"{pointer}/inputs", before)

    def _check_shared(self, module: object, pointer: str, before: list[str]) -> Iterator[SpecProblem]:
        if not isinstance(module, str):
            return  # said already
        if module not in before or module in self.inputs:
            detail = f"no earlier node is called {shown(module)}{did_you_mean(module, set(before) - set(self.inputs))}"
            yield SpecProblem(pointer, "unknown_node", detail)
        elif not self._shared_kind(module):
            yield SpecProblem(
                pointer, "unknown_node", f"{shown(module)} has no module of its own to share; name a layer's node"
            )

    @staticmethod
    def _check_masks_of_lengths(node: Mapping[str, Any], pointer: str) -> Iterator[SpecProblem]:
        masks = MASKS.get(node["type"], ()) if isinstance(node.get("type"), str) else ()
        for mask in (mask for mask in masks if node.get(mask) is not None):
            detail = f'a node names its mask in inputs, such as {{"{mask}": <a node of type padding_mask>}}'
            yield SpecProblem(f"{pointer}/{mask}", "not_supported", detail)

    def _check_inputs(self, name: str, inputs: Any, pointer: str, before: list[str]) -> Iterator[SpecProblem]:
        entry = self.entry(name)
        if inputs is None:
            if entry is None or entry.inputs[0]:
                yield SpecProblem(pointer, "missing", "inputs is required")
            return
        members = dict(list(inputs.items())[:MAX_NAMES]) if isinstance(inputs, Mapping) else {}
        members |= dict(enumerate(inputs[:MAX_NAMES])) if isinstance(inputs, list) else {}
        for member, reference in members.items():
            if isinstance(reference, str):
                yield from self.check_reference(reference, f"{pointer}/{escape(member)}", before)
        if entry is not None and isinstance(inputs, Mapping):
            yield from _check_named(name, entry, list(members), pointer)
        elif entry is not None and isinstance(inputs, list) and not entry.inputs[0] <= len(inputs) <= entry.inputs[1]:
            least, most = entry.inputs
            wanted = str(least) if least == most else f"{least} to {most}"
            hint = f"; a mask goes by its name, {{{', '.join(entry.forward)}}}" if entry.masks else ""
            detail = f"node {name} ({entry.name}) takes {wanted} inputs, not {len(inputs)}{hint}"
            yield SpecProblem(pointer, "out_of_range", detail)

    def check_reference(self, reference: str, pointer: str, known: list[str]) -> Iterator[SpecProblem]:
        """`name` or `name.extra`, of the names that are known where it stands."""
        if not re.fullmatch(REFERENCE, reference):
            return  # pydantic says so
        name, _, extra = reference.partition(".")
        if name in known:
            yield from self._check_extra(name, extra, pointer)
        elif name in self.nodes:
            yield SpecProblem(pointer, "unknown_node", f"node {shown(name)} comes later; nodes run in the order of the body")
        else:
            hint = did_you_mean(name, known)
            yield SpecProblem(pointer, "unknown_node", f"there is no input or node {shown(name)}{hint}")

    def _check_extra(self, name: str, extra: str, pointer: str) -> Iterator[SpecProblem]:
        entry = self.entry(name)
        outputs = entry.outputs if entry is not None else ()
        if extra and (entry is not None or name in self.inputs) and extra not in outputs:
            has = f"beside its output it gives {', '.join(outputs[:4])}" if outputs else "it gives its output only"
            yield SpecProblem(pointer, "unknown_node", f"{name} has no output {shown(extra)}; {has}")

    def check_use(self, outputs: list[str]) -> Iterator[SpecProblem]:
        """Every node leads to an output, and every input to a node."""
        used = {reference.partition(".")[0] for reference in outputs}
        for name in reversed(self.nodes):
            node = self.nodes[name]
            if name in used and isinstance(node, Mapping):
                inputs = node.get("inputs")
                taken = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
                used |= {r.partition(".")[0] for r in _names(taken)}
                used |= {node["module"]} if isinstance(node.get("module"), str) else set()
        for name in self.nodes:
            if outputs and name not in used and re.fullmatch(NAME, str(name)):
                detail = f"node {shown(name)} leads to no output; name it in outputs, or leave it out"
                yield SpecProblem(f"/model/nodes/{escape(name)}", "unused", detail)
        for index, name in enumerate(self.inputs):
            if outputs and self.nodes and name not in used:
                yield SpecProblem(f"/model/inputs/{index}", "unused", f"no node takes the input {shown(name)}")
