"""The end of a log file, without reading the rest."""

from __future__ import annotations

import os
from pathlib import Path

MAX_TAIL_BYTES = 2**20


def tail(path: Path, lines: int) -> tuple[list[str], bool]:
    """The last `lines` lines within the last MAX_TAIL_BYTES, and whether anything before them was left out."""
    with path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        start = max(0, size - MAX_TAIL_BYTES)
        log.seek(start)
        text = log.read(MAX_TAIL_BYTES).decode("utf-8", "replace")
    found = text.splitlines()
    if start:
        found = found[1:]  # its beginning was cut off
    return found[-lines:], bool(start) or len(found) > lines
