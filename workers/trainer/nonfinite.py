"""When a loss or a gradient stops being finite: what is to blame, and what must not stay of it (docs/divergence.md).

An iteration is not finite when its loss is not, or, under `skip` and `rollback`, when a gradient is not. `fail` leaves the
gradients alone, whose look would cost every run: what they break shows in the next loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.protocol import MAX_INCIDENT_ROWS
from workers.trainer.data import Batch, size
from workers.trainer.feed import Feed
from workers.trainer.last_finite import Buffers, LastFinite, copy_over, finite
from workers.trainer.objective import Criterion

NAMED_ROWS = MAX_INCIDENT_ROWS
TRIED_ROWS = 4096  # of a batch, each by itself
FAIL, SKIP, ROLLBACK = "fail", "skip", "rollback"


class Diverged(Exception):
    """The run ends because something stopped being finite; the text names it. `iteration` is the one that showed it, or the
    one after the last for a loss that was taken between two."""

    def __init__(self, text: str, iteration: int) -> None:
        super().__init__(text)
        self.iteration = iteration


@dataclass(frozen=True)
class Fault:
    """What is to blame: `iteration` is the one whose update would do, or did, the harm, `rows` its batch's in the data set,
    counted from 1, as far as they are known."""

    iteration: int
    what: str
    rows: Sequence[int] = ()
    alone: Sequence[int] = ()  # rows whose own loss is not finite

    def __str__(self) -> str:
        batch = f"; its batch is {_listed(self.rows)}" if self.rows else ""
        alone = f"; not finite by itself: {_listed(self.alone)}" if 0 < len(self.alone) < len(self.rows) else ""
        return self.what + batch + alone


class RolledBack(Exception):
    """The run is to go back; `fault` says why. `leave_out` is None where no iteration is to blame."""

    def __init__(self, fault: Fault, leave_out: int | None) -> None:
        super().__init__(str(fault))
        self.fault, self.leave_out = fault, leave_out


@dataclass(frozen=True)
class Place:
    """An iteration, its number within its epoch (from 1), and the batches of an iteration."""

    iteration: int
    within: int
    accumulate: int


class Guard:
    """Looks at one run's losses, gradients and weights, and keeps what is needed to undo an iteration."""

    def __init__(
        self, action: str, model: nn.Module, loss: Criterion, feed: Feed, *, scaled: bool, device: torch.device
    ) -> None:
        """`action` is fail, skip or rollback; `scaled` says that a GradScaler looks after the gradients."""
        self.action = action
        self.strict = action != FAIL
        self._immediate = self.strict or device.type == "cpu"  # elsewhere a look waits for the device
        self._looks_at_gradients = self.strict and not scaled
        self._named = {**dict(model.named_parameters()), **loss.parameters()}
        self._loss, self._feed = loss, feed
        modules = [model, loss.module]
        self.last_finite = LastFinite(modules)
        self._buffers = Buffers(modules)
        self._before: list[Tensor] = []
        self._suspect: tuple[float, int, Batch, Batch] | None = None  # loss, batch of the epoch, outputs, batch

    def begin(self, done: int, *, up_to_date: bool) -> None:
        """Before the iteration `done` + 1. `up_to_date` says that every loss so far has been read and was finite."""
        self._suspect = None
        if up_to_date:
            self.last_finite.keep(done)
        if self.strict:
            self._before = [b.clone() for b in self._buffers()]

    def accepts(self, loss: Tensor, outputs: Batch, batch: Batch, number: int) -> bool:
        """Whether a batch's loss is finite, where looking costs nothing. `number` counts the epoch's batches from 0."""
        if not self._immediate or math.isfinite(value := loss.item()):
            return True
        if self._suspect is None:
            self._suspect = value, number, outputs, batch
        return False

    def agrees(self) -> bool:
        """Whether the iteration may change the weights: its losses were finite, and its gradients are."""
        return self._suspect is None and (not self._looks_at_gradients or self._bad_gradient() is None)

    def undo(self) -> None:
        """Takes back what forward did to the buffers, running statistics above all."""
        copy_over(self._buffers(), self._before)

    def broken(self) -> str | None:
        """The first parameter that is not finite."""
        return next((name for name, p in self._named.items() if not finite([p])), None)

    def fault(self, place: Place, *, ahead: bool = False) -> Fault:
        """What is to blame for an iteration that is not finite. `ahead`: the device has gone on since, no more is known."""
        if not ahead and (name := self.broken()) is not None:
            before = Place(place.iteration - 1, place.within - 1, place.accumulate)
            return self.after_update(before, name)
        if self._suspect is not None:
            value, number, outputs, batch = self._suspect
            rows = self._feed.rows(number, number + 1)
            alone = [rows[i] for i in self._alone(outputs, batch)] if len(rows) == size(batch) else []
            return Fault(place.iteration, f"the loss of iteration {place.iteration} is {value}", rows, alone)
        gradient = None if ahead or not self._looks_at_gradients else self._bad_gradient()
        what = "the loss" if gradient is None else f"the gradient of {gradient}"
        return Fault(place.iteration, f"{what} of iteration {place.iteration} is not finite", self._rows(place))

    def after_update(self, place: Place, name: str) -> Fault:
        """The fault of an iteration whose update has left the parameter `name` not finite."""
        return Fault(place.iteration, f"the update of iteration {place.iteration} left {name} not finite", self._rows(place))

    def _rows(self, place: Place) -> list[int]:
        first = (place.within - 1) * place.accumulate
        return self._feed.rows(first, first + place.accumulate) if first >= 0 else []

    def _bad_gradient(self) -> str | None:
        gradients = {n: g for n, p in self._named.items() if (g := _dense(p.grad)) is not None and g.numel()}
        if not gradients or math.isfinite(nn.utils.get_total_norm(list(gradients.values()), math.inf).item()):
            return None
        return next((name for name, gradient in gradients.items() if not finite([gradient])), None)

    def _alone(self, outputs: Batch, batch: Batch) -> list[int]:
        """Places in the batch whose rows, by themselves, have a loss that is not finite; none where that cannot be told."""
        found = []
        with torch.no_grad():
            for row in range(min(size(batch), TRIED_ROWS)):
                one, other = ({k: v[row : row + 1].detach() for k, v in rows.items()} for rows in (outputs, batch))
                try:
                    value = float(self._loss(one, other))
                except (RuntimeError, ValueError, IndexError):
                    return []
                if not math.isfinite(value):
                    found.append(row)
        return found


def _dense(gradient: Tensor | None) -> Tensor | None:
    return gradient._values() if gradient is not None and gradient.is_sparse else gradient


def _listed(rows: Sequence[int]) -> str:
    named = ", ".join(str(row) for row in rows[:NAMED_ROWS])
    more = f" and {len(rows) - NAMED_ROWS} more" if len(rows) > NAMED_ROWS else ""
    return f"row{'s' if len(rows) > 1 else ''} {named}{more} of the data set"
