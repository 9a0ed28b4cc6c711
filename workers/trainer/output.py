"""What a trainer prints. A log that cannot be written (the disk is full) never stops a job: the lines are lost."""

from __future__ import annotations

import io
import sys


class _Forgiving(io.FileIO):
    """Takes everything, and writes what can be written."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return len(memoryview(data))  # type: ignore[arg-type]


def forgive() -> None:
    """Makes stdout and stderr, as Python writes to them, streams that never raise for their file's sake."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        raw = _Forgiving(descriptor, "w", closefd=False)
        stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
