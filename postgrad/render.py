"""What a terminal shows: tables, a curve as text, the progress of a job."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

Body = dict[str, Any]
ID_WIDTH = len("job_") + 26  # an id that is cut off is of no use
# Two dots wide, four high in one character (Unicode's braille patterns): bit of each dot by column and row.
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


# What a terminal obeys or reorders instead of showing it: control characters, and those of bidirectional text.
UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """The text of somebody else as a terminal may have it: what is not to be seen stands there as an escape."""
    return UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def plain_lines(text: str) -> str:
    """The same for text of several lines."""
    return "\n".join(map(plain, text.split("\n")))


def jobs_table(jobs: Iterable[Body]) -> Table:
    """One line a job. Names are the users' own: shown as text, never as markup."""
    table = Table(Column("id", no_wrap=True, min_width=ID_WIDTH), "name", "status", "epoch", "train/loss", "created", box=None)
    for job in jobs:
        progress = job["progress"]
        loss = job["summary"].get("train/loss", {}).get("last", {}).get("value", "")
        cells = (
            job["id"],
            job["name"] or "",
            job["status"],
            f"{progress['epoch']}/{progress['epochs']}",
            number(loss),
            _minute(job["created_at"]),
        )
        table.add_row(*(Text(plain(str(cell))) for cell in cells))
    return table


def keys_table(keys: Iterable[Body]) -> Table:
    """One line a key, without what opens the door."""
    table = Table(Column("id", no_wrap=True), "name", "scopes", "created", "last used", "revoked", box=None)
    for key in keys:
        times = (key[name] for name in ("created_at", "last_used_at", "revoked_at"))
        cells = (key["id"], key["name"], ", ".join(key["scopes"]), *(_minute(time) for time in times))
        table.add_row(*(Text(plain(str(cell))) for cell in cells))
    return table


def _minute(time: str | None) -> str:
    return (time or "-")[:16].replace("T", " ")


def number(value: Any) -> str:
    """Six significant digits; "NaN" and its like as they come."""
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def plot(steps: list[int], values: list[float], width: int, height: int) -> list[str]:
    """Lines of braille characters, the highest value on top; `width` and `height` in characters. Needs one finite value."""
    points = [(s, v) for s, v in zip(steps, values, strict=True) if isinstance(v, int | float) and math.isfinite(v)]
    columns, rows = width * 2, height * 4
    first, last = points[0][0], points[-1][0]
    low, high = min(v for _, v in points), max(v for _, v in points)
    cells = [[0] * width for _ in range(height)]
    for step, value in points:
        x = round((step - first) / max(last - first, 1) * (columns - 1))
        y = round((high - value) / ((high - low) or 1) * (rows - 1))
        cells[y // 4][x // 2] |= DOTS[x % 2][y % 4]
    lines = ["".join(chr(0x2800 + cell) for cell in row) for row in cells]
    labels = [number(high), *[""] * (height - 2), number(low)][:height]
    margin = max(map(len, labels))
    return [f"{label:>{margin}} |{line}" for label, line in zip(labels, lines, strict=True)] + [
        f"{'':>{margin}}  {first}{last:>{max(width - len(str(first)), 1)}}"
    ]


class Follow:
    """A progress bar with loss, rate and time left, fed with the events of a job's stream."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.fields[status]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[rate]} rows/s"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("", total=None, status="queued", loss="-", rate="-")

    def __enter__(self) -> Follow:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def event(self, kind: str, data: Body) -> None:
        if kind == "status":
            progress = data["progress"]
            rate = number(progress["samples_per_second"]) if progress["samples_per_second"] else "-"
            total = progress["iterations"] or None
            status = data["status"] if not data["waiting"] else f"{data['status']} ({data['waiting']})"
            self._progress.update(self._task, total=total, completed=progress["iteration"], status=status, rate=rate)
        elif kind == "metrics":
            for series in data["series"]:
                if series["name"] == "train/loss" and series["values"]:
                    self._progress.update(self._task, completed=series["steps"][-1], loss=number(series["values"][-1]))
