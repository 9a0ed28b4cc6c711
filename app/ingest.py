"""Having an upload read once, by a child that ends afterwards: `python -m workers.trainer.ingest read FILE FOLDER FORMAT`."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any

from app.checker import scrubbed_environment
from app.problems import Problem, error, unavailable

INGEST_SECONDS = 600
AT_ONCE = 2
COLUMN = ("name", "type", "arrow", "missing", "distinct", "min", "max", "longest", "shortest")
ARRAY = ("dtype", "shape", "min", "max", "missing", "infinite", "distinct")
OTHER = ("channels", "height", "width", "first_images", "bytes", "characters", "first_characters")
MAX_DISTINCT = 1000  # the reader tells no more values apart
MAX_SHOWN_CLASSES = 100
NO_DATA = ("exported", "python")  # models: their schema says what is shown

DAMAGED = "the file is damaged, or made so that its reader fails"
# Another try would end the same way; SIGKILL (a full machine) may not.
KILLED_BY_THE_FILE: dict[int, str] = {
    signal.SIGSEGV: DAMAGED,
    signal.SIGABRT: DAMAGED,
    signal.SIGBUS: DAMAGED,
    signal.SIGXFSZ: "the file unpacks to more than can be stored",
    signal.SIGXCPU: "reading the file takes too long",
    signal.SIGTERM: f"reading the file takes more than {INGEST_SECONDS} seconds",
}

log = logging.getLogger(__name__)
_slots = asyncio.Semaphore(AT_ONCE)


async def prepare(upload: Path, folder: Path, asked: str = "auto") -> None:
    """Arrays and schema in `folder`. Raises Problem: 422 when the file is no readable data set, 503 when reading failed."""
    async with _slots:
        code, output, pid = await _run("read", str(upload), str(folder), asked)
    if code == 0:
        return
    for left in folder.glob(f"*.{pid}.tmp"):  # by a child that was killed
        left.unlink(missing_ok=True)
    sentence = _problem(output) if code == 1 else KILLED_BY_THE_FILE.get(-code)
    if sentence is None:
        log.error("reading an upload failed: the child ended with %s", code)
        raise unavailable("ingest-failed", "the file could not be read now")
    errors = [error("", "invalid_data", sentence)]
    raise Problem(422, "invalid-data", "The file cannot be used as a data set", sentence, errors)


def agrees(folder: Path, asked: str) -> None:
    """Raises Problem (409) when a prepared file was read as another format than is asked for now."""
    source = json.loads((folder / "schema.json").read_text(encoding="utf-8"))["source"]
    if asked not in ("auto", source):
        detail = f"these bytes are here already, read as {source}; with one more newline at the end they are another file"
        raise Problem(409, "other-format", "The file was read as another format", detail)


async def _run(*arguments: str) -> tuple[int, bytes, int]:
    """Exit code, output and process id of the child; -SIGTERM when its time was up."""
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
        process.kill()
        await process.wait()
        return -signal.SIGTERM, b"", process.pid
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output, process.pid


def _problem(output: bytes) -> str | None:
    try:
        return str(json.loads(output)["problem"])
    except (ValueError, KeyError, TypeError):
        return None


def preview(folder: Path) -> dict[str, Any]:
    """What a reader wants to see of a prepared file: format, rows, columns or arrays with kinds and ranges, first rows."""
    schema = json.loads((folder / "schema.json").read_text(encoding="utf-8"))
    if schema["source"] in NO_DATA:
        return {"format": schema["source"], **schema["about"]}
    found: dict[str, Any] = {"format": schema["source"], "rows": schema["rows"]}
    found |= {key: schema[key] for key in OTHER if key in schema}
    if "columns" in schema:
        found["columns"] = [_shown(column, COLUMN, column["type"] == "text") for column in schema["columns"]]
        found["first_rows"] = schema["preview"]
    if "arrays" in schema:
        found["arrays"] = {
            name: _shown(array, ARRAY, array.get("integers", False)) | {"first_rows": array.get("preview", [])}
            for name, array in schema["arrays"].items()
        }
    if "vocabulary" in schema:
        found["vocabulary_size"] = len(schema["vocabulary"])
    return found


def _shown(about: dict[str, Any], keys: tuple[str, ...], classes: bool) -> dict[str, Any]:
    """Figures of one column or array, with its class counts where it may well be a class label."""
    found = {key: about[key] for key in keys if key in about}
    if found.get("distinct", 0) > MAX_DISTINCT and "counts" not in about and "categories" not in about:
        found["distinct"] = f"more than {MAX_DISTINCT}"
    labels = about.get("categories") if about.get("type") == "text" else about.get("values")
    counts = about.get("counts")
    if labels and counts and (classes or about.get("integers")) and len(labels) <= MAX_SHOWN_CLASSES:
        names = [label if isinstance(label, str) else f"{label:g}" for label in labels]
        found["class_counts"] = dict(zip(names, counts, strict=True))
    return found
