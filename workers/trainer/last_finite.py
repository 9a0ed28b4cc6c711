"""Copies of the weights from before the last iterations, for a run that ends because something stopped being finite.

A loss that is not finite tells of weights that broke in the step before it, so two copies are kept in turn. They cost at most
COPIED_BYTES an iteration: a larger model is copied every second, third ... iteration, one over MOST_BYTES not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

Memory = Tensor | npt.NDArray[Any]  # a tensor that NumPy has no type for, or on a device, as it is

QUICK = frozenset({torch.float32, torch.float64, torch.float16, torch.int64})
COPIED_BYTES = 2**18
MOST_BYTES = 2**28


class Buffers:
    """The buffers of some modules as they are at the time of a look: a module may put another tensor in a buffer's place."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        held = (m for module in modules for m in module.modules())
        self._places = [(m._buffers, name) for m in held for name, buffer in m._buffers.items() if buffer is not None]

    def __call__(self) -> list[Tensor]:
        return [buffer.detach() for holder, name in self._places if (buffer := holder[name]) is not None]


@dataclass
class Kept:
    """A copy of what there was after an iteration, and the same memory for quick copies."""

    iteration: int
    tensors: list[Tensor]
    memory: list[Memory]


class LastFinite:
    """The last two copies of some modules' parameters and buffers."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._parameters = [p.detach() for module in modules for p in module.parameters()]
        self._memory = [memory(p) for p in self._parameters]
        self._buffers = Buffers(modules)
        size = sum(t.numel() * t.element_size() for t in self._tensors())
        self._every = -(-size // COPIED_BYTES) if size <= MOST_BYTES else 0
        self._kept: list[Kept] = []  # the newest last

    def keep(self, iteration: int) -> None:
        """Copies what there is now, after `iteration`, unless its turn has not come."""
        if not self._every or (self._kept and iteration < self._kept[-1].iteration + self._every):
            return
        if len(self._kept) < 2:
            copies = [t.clone() for t in self._tensors()]
            self._kept.append(Kept(iteration, copies, [memory(t) for t in copies]))
            return
        self._kept.reverse()
        newest = self._kept[1]
        newest.iteration = iteration
        _write(newest.memory, self._memory + [memory(b) for b in self._buffers()])

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


def memory(tensor: Tensor) -> Memory:
    """The tensor's own memory in the form that is copied fastest: NumPy's where it can be had. It may not ask for gradients."""
    return tensor.numpy() if tensor.device.type == "cpu" and tensor.dtype in QUICK else tensor


def copy_over(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copies each source into its target. Neither may ask for gradients."""
    _write([memory(t) for t in targets], [memory(s) for s in sources])


def _write(targets: Sequence[Memory], sources: Sequence[Memory]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target[...] = source  # type: ignore[assignment]


def finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every number of every tensor is finite."""
    return all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point() or t.is_complex())
