"""A bound on what a trainer prints. Its output goes straight into its log file, so whoever started it looks and cuts."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

# Of the bound. What comes first says how the job began, what comes last how it ended; the middle of a flood says nothing.
BEGINNING, LATEST = 0.5, 0.25


@dataclass(frozen=True)
class LogBound:
    """The log of one attempt. The process that writes it may be hostile, and may have put something else in its place."""

    path: Path
    most_bytes: int

    def cut(self) -> None:
        """Takes the middle out of a log that has grown beyond the bound. The process goes on: it appends, wherever the end is.

        A line that it prints at this very moment may be lost. A log that cannot be cut, or is none any more, is left alone.
        """
        with contextlib.suppress(OSError):
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                found = os.fstat(descriptor)
                if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size > self.most_bytes:
                    self._cut(descriptor, found.st_size)
            finally:
                os.close(descriptor)

    def _cut(self, descriptor: int, size: int) -> None:
        beginning, latest = int(self.most_bytes * BEGINNING), int(self.most_bytes * LATEST)
        tail = os.pread(descriptor, latest, size - latest)
        os.ftruncate(descriptor, beginning)
        mark = f"\n... {size - beginning - latest} bytes were cut out here: a log has at most {self.most_bytes}\n"
        os.write(descriptor, mark.encode() + tail.partition(b"\n")[2])
