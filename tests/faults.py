"""A machine that says no: a database that others lock, or that is full or read-only, and a disk of a few megabytes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

NO_BOUND = 2**32 - 2  # pages, SQLite's own


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another process's write transaction that does not end."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "locked\n"
        yield
    finally:
        holder.stdin.close()
        holder.kill()  # a fork of ours may hold the other end of its input
        holder.wait(30)
        holder.stdout.close()


class Trouble:
    """What SQLite itself does to the writers of one engine, until they are `well` again."""

    def __init__(self, engine: sa.Engine) -> None:
        self._pragmas: list[str] = []
        sa.event.listen(engine, "checkout", self._prepare)

    def full(self) -> None:
        """Not one page more: "database or disk is full"."""
        self._pragmas = ["PRAGMA max_page_count = 1"]  # SQLite raises it to what is there

    def read_only(self) -> None:
        """ "attempt to write a readonly database"."""
        self._pragmas = ["PRAGMA query_only = ON"]

    def well(self) -> None:
        self._pragmas = [f"PRAGMA max_page_count = {NO_BOUND}", "PRAGMA query_only = OFF"]

    def _prepare(self, driver: sqlite3.Connection, _record: Any, _proxy: Any) -> None:
        for pragma in self._pragmas:
            driver.execute(pragma).fetchall()


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of its own in a new folder. Skips where this user may not mount one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"needs a small file system: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, how: str) -> None:
    """`how` is "ro" or "rw". The mount alone changes (`bind`): a file that is open for writing would keep its disk from it."""
    subprocess.run(["mount", "-o", f"remount,bind,{how}", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file in this folder that takes all the room its disk has."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return ballast
