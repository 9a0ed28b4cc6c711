"""What a process under profile `strict` takes that no resource limit bounds; whoever may kill it looks now and then.

The kernel bounds one file, not all of them, and threads per user, not per process.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from workers.sandbox.kernel import status

MAX_DEPTH = 32
BLOCK_BYTES = 512  # of st_blocks, whatever the disk's own blocks are


class _TooMuch(Exception):
    """Holds the sentence."""


@dataclass
class Usage:
    """Looks at one process and its job's folder from outside. The process may be hostile, and may be gone."""

    pid: int
    folder: Path
    disk_bytes: int  # of all files together, as the disk counts them
    files: int = 10_000  # with folders
    threads: int = 512

    def excess(self) -> str | None:
        """The sentence that says which bound is broken, None when all hold. One look takes about 6 µs a file.

        Counted are the folder's files and those that are open but have no name left.
        """
        try:
            self._count_threads()
            used = self._walked() + self._unnamed()
        except _TooMuch as sentence:
            return str(sentence)
        if used > self.disk_bytes:
            return f"the job's files take {used} bytes on disk; it may have {self.disk_bytes}"
        return None

    def _count_threads(self) -> None:
        with contextlib.suppress(OSError, KeyError):
            if (count := int(status(self.pid)["Threads"])) > self.threads:
                raise _TooMuch(f"the job runs {count} threads; it may have {self.threads}")

    def _walked(self) -> int:
        count = used = 0
        waiting = [(str(self.folder), 0)]
        while waiting:
            folder, depth = waiting.pop()
            if depth > MAX_DEPTH:
                raise _TooMuch(f"the job's folders are nested deeper than {MAX_DEPTH}")
            for entry, found in _entries(folder):
                count += 1
                used += found.st_blocks * BLOCK_BYTES
                if count > self.files:
                    raise _TooMuch(f"the job's folder holds more than {self.files} files and folders")
                if stat.S_ISDIR(found.st_mode):
                    waiting.append((entry, depth + 1))
        return used

    def _unnamed(self) -> int:
        sizes: dict[tuple[int, int], int] = {}
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{self.pid}/fd"):
                with contextlib.suppress(OSError):
                    found = os.stat(f"/proc/{self.pid}/fd/{name}")
                    if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                        sizes[found.st_dev, found.st_ino] = found.st_blocks * BLOCK_BYTES
        return sum(sizes.values())


def _entries(folder: str) -> list[tuple[str, os.stat_result]]:
    """Paths and stats of what lies in a folder. What vanishes meanwhile is left out; what hides from us is too much."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.path, entry.stat(follow_symlinks=False)))
    except FileNotFoundError:
        pass
    except PermissionError as error:
        raise _TooMuch("the job has made a folder that cannot be looked into") from error
    return found
