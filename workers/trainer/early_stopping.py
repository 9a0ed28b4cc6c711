"""Early stopping: the run ends when what it watches has not improved for `patience` epochs (as Lightning's EarlyStopping)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jobs.spec import JobSpec


class EarlyStopping:
    """Watches one series of one value an epoch. Without `early_stopping` in the spec it never stops anything."""

    def __init__(self, spec: JobSpec) -> None:
        self._rule = spec.early_stopping
        self._series = (self._rule.monitor if self._rule else None) or ("val/loss" if spec.split.val > 0 else "train/loss")
        self._best: float | None = None
        self._waited = 0

    def observe(self, measured: Mapping[str, float]) -> str | None:
        """Takes the epoch's values by series; why the run stops here, or None."""
        if self._rule is None:
            return None
        value = measured[self._series]
        if not math.isnan(value) and (self._best is None or self._improved(value, self._best)):
            self._best, self._waited = value, 0
            return None
        self._waited += 1
        if self._waited < self._rule.patience:
            return None
        if self._best is None:
            return f"{self._series} has been no number for {self._waited} epochs"
        return f"{self._series} has not improved on {self._best:.6g} for {self._waited} epochs"

    def _improved(self, value: float, best: float) -> bool:
        assert self._rule is not None
        delta = self._rule.min_delta
        return value < best - delta if self._rule.mode == "min" else value > best + delta

    def state(self) -> dict[str, Any]:
        """The best value so far and the epochs since, for a checkpoint."""
        return {"best": self._best, "waited": self._waited}

    def restore(self, state: dict[str, Any]) -> None:
        self._best, self._waited = state["best"], state["waited"]
