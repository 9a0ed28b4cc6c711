"""Reads files under an audit hook and tells what Python did meanwhile. `python -m tests.trainer.exported.watched FILE...`

One JSON line a file: {"problem": the sentence of UnreadableProgram or null, "error": any other exception or null, "events": the
names of all audit events with their first argument}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from workers.trainer.exported.problem import UnreadableProgram
from workers.trainer.exported.program import read
from workers.trainer.exported.run import warm_up

EVENTS: list[tuple[str, str]] = []
WATCHING = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHING:
        EVENTS.append((event, ascii(arguments[0])[:200] if arguments else ""))


def watch(path: Path) -> dict[str, Any]:
    """Reads and builds one file, and runs the module where there is one."""
    global WATCHING
    EVENTS.clear()
    problem, error = None, None
    WATCHING = True
    try:
        program = read(path)
        module = program.build()
        module(*(torch.zeros([2 if s is None else s for s in spec.shape], dtype=spec.dtype) for spec in program.inputs))
    except UnreadableProgram as found:
        problem = str(found)
    except Exception as found:
        error = f"{type(found).__name__}: {found}"
    finally:
        WATCHING = False
    return {"problem": problem, "error": error, "events": list(EVENTS)}


if __name__ == "__main__":
    warm_up()
    sys.addaudithook(_hook)
    for name in sys.argv[1:]:
        print(json.dumps(watch(Path(name))), flush=True)
