"""A loss that explodes while it is still finite: said once, from values that have been read already.

The measure is the lowest median of any WINDOW iterations so far, so a slow explosion is found as well as a sudden one. There is
no alarm in the first WINDOW iterations, nor for a loss that is no higher than they were.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

WINDOW = 32
FACTOR = 1000.0


class Exploding:
    """Sees every train loss in order."""

    def __init__(self) -> None:
        self._window: list[float] = []
        self._first: float | None = None  # medians of |loss|
        self._lowest = math.inf
        self._told = False  # until a whole window is below the limit again

    def observe(self, loss: float) -> str | None:
        """A sentence when the loss has just exploded, else None. A loss that is not finite is no matter of this."""
        size = abs(loss)
        if not math.isfinite(size):
            return None
        exploded = self._first is not None and not self._told and size > max(FACTOR * self._lowest, self._first)
        if exploded:
            self._told = True
            self._window.clear()  # whether it is over is for the iterations that follow to show
            return (
                f"the loss is {loss:.6g}, over {FACTOR:g} times the {self._lowest:.6g} that was the median of {WINDOW} before"
            )
        self._window.append(size)
        if len(self._window) == WINDOW:
            self._close_window()
        return None

    def _close_window(self) -> None:
        median = statistics.median(self._window)
        self._window.clear()
        if self._first is None:
            self._first = median
        elif median <= max(FACTOR * self._lowest, self._first):
            self._told = False
        self._lowest = min(self._lowest, median)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"window": list(self._window), "first": self._first, "lowest": self._lowest, "told": self._told}

    def restore(self, state: dict[str, Any]) -> None:
        self._window = list(state["window"])
        self._first, self._lowest, self._told = state["first"], state["lowest"], state["told"]
