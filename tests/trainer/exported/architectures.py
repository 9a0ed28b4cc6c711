"""Modules as users write them, each with an example batch: what `postgrad.export` must carry.

`ARCHITECTURES` maps a name to a function that returns the module and a function from rows to inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Inputs = Callable[[int], tuple[Tensor, ...]]
Make = Callable[[], tuple[nn.Module, Inputs]]

ARCHITECTURES: dict[str, Make] = {}


def architecture(make: Make) -> Make:
    """Enters a function into ARCHITECTURES under its name."""
    ARCHITECTURES[make.__name__] = make
    return make


def floats(*shape: int) -> Inputs:
    """Batches of float32 rows of `shape`."""
    return lambda rows: (torch.randn(rows, *shape),)


def tokens(length: int, vocabulary: int = 20) -> Inputs:
    """Batches of int64 rows of `length`."""
    return lambda rows: (torch.randint(0, vocabulary, (rows, length)),)
