"""`on_nonfinite: rollback`: the place to go back to, and going back.

It is the start of the epoch under way, never the last checkpoint that the clock made: so the curve is a function of the spec
and not of how fast the machine was. Every checkpoint of such a run holds it beside the present state.
"""

from __future__ import annotations

import copy
from typing import Any

from jobs.loop_spec import OnNonfinite
from workers.protocol import Incident
from workers.trainer import checkpoint
from workers.trainer.checkpoint import State
from workers.trainer.loop import Position, Steps
from workers.trainer.nonfinite import NAMED_ROWS, ROLLBACK, Diverged, RolledBack
from workers.trainer.recorder import Recorder


class Anchor:
    """The state at the start of the epoch under way, in memory; nothing under any other rule."""

    def __init__(self, rule: OnNonfinite) -> None:
        self._rule = rule
        self._state: State | None = None

    def mark(self, steps: Steps, position: Position, recorder: Recorder) -> None:
        """Called between two iterations: remembers the state when an epoch is about to begin."""
        if self._rule.type == ROLLBACK and position.within == 0 and self._marked() != position.iteration:
            self._state = copy.deepcopy(checkpoint.capture(steps, position, recorder))

    def state(self, position: Position) -> dict[str, Any]:
        """For a checkpoint; empty where the checkpoint is that place itself."""
        return {"anchor": None if self._marked() == position.iteration else self._state}

    def restore(self, state: State) -> None:
        """Takes up what a checkpoint holds."""
        self._state = state["anchor"]

    def go_back(self, error: RolledBack, steps: Steps, position: Position, recorder: Recorder) -> tuple[Position, Incident]:
        """The steps as they were at the anchor, the position to go on from, and what to tell.

        Raises Diverged when the rule allows no more, or when the same bits would come again.
        """
        rule, number = self._rule, position.rollbacks + 1
        if error.leave_out is None and rule.lr_factor == 1:
            text = f"{error}; a rollback would give it again: on_nonfinite has no lr_factor below 1"
            raise Diverged(text, position.iteration + 1) from error
        if number > rule.max_rollbacks:
            text = f"{error}; on_nonfinite allows {rule.max_rollbacks} rollbacks and this would be number {number}"
            raise Diverged(text, position.iteration + (error.leave_out is None)) from error
        assert self._state is not None
        found = checkpoint.restore(copy.deepcopy(self._state), steps, recorder)
        found.rollbacks, found.lr_scale = number, position.lr_scale * rule.lr_factor
        left_out = [*position.left_out, *([] if error.leave_out is None else [error.leave_out])]
        found.left_out = sorted({n for n in left_out if n > found.iteration})
        return found, self._incident(error, found, position.iteration)

    def _incident(self, error: RolledBack, now: Position, iteration: int) -> Incident:
        changed = [] if error.leave_out is None else [f"without the update of iteration {error.leave_out}"]
        changed += [] if now.lr_scale == 1 else [f"with learning rates times {now.lr_scale:g}"]
        text = f"back to iteration {now.iteration}, from there {' and '.join(changed)}: {error} (rollback {now.rollbacks})"
        return Incident("rolled_back", text, iteration, list(error.fault.rows[:NAMED_ROWS]), back_to=now.iteration)

    def _marked(self) -> int | None:
        return None if self._state is None else self._state["position"]["iteration"]
