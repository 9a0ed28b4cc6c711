"""Step 4 of a spec: how the loop saves, stops early and computes, beyond the epochs and the batch size."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from jobs.components import Strict

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


class Checkpoint(Strict):
    """When a checkpoint is written, besides at the end, and how many are kept."""

    every_n_epochs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    every_seconds: Annotated[float, Field(ge=0.1, le=86_400)] | None = 30.0
    keep: Annotated[int, Field(ge=1, le=100)] = 2


class OnNonfinite(Strict):
    """What becomes of the run when a loss or a gradient is not finite; a posted "skip" is short for {"type": "skip"}.

    fail: it ends, and the last finite weights are kept. skip: that iteration makes no update. rollback: it goes back to the
    start of the epoch, where this time that iteration makes no update, and every learning rate is `lr_factor` times what it
    was; at most `max_rollbacks` times.
    """

    type: Literal["fail", "skip", "rollback"]
    lr_factor: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_rollbacks: Annotated[int, Field(ge=1, le=100)] = 3


class EarlyStopping(Strict):
    """Ends the run after the epoch in which `monitor` has not improved by more than `min_delta` for `patience` epochs.

    `monitor` is a series that is taken once an epoch; left out, it is val/loss, or train/loss (the epoch's mean) without a
    validation part.
    """

    monitor: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    mode: Literal["min", "max"] = "min"
    patience: Annotated[int, Field(ge=1, le=100_000)] = 3
    min_delta: Annotated[float, Field(ge=0)] = 0.0
