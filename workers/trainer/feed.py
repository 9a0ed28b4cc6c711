"""The batches of one run, from resident tensors: the same rows in the same order as DataLoader would give them.

`DataLoader(part, batch_size, shuffle, drop_last, generator=Generator().manual_seed(seed))` draws per epoch one int64 base seed,
then with `shuffle` a permutation of the rows and a second one that its sampler throws away (rule 5 of "What `seed` means").
The feed makes those draws from a generator of its own and leaves torch's default generator alone. Random transforms draw from a
second one, seeded with `seed + 1`, batch after batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from workers.trainer.data import Batch, Part


class Feed:
    """Batches of a training part on `device`; a part that is held in memory stays there as a whole."""

    def __init__(self, part: Part, batch_size: int, *, shuffle: bool, drop_last: bool, seed: int, device: torch.device) -> None:
        self._part, self._device = part.to(device), device
        self._batch_size, self._shuffle = batch_size, shuffle
        self._generator = torch.Generator().manual_seed(seed)
        self._transforms = torch.Generator().manual_seed((seed + 1) % 2**63)
        self._order: Tensor | None = None  # rows of the epoch under way, on the device; None between epochs
        self._drawn: Tensor | None = None  # rows of the epoch under way, or of the last one
        self._rows = len(part)
        self.batches = self._rows // batch_size if drop_last else -(-self._rows // batch_size)  # per epoch
        self.samples = min(self._rows, self.batches * batch_size)  # per epoch

    def epoch(self, done: int) -> Iterator[Batch]:
        """The batches of the epoch under way that follow the first `done`; a new epoch is drawn when none is under way."""
        if self._order is None:
            self._order = self._drawn = self._draw().to(self._device)
        for number in range(done, self.batches):
            rows = self._order[number * self._batch_size : (number + 1) * self._batch_size]
            # Copied rather than sliced, shuffled or not: a batch in fresh, aligned memory is what DataLoader's collate gives.
            yield self._part.transforms.train(self._part.take(rows), self._transforms)
        self._order = None

    def rows(self, first: int, stop: int) -> list[int]:
        """The rows of some batches of the epoch under way, or else the last one, as places in the data set counted from 1."""
        if self._drawn is None:
            return []
        return self._part.numbers(self._drawn[first * self._batch_size : stop * self._batch_size])

    def _draw(self) -> Tensor:
        torch.empty((), dtype=torch.int64).random_(generator=self._generator)  # the base seed, which only loader processes use
        if not self._shuffle:
            return torch.arange(self._rows)
        order = torch.randperm(self._rows, generator=self._generator)
        torch.randperm(self._rows, generator=self._generator)  # the sampler's tail
        return order

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on in the middle of an epoch."""
        return {
            "generator": self._generator.get_state(),
            "transforms": self._transforms.get_state(),
            "order": None if self._order is None else self._order.cpu(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])
        self._transforms.set_state(state["transforms"])
        self._order = self._drawn = None if state["order"] is None else state["order"].to(self._device)
