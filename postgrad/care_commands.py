"""`postgrad prune` and `postgrad backup`: looking after what a server keeps."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from postgrad import launch
from postgrad.connection import BAD_INPUT, LOCAL, Key, Url, talking

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def prune(
    older_than: Annotated[str, typer.Option(help="Age since a job's end or an upload, such as 30d, 12h or 2w.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """Remove ended jobs, with their curves and weights, and uploads that no other job names. Needs a key of scope admin."""
    body = {"older_than_seconds": _seconds(older_than), "dry_run": dry_run}
    total = dict.fromkeys(("jobs", "files", "weights", "freed_bytes"), 0)
    with talking(url, key) as client:
        while True:
            found: dict[str, Any] = client.prune(body)
            total = {name: count + found[name] for name, count in total.items()}
            if dry_run or not found["has_more"]:
                break
    least = "at least " if dry_run and found["has_more"] else ""
    verb = "would go" if dry_run else "removed"
    print(f"{verb}: {least}{total['jobs']} jobs, {total['files']} files, {total['weights']} pinned weights; ", end="")
    print(f"{total['freed_bytes']} bytes")


def _seconds(age: str) -> float:
    match = AGE.fullmatch(age)
    if match is None:
        print(f"--older-than wants a number and one of s, m, h, d, w, such as 30d; got {age!r}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT)
    return float(match[1]) * SECONDS[match[2]]


def backup(
    target: Annotated[Path, typer.Argument(help="A folder that does not exist yet, or is empty.")],
    data_dir: Annotated[Path | None, typer.Option(help="What to back up. [POSTGRAD_DATA_DIR, or ./data]")] = None,
) -> None:
    """Copy a data folder while the service runs. The copy is a data folder: `postgrad serve --data-dir COPY` starts from it."""
    raise typer.Exit(launch.run("jobs.backup", launch.environment(data_dir=data_dir), [str(target)]))
