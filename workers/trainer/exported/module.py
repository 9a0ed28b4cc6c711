"""The nn.Module that runs a program: the user's names in `state_dict`, `train()` and `eval()` choose the graph."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from workers.trainer.exported.graph import Graph
from workers.trainer.exported.problem import UnreadableProgram
from workers.trainer.exported.run import run

MAX_DEPTH = 64


class ExportedModule(nn.Module):
    """Takes and returns what the user's `forward` does: a tensor, or a tuple of tensors when there are several.

    Parameters and buffers sit in nested modules under the user's own names, in the user's order.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exported_graphs: dict[str, Graph] = {}
        # For each graph where its inputs come from: the dict of a module that holds it, and its key there. Looked up at every
        # call, because `to()` puts other tensors into these dicts.
        self._exported_state: dict[str, list[tuple[dict[str, Any], str]]] = {}

    def hold(self, path: str, tensor: Tensor, persistent: bool) -> None:
        """Registers a parameter or buffer under its dotted name. Raises UnreadableProgram when it cannot have this name."""
        parents, _, name = path.rpartition(".")
        owner = self._owner(parents.split(".") if parents else [])
        try:
            if isinstance(tensor, nn.Parameter):
                owner.register_parameter(name, tensor)
            else:
                owner.register_buffer(name, tensor, persistent)
        except KeyError as error:
            raise UnreadableProgram(f"{path[:80]!a} cannot be the name of a parameter or buffer") from error

    def use(self, mode: str, graph: Graph, paths: list[str]) -> None:
        """The graph of "train" or "eval"; `paths` are the dotted names of its inputs, those of `forward` come after them."""
        self._exported_graphs[mode] = graph
        self._exported_state[mode] = [self._found(path) for path in paths]

    def forward(self, *inputs: Tensor) -> Any:
        mode = "train" if self.training else "eval"
        graph, held = self._exported_graphs[mode], self._exported_state[mode]
        if len(inputs) != len(graph.inputs) - len(held):
            raise TypeError(f"this model takes {len(graph.inputs) - len(held)} inputs, not {len(inputs)}")
        outputs = run(graph, [holder[name] for holder, name in held] + list(inputs), inputs[0].device)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _owner(self, names: list[str]) -> nn.Module:
        owner: nn.Module = self
        if len(names) > MAX_DEPTH:
            raise UnreadableProgram(f"modules are nested more than {MAX_DEPTH} deep")
        for name in names:
            inner = owner._modules.get(name)
            if inner is None:
                inner = nn.Module()
                try:
                    owner.add_module(name, inner)
                except KeyError as error:
                    raise UnreadableProgram(f"{name[:80]!a} cannot be the name of a module") from error
            owner = inner
        return owner

    def _found(self, path: str) -> tuple[dict[str, Any], str]:
        parents, _, name = path.rpartition(".")
        owner = self._owner(parents.split(".") if parents else [])
        return (owner._parameters if name in owner._parameters else owner._buffers), name
