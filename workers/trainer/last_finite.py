"""Copies of the weights from before the last iterations, for a run that ends because something stopped being finite.

A loss that is not finite tells of weights that broke in the step before it, so two copies are kept in turn. They cost at most
COPIED_BYTES an iteration: a larger model is copied every second, third ... iteration, one over MOST_BYTES not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

COPIED_BYTES = 2**20
MOST_BYTES = 2**28


class Buffers:
    """The buffers of some modules as they are at the time of a look: a module may put another tensor in a buffer's place."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        held = (m for module in modules for m in module.modules())
        self._places = [(m._buffers, name) for m in held for name, buffer in m._buffers.items() if buffer is not None]
        # Neighbours of one dtype are copied in one go, a mixed list tensor by tensor.
        self._places.sort(key=lambda place: str(_tensor(*place).dtype))

    def __call__(self) -> list[Tensor]:
        return [_tensor(holder, name) for holder, name in self._places]


def _tensor(holder: dict[str, Tensor | None], name: str) -> Tensor:
    buffer = holder[name]
    assert buffer is not None
    return buffer


@dataclass(frozen=True)
class Kept:
    """A copy of what there was after an iteration."""

    iteration: int
    tensors: list[Tensor]


class LastFinite:
    """The last two copies of some modules' parameters and buffers."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        parameters = [p.detach() for module in modules for p in module.parameters()]
        self._parameters = sorted(parameters, key=lambda parameter: str(parameter.dtype))
        self._buffers = Buffers(modules)
        size = sum(t.numel() * t.element_size() for t in self._tensors())
        self._every = -(-size // COPIED_BYTES) if size <= MOST_BYTES else 0
        self._kept: list[Kept] = []  # the newest last

    def keep(self, iteration: int) -> None:
        """Copies what there is now, after `iteration`, unless its turn has not come."""
        if not self._every or (self._kept and iteration < self._kept[-1].iteration + self._every):
            return
        tensors = self._tensors()
        if len(self._kept) < 2:
            copies = [t.detach().clone() for t in tensors]
        else:
            copies = self._kept.pop(0).tensors
            copy_over(copies, tensors)
        self._kept.append(Kept(iteration, copies))

    def forget(self) -> None:
        """The run goes on from elsewhere."""
        self._kept.clear()

    def put_back(self, before: int, ahead: bool) -> int | None:
        """Makes the newest finite weights from before iteration `before` the live ones; after which iteration they stood.

        `ahead` says that the live ones have seen later iterations; else they are better than an older copy, if finite. None
        when nothing is finite: the live ones are then left alone.
        """
        last = before - 1
        for kept in reversed(self._kept):
            if kept.iteration < last and not ahead and finite(self._tensors()):
                return last
            if kept.iteration <= last and finite(kept.tensors):
                copy_over(self._tensors(), kept.tensors)
                return kept.iteration
        return last if not self._kept and not ahead and finite(self._tensors()) else None

    def _tensors(self) -> list[Tensor]:
        return self._parameters + self._buffers()


def copy_over(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copies each source into its target, neighbours of one dtype at once. Neither may ask for gradients."""
    start = 0
    while start < len(targets):
        stop, dtype = start + 1, targets[start].dtype
        while stop < len(targets) and targets[stop].dtype == dtype:
            stop += 1
        torch._foreach_copy_(targets[start:stop], sources[start:stop])
        start = stop


def finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every number of every tensor is finite."""
    return all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point() or t.is_complex())
