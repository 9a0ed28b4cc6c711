"""Where a trainer process can be killed: at a message, in an iteration, or at any step of writing a checkpoint.

Everything is patched in the parent and inherited by the fork, where alone it acts.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any
from unittest.mock import patch

import torch

from tests.trainer.supervised import Supervised
from workers.protocol import Message, Points, Started
from workers.trainer import loop
from workers.trainer.attempt import Attempt

FILE_STEPS = 40  # a checkpoint takes about half as many


@dataclass
class Kill:
    """One kill -9. `where`: "file" (the n-th step of writing or reading files), "before" or "after" (iteration n of this
    attempt), "points" or "started" (as soon as the supervisor has heard), "load" (the n-th step of reading a checkpoint)."""

    where: str
    n: int
    moments: int = field(default=0, init=False)

    def moment(self, where: str, spoil: Callable[[], object] | None = None) -> None:
        """Something of that kind happens in the child now."""
        if where != self.where:
            return
        self.moments += 1
        if self.moments == self.n:
            if spoil is not None:
                spoil()
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, _job: Supervised, message: Message) -> str | None:
        """For Supervised.attempt."""
        if self.where == "started" and isinstance(message, Started):
            return "kill"
        if self.where == "points" and isinstance(message, Points):
            self.moments += 1
            return "kill" if self.moments == self.n else None
        return None


def random_kills(chance: random.Random, at_most: int) -> list[Kill]:
    """Kills of one run, in order; there may be one during the resume after another."""
    kinds = {"file": FILE_STEPS, "before": 30, "after": 30, "points": 30, "started": 1, "load": 3}
    chosen = chance.choices(list(kinds), weights=[5, 2, 2, 2, 1, 1], k=chance.randint(2, at_most))
    return [Kill(kind, chance.randint(1, kinds[kind])) for kind in chosen]


@contextlib.contextmanager
def armed(kill: Kill, checkpoints: random.Random | None) -> Iterator[None]:
    """Children forked inside are killed by `kill`; `checkpoints` decides after which iterations one is written, None: at the
    end only."""
    real_iterate, real_save, real_load = loop.iterate, torch.save, torch.load

    def iterate(*arguments: Any) -> None:
        kill.moment("before")
        real_iterate(*arguments)
        kill.moment("after")

    def save(state: Any, file: IO[bytes]) -> None:
        kill.moment("file")
        real_save(state, file)
        file.flush()
        kill.moment("file", lambda: os.truncate(file.fileno(), os.fstat(file.fileno()).st_size // 2))
        kill.moment("file")

    def load(*arguments: Any, **more: Any) -> Any:
        kill.moment("load")
        state = real_load(*arguments, **more)
        kill.moment("load")
        return state

    def due(attempt: Attempt) -> bool:
        return attempt._position.finished or (checkpoints is not None and checkpoints.random() < 0.3)

    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(loop, "iterate", iterate))
        stack.enter_context(patch.object(torch, "save", save))
        stack.enter_context(patch.object(torch, "load", load))
        stack.enter_context(patch.object(Attempt, "_checkpoint_due", due))
        for name in ("fsync", "replace", "unlink"):
            stack.enter_context(patch.object(os, name, _counted(getattr(os, name), kill)))
        yield


def _counted(real: Callable[..., Any], kill: Kill) -> Callable[..., Any]:
    def call(*arguments: Any, **more: Any) -> Any:
        kill.moment("file")
        result = real(*arguments, **more)
        kill.moment("file")
        return result

    return call
