"""Reads made-up files in a disposable process, as the service does, and says of each how it ended.

A process reads many files, one after the other, and tells the number of each before it begins. One that dies or hangs has so
named the file that it did it on, and the next process goes on behind it.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from app.ingest import preview
from workers.trainer import ingest
from workers.trainer.arrays import Arrays
from workers.trainer.formats.prepared import UnreadableFile

SECONDS = 20.0  # of one small file. The API gives an upload of a gigabyte ten minutes
BATCH = 500  # files of one process

Make = Callable[[random.Random], bytes]


@dataclass
class Outcome:
    """How the files of one reader ended. `died` are deaths in a library, which the service contains; see docs/testing.md."""

    cases: int = 0
    refused: int = 0
    accepted: int = 0
    crashes: list[str] = field(default_factory=list)
    died: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)

    def line(self, reader: str) -> str:
        counts = f"cases {self.cases}, refused {self.refused}, accepted {self.accepted}, crashes {len(self.crashes)}"
        return f"{reader}: {counts}, hangs {len(self.hangs)}, contained deaths {len(self.died)}"


def fuzz(make: Make, folder: Path, numbers: range, asked: str = "auto") -> Outcome:
    """Reads the file of each of these numbers. What did not end well is kept in `folder` under its number."""
    found, at = Outcome(), numbers.start
    while at < numbers.stop:
        at = _batch(make, folder, range(at, min(at + BATCH, numbers.stop)), asked, found)
    return found


def _batch(make: Make, folder: Path, numbers: range, asked: str, found: Outcome) -> int:
    """Up to the end of these numbers, or to the first that ended its process; the number to go on with."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _read_all(make, folder, numbers, asked, writing)
    os.close(writing)
    current = numbers.start
    with os.fdopen(reading, "rb") as lines:
        for number, outcome, what in _told(lines):
            current = number
            if outcome != "begin":
                _count(found, outcome, f"{number}: {what}")
                current = number + 1
    if current < numbers.stop:  # it is over before its time
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if current < numbers.stop:
        found.cases += 1
        (found.hangs if status == -signal.SIGKILL else found.died).append(f"{current}: {_how(status)}")
        (folder / "upload").rename(folder / f"{current}.upload")
        return current + 1
    return current


def _how(status: int) -> str:
    if status == -signal.SIGKILL:
        return f"no answer in {SECONDS:g} s"
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def _told(lines: Any) -> Iterator[tuple[int, str, str]]:
    """What the process says, until it ends or is silent for too long."""
    while select.select([lines], [], [], SECONDS)[0]:
        if not (line := lines.readline()):
            return
        yield tuple(json.loads(line))


def _count(found: Outcome, outcome: str, what: str) -> None:
    found.cases += 1
    match outcome:
        case "refused":
            found.refused += 1
        case "accepted":
            found.accepted += 1
        case _:
            found.crashes.append(what)


def _read_all(make: Make, folder: Path, numbers: range, asked: str, writing: int) -> NoReturn:
    status = 1
    try:
        ingest.confine()
        for number in numbers:
            os.write(writing, json.dumps([number, "begin", ""]).encode() + b"\n")
            path = folder / "upload"
            path.write_bytes(make(random.Random(number)))
            outcome, what = read(path, folder / "out", asked)
            if outcome == "crash":
                shutil.copy(path, folder / f"{number}.upload")
            os.write(writing, json.dumps([number, outcome, what]).encode() + b"\n")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def read(path: Path, out: Path, asked: str = "auto") -> tuple[str, str]:
    """ "refused", "accepted" or "crash", and for the last one why. `out` is gone afterwards."""
    try:
        ingest.read(path, out, asked)
        check(out)
    except (UnreadableFile, MemoryError) as error:
        left = sorted(file.name for file in out.iterdir()) if out.exists() else []
        return ("crash", f"refused, and {left} were left behind") if left else ("refused", str(error))
    except Exception:
        return "crash", traceback.format_exc(limit=-3)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return "accepted", ""


def check(folder: Path) -> None:
    """Whether what was accepted is whole: every array is as long as its schema says, and every code has its category."""
    schema = json.loads((folder / "schema.json").read_text(encoding="utf-8"))
    shown = preview(folder)
    json.dumps(shown, allow_nan=False)
    if schema["source"] in ("exported", "python"):
        return
    arrays = Arrays(folder, schema)
    for name, stored in arrays.items():
        values = stored.slice(0, len(stored))
        if name.partition(".")[0] in ("numbers", "codes"):
            assert len(values) == schema["rows"], f"{name} has {len(values)} rows, not {schema['rows']}"
        _check_values(name, values, schema)
    for name, about in schema.get("arrays", {}).items():
        if about["shape"]:
            assert [len(arrays[name]), *arrays[name].slice(0, 1).shape[1:]] == about["shape"]


def _check_values(name: str, values: Any, schema: dict[str, Any]) -> None:
    kind, _, index = name.partition(".")
    if kind == "codes" and "categories" in schema["columns"][int(index)]:
        known = len(schema["columns"][int(index)]["categories"])
        assert set(np.unique(values).tolist()) <= set(range(-1, known)), f"{name} names a category that is not there"
    elif kind == "offsets":
        assert bool(np.all(np.diff(values, prepend=0) >= 0)), f"{name} runs backwards"
    elif kind == "characters":
        assert int(values.max()) < len(schema["vocabulary"]), "a character is not in the vocabulary"


def seconds_since(start: float) -> str:
    return f"{time.monotonic() - start:.0f} s"
