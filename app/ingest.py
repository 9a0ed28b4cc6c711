"""Having an upload read once, by a child that ends afterwards: `python -m workers.trainer.ingest csv FILE FOLDER`."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

from app.checker import scrubbed_environment
from app.problems import Problem, error, unavailable

INGEST_SECONDS = 120
AT_ONCE = 2
FIGURES = ("name", "type", "missing", "distinct", "min", "max")

log = logging.getLogger(__name__)
_slots = asyncio.Semaphore(AT_ONCE)


async def prepare(upload: Path, folder: Path) -> None:
    """Arrays and schema in `folder`. Raises Problem: 422 when the file is no readable table, 503 when reading failed."""
    async with _slots:
        code, output = await _run("csv", str(upload), str(folder))
    if code == 0:
        return
    sentence = _problem(output) if code == 1 else None
    if sentence is None:
        log.error("reading an upload failed: the child ended with %s", code)
        raise unavailable("ingest-failed", "the file could not be read now")
    errors = [error("", "invalid_data", sentence)]
    raise Problem(422, "invalid-data", "The file cannot be used as a data set", sentence, errors)


async def _run(*arguments: str) -> tuple[int, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "workers.trainer.ingest",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=scrubbed_environment(),
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), INGEST_SECONDS)
    except TimeoutError:
        output = b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output


def _problem(output: bytes) -> str | None:
    try:
        return str(json.loads(output)["problem"])
    except (ValueError, KeyError, TypeError):
        return None


def preview(folder: Path) -> dict[str, Any]:
    """What a reader wants to see of a prepared file: rows, columns with their kinds, the first rows."""
    schema = json.loads((folder / "schema.json").read_text(encoding="utf-8"))
    columns = [{key: column[key] for key in FIGURES if key in column} for column in schema["columns"]]
    return {"format": schema["source"], "rows": schema["rows"], "columns": columns, "first_rows": schema["preview"]}
