"""What a run measures, on its way to the supervisor: losses stay on the device and are read back in blocks.

Values leave as float64, which holds every float32 exactly: a stored loss equals Python's `loss.item()`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.protocol import Incident, Points
from workers.trainer.exploding import Exploding
from workers.trainer.nonfinite import Diverged

FLUSH_SECONDS = 0.1
BLOCK_ITERATIONS = 256  # on an accelerator: losses held on the device before one read, which waits for the device
RATE_SECONDS = 3.0  # time constant of the smoothed samples per second
TRAIN_LOSS = "train/loss"
MOST_INCIDENTS = 100  # of one attempt; the curve has the rest


class Recorder:
    """Collects the points of a run and hands them on about every FLUSH_SECONDS; the very first at once."""

    def __init__(self, send: Callable[[Points | Incident], None], device: torch.device, *, tolerant: bool = False) -> None:
        """`tolerant`: a train loss that is not finite is data like any other, only no part of the epoch's mean."""
        self._send, self._tolerant = send, tolerant
        self._exploding = Exploding()
        self._incidents = 0
        self._block = 1 if device.type == "cpu" else BLOCK_ITERATIONS
        self._on_device: dict[str, tuple[list[int], list[Tensor]]] = {}
        self._points: dict[str, tuple[list[int], list[float]]] = {}
        self._total, self._count = 0.0, 0  # of the train losses of the epoch under way, summed in order
        self._epoch, self._iteration, self._samples = 0, 0, 0
        self._flushed_at = -math.inf
        self._rate: float | None = None

    def add(self, name: str, iteration: int, value: float | Tensor) -> None:
        """One point. A tensor of no dimension is kept on its device. Raises Diverged for a train loss that is not finite,
        unless it is tolerant: at once on the CPU, on other devices when its block is read.
        """
        if not isinstance(value, Tensor):
            self._keep(name, [iteration], [value])
            return
        steps, values = self._on_device.setdefault(name, ([], []))
        steps.append(iteration)
        values.append(value.detach())
        if len(values) >= self._block:
            self.read()

    def progressed(self, epoch: int, iteration: int, samples: int) -> None:
        """Where the run stands: epoch and iteration count from 1; `samples` rows went in since the last call."""
        self._epoch, self._iteration = epoch, iteration
        self._samples += samples

    @property
    def up_to_date(self) -> bool:
        """Whether every value so far has been read."""
        return not self._on_device

    def incident(self, incident: Incident) -> None:
        """Something that deserves an event; after MOST_INCIDENTS no more are told. Raises OSError."""
        self._incidents += 1
        if self._incidents < MOST_INCIDENTS:
            self._send(incident)
        elif self._incidents == MOST_INCIDENTS:
            text = f"{incident.text} (the curve has what follows: an attempt tells no more than {MOST_INCIDENTS})"
            self._send(dataclasses.replace(incident, text=text))

    def epoch_mean(self) -> float:
        """Mean of the epoch's train losses so far (float64, summed in order); NaN of none. Raises Diverged."""
        self.read()
        return self._total / self._count if self._count else math.nan

    def new_epoch(self) -> None:
        self._total, self._count = 0.0, 0

    def read(self) -> None:
        """Brings every value from the device. Raises Diverged."""
        for name in sorted(self._on_device, key=lambda name: name == TRAIN_LOSS):  # last: a bad loss cuts the others short
            self._read(name)

    def flush_if_due(self) -> None:
        """Called between iterations. Raises Diverged, and OSError when the supervisor is gone."""
        if time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Everything measured so far is sent, after one read of the device. Raises Diverged and OSError."""
        self.read()
        self.send()

    def send(self) -> None:
        """What has been read already is sent; nothing if there is no new point. Raises OSError."""
        if not self._points:
            return
        now = time.monotonic()
        self._measure_rate(now)
        series = {
            name: (np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64))
            for name, (steps, values) in self._points.items()
        }
        self._points = {}
        self._send(Points(series, self._epoch, self._iteration, self._rate))

    def state(self) -> dict[str, Any]:
        """The running sums of the epoch, for a checkpoint. Call `flush` first."""
        return {"total": self._total, "count": self._count, "exploding": self._exploding.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self._total, self._count = state["total"], state["count"]
        self._exploding.restore(state["exploding"])

    def _read(self, name: str) -> None:
        steps, tensors = self._on_device.pop(name)
        values = [t.item() for t in tensors] if self._block == 1 else torch.stack(tensors).double().tolist()
        if name != TRAIN_LOSS:
            self._keep(name, steps, values)
            return
        bad = None if self._tolerant else next((i for i, v in enumerate(values) if not math.isfinite(v)), None)
        kept = len(values) if bad is None else bad + 1
        self._keep(name, steps[:kept], values[:kept])
        if bad is not None:
            self._drop_after(steps[bad])
            raise Diverged(f"train/loss became {values[bad]} at iteration {steps[bad]}", steps[bad])
        for step, value in zip(steps, values, strict=True):
            self._count_in(step, value)

    def _count_in(self, step: int, loss: float) -> None:
        if math.isfinite(loss):
            self._total += loss
            self._count += 1
        if (text := self._exploding.observe(loss)) is not None:
            self.incident(Incident("exploding", f"iteration {step}: {text}", step))

    def _keep(self, name: str, steps: list[int], values: list[float]) -> None:
        kept_steps, kept_values = self._points.setdefault(name, ([], []))
        kept_steps += steps
        kept_values += values

    def _drop_after(self, iteration: int) -> None:
        """The device ran ahead of a loss that was not finite: what came after it is no part of the curve."""
        self._on_device.clear()
        self._iteration = iteration
        for name, (steps, values) in self._points.items():
            kept = sum(1 for step in steps if step <= iteration)
            self._points[name] = (steps[:kept], values[:kept])
        self._points = {name: points for name, points in self._points.items() if points[0]}

    def _measure_rate(self, now: float) -> None:
        elapsed, self._flushed_at = now - self._flushed_at, now
        samples, self._samples = self._samples, 0
        if math.isinf(elapsed) or elapsed <= 0:
            return  # the first flush: there is no span to divide by yet
        rate = samples / elapsed
        share = 1 - math.exp(-elapsed / RATE_SECONDS)
        self._rate = rate if self._rate is None else self._rate + share * (rate - self._rate)
