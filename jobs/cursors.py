"""The cursor: how far a reader has come in every series of one curve, as one short text.

It holds the curve's revision and, for each series in order of appearance, the last step that the reader has. That makes it
complete without anything being remembered for the reader: a client may come back after a restart of everything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jobs.errors import JobsError

NOTHING_YET = -1
FORM = re.compile(r"[0-9]{1,9}(\.[0-9]{0,18}){0,1000}")


class InvalidCursor(JobsError):
    """This text is not a cursor of this curve."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text[:80]!r} is not a cursor of this curve: use one that an earlier answer gave")


@dataclass(frozen=True)
class Cursor:
    """`steps[ordinal]` is the last step read, NOTHING_YET (-1) when there is none."""

    revision: int
    steps: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises InvalidCursor on anything that `str(cursor)` did not make."""
        if FORM.fullmatch(text, 0) is None or not text.isascii():
            raise InvalidCursor(text)
        revision, *steps = text.split(".")
        return cls(int(revision), tuple(int(step) if step else NOTHING_YET for step in steps))

    def __str__(self) -> str:
        return ".".join([str(self.revision), *("" if step == NOTHING_YET else str(step) for step in self.steps)])

    def step(self, ordinal: int) -> int:
        """The last step read of this series; -1 also for a series that began after the cursor was made."""
        return self.steps[ordinal] if ordinal < len(self.steps) else NOTHING_YET
