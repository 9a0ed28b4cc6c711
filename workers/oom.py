"""Did the kernel's out-of-memory killer strike in our control group? Its counter says so; a SIGKILL alone does not."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def counter_file(groups: str, root: Path = ROOT) -> Path | None:
    """Where this process's counter is, from the text of /proc/self/cgroup; None when there is none to read.

    Inside a container the path that the kernel tells is the host's, and the group's own files lie at the root.
    """
    candidates: list[Path] = []
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            candidates += [root / path.lstrip("/") / "memory.events", root / "memory.events"]
        elif "memory" in controllers.split(","):
            name = "memory.oom_control"
            candidates += [root / "memory" / path.lstrip("/") / name, root / "memory" / name]
    return next((path for path in candidates if path.is_file()), None)


def kills_in(text: str) -> int:
    """The value of the line `oom_kill N`, 0 when there is no such line."""
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


class OomCounter:
    """Tells whether the counter rose since it was last asked."""

    def __init__(self, file: Path | None = None) -> None:
        groups = Path("/proc/self/cgroup")
        self._file = file or (counter_file(groups.read_text()) if groups.is_file() else None)
        self._seen = self._read()

    def rose(self) -> bool:
        before, self._seen = self._seen, self._read()
        return self._seen > before

    def _read(self) -> int:
        try:
            return kills_in(self._file.read_text()) if self._file else 0
        except OSError:
            return 0
