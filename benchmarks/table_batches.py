"""Rows a second that batches of a table give in shuffled order: from memory, from disk row by row, from disk column by column.

One million rows in a folder of their own. `python -m benchmarks.table_batches [COLUMNS ...]`, by default 10 and 100.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from jobs.spec import parse
from workers.trainer import data, ingest
from workers.trainer.feed import Feed
from workers.trainer.formats import prepared

ROWS = 1_000_000
BATCH_SIZE = 256
SECONDS = 10.0  # of batches that are counted, or one epoch
IN_MEMORY = 2**40
SPEC: dict[str, Any] = {
    "dataset": {"type": "file", "id": "file_" + "0" * 24, "target": "y"},
    "model": {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 10}]},
    "loss": "CrossEntropyLoss",
    "optimizer": "SGD",
    "batch_size": BATCH_SIZE,
    "epochs": 1,
}


def prepare(folder: Path, columns: int, *, side_by_side: bool) -> Path:
    rng = np.random.default_rng(0)
    table = {f"x{i}": rng.normal(size=ROWS).astype(np.float32) for i in range(columns)}
    folder.mkdir()
    parquet.write_table(pa.table({**table, "y": rng.integers(0, 10, ROWS)}), folder / "upload")
    prepared.RESIDENT_BYTES = 0 if side_by_side else IN_MEMORY
    ingest.read(folder / "upload", folder / "out")
    (folder / "upload").unlink()
    return folder / "out"


def rows_a_second(folder: Path, *, resident: bool) -> int:
    data.RESIDENT_BYTES = IN_MEMORY if resident else 0
    part = data.load(parse(SPEC), folder).train
    feed = Feed(part, BATCH_SIZE, shuffle=True, drop_last=False, seed=0, device=torch.device("cpu"))
    rows, began = 0, time.perf_counter()
    for batch in feed.epoch(0):
        rows += len(batch["y"])
        if time.perf_counter() - began > SECONDS:
            break
    return round(rows / (time.perf_counter() - began))


def measure(columns: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="postgrad-bench-") as folder:
        apart = prepare(Path(folder) / "apart", columns, side_by_side=False)
        beside = prepare(Path(folder) / "beside", columns, side_by_side=True)
        return {
            "measurement": "table_batches",
            "columns": columns,
            "rows_a_second_in_memory": rows_a_second(apart, resident=True),
            "rows_a_second_row_by_row": rows_a_second(beside, resident=False),
            "rows_a_second_column_by_column": rows_a_second(apart, resident=False),
        }


def main() -> None:
    torch.set_num_threads(1)
    for columns in [a for a in sys.argv[1:] if a.isdigit()] or ("10", "100"):
        print(json.dumps(measure(int(columns))), flush=True)


if __name__ == "__main__":
    main()
