"""Copies of the weights from before the last iterations, for a run that ends because something stopped being finite.

A loss that is not finite tells of weights that broke in the step before it, so two copies are kept in turn. They cost at most
COPIED_BYTES an iteration: a larger model is copied every second, third ... iteration, one over MOST_BYTES not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

COPIED_BYTES = 2**20
MOST_BYTES = 2**28


class LastFinite:
    """The last two copies of some modules' parameters and buffers."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._parameters = [p for module in modules for p in module.parameters()]
        self._live = live_buffers(modules)
        size = sum(t.numel() * t.element_size() for t in self._tensors())
        self._every = -(-size // COPIED_BYTES) if size <= MOST_BYTES else 0
        self._kept: list[tuple[int, list[Tensor]]] = []  # (after this iteration, tensors), the newest last

    def keep(self, iteration: int) -> None:
        """Copies what there is now, after `iteration`, unless its turn has not come."""
        if not self._every or (self._kept and iteration < self._kept[-1][0] + self._every):
            return
        tensors = self._tensors()
        if len(self._kept) < 2:
            copies = [t.detach().clone() for t in tensors]
        else:
            copies = self._kept.pop(0)[1]
            with torch.no_grad():
                torch._foreach_copy_(copies, tensors)
        self._kept.append((iteration, copies))

    def forget(self) -> None:
        """The run goes on from elsewhere."""
        self._kept.clear()

    def put_back(self, before: int, ahead: bool) -> int | None:
        """Makes the newest finite weights from before iteration `before` the live ones; after which iteration they stood.

        `ahead` says that the live ones have seen later iterations, or an unknown number; else they may be the best there are.
        None when nothing is finite: the live ones are then left alone.
        """
        for iteration, copies in reversed(self._kept):
            if iteration < before - 1 and not ahead and finite(self._tensors()):
                return before - 1
            if iteration < before and finite(copies):
                with torch.no_grad():
                    torch._foreach_copy_(self._tensors(), copies)
                return iteration
        return before - 1 if not self._kept and not ahead and finite(self._tensors()) else None

    def _tensors(self) -> list[Tensor]:
        return [*self._parameters, *self._live()]


def live_buffers(modules: Sequence[nn.Module]) -> Callable[[], list[Tensor]]:
    """A quick way to the buffers as they are at the time of the call: a module may put another tensor in a buffer's place."""
    places = [
        (m._buffers, name) for module in modules for m in module.modules() for name, b in m._buffers.items() if b is not None
    ]
    return lambda: [b for holder, name in places if (b := holder[name]) is not None]


def finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every number of every tensor is finite."""
    return all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point() or t.is_complex())
