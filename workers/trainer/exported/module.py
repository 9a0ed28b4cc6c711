"""The nn.Module that runs a program: the user's names in `state_dict`, `train()` and `eval()` choose the graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from workers.trainer.exported.graph import Graph
from workers.trainer.exported.problem import UnreadableProgram
from workers.trainer.exported.run import check_sizes, run

MAX_DEPTH = 64


class ExportedModule(nn.Module):
    """Takes and returns what the user's `forward` does: a tensor, or a tuple of tensors when there are several.

    Parameters and buffers sit in nested modules under the user's own names, in the user's order; so it has no public names of
    its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exported_graphs: dict[str, Graph] = {}
        # For each graph where its inputs come from: the dict of a module that holds it, and its key there. Looked up at every
        # call, because `to()` puts other tensors into these dicts.
        self._exported_state: dict[str, list[tuple[dict[str, Any], str]]] = {}

    def forward(self, *inputs: Tensor) -> Any:
        mode = "train" if self.training else "eval"
        graph, held = self._exported_graphs[mode], self._exported_state[mode]
        if len(inputs) != len(graph.inputs) - len(held):
            raise TypeError(f"this model takes {len(graph.inputs) - len(held)} inputs, not {len(inputs)}")
        device = inputs[0].device
        # On the meta device a size costs nothing until it is made, and some operators are called in another way.
        observe = check_sizes if device.type == "meta" else None
        outputs = run(graph, [holder[name] for holder, name in held] + list(inputs), device, observe)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def assemble(held: Iterable[tuple[str, Tensor, bool]], graphs: dict[str, tuple[Graph, list[str]]]) -> ExportedModule:
    """A module of parameters and buffers (dotted name, tensor, whether `state_dict` has it) and of two graphs.

    `graphs` has "train" and "eval", each with the dotted names of its inputs; those of `forward` come after them.

    Raises UnreadableProgram when a name cannot be a parameter's.
    """
    module = ExportedModule()
    for path, tensor, persistent in held:
        owner, name = _place(module, path)
        try:
            if isinstance(tensor, nn.Parameter):
                owner.register_parameter(name, tensor)
            else:
                owner.register_buffer(name, tensor, persistent)
        except KeyError as error:
            raise UnreadableProgram(f"{path[:80]!a} cannot be the name of a parameter or buffer") from error
    for mode, (graph, paths) in graphs.items():
        module._exported_graphs[mode] = graph
        module._exported_state[mode] = [_holder(*_place(module, path)) for path in paths]
    return module


def _place(module: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that holds a dotted name, made when it is not there yet, and the name's last part."""
    *names, last = path.split(".")
    if len(names) > MAX_DEPTH:
        raise UnreadableProgram(f"modules are nested more than {MAX_DEPTH} deep")
    for name in names:
        inner = module._modules.get(name)
        if inner is None:
            inner = nn.Module()
            try:
                module.add_module(name, inner)
            except KeyError as error:
                raise UnreadableProgram(f"{name[:80]!a} cannot be the name of a module") from error
        module = inner
    return module, last


def _holder(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    return (module._parameters if name in module._parameters else module._buffers), name
