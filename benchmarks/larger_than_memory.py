"""Training on files of several GB: what reading the file and training on it take of memory, whatever the file's size.

Makes an NPZ or a CSV file, uploads it to a service of its own, trains one epoch on it, and prints one JSON line for each format
and size. It takes four times the largest size of disk for a while.
`python -m benchmarks.larger_than_memory [npz] [csv] [GB ...]`, by default both, 2 and 6.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.service import service

WIDTH = 1024
BLOCK_ROWS = 16_384
GB = 10**9
PATIENCE_SECONDS = 1800
LOOK_SECONDS = 0.1
CSV_COLUMNS = 100
ZYGOTE = "workers.trainer.zygote"
READER = "workers.trainer.ingest"


def make_npz(path: Path, size: int) -> int:
    """An NPZ file of about `size` bytes: x float32 (rows, 1024), y int64 (rows,) in ten classes; its rows."""
    rows = size // (WIDTH * 4)
    rng = np.random.default_rng(0)
    block = rng.normal(size=(BLOCK_ROWS, WIDTH)).astype(np.float32)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, WIDTH)})
            for start in range(0, rows, BLOCK_ROWS):
                file.write(block[: min(BLOCK_ROWS, rows - start)].tobytes())
        with archive.open("y.npy", "w") as file:
            np.lib.format.write_array(file, rng.integers(0, 10, rows))
    return rows


def make_csv(path: Path, size: int) -> int:
    """A CSV file of about `size` bytes: 100 columns of numbers with six decimals, and y in ten classes; its rows."""
    rng = np.random.default_rng(0)
    numbers, labels = rng.normal(size=(BLOCK_ROWS, CSV_COLUMNS)).tolist(), rng.integers(0, 10, BLOCK_ROWS).tolist()
    lines = [",".join(f"{n:.6f}" for n in row) + f",{label}\n" for row, label in zip(numbers, labels, strict=True)]
    rows = 0
    with path.open("w") as file:
        file.write(",".join([f"x{i}" for i in range(CSV_COLUMNS)]) + ",y\n")
        while file.tell() < size:
            file.writelines(lines)
            rows += len(lines)
    return rows


FORMATS: dict[str, tuple[Callable[[Path, int], int], dict[str, Any]]] = {
    "npz": (make_npz, {}),
    "csv": (make_csv, {"target": "y"}),
}


def spec(file_id: str, dataset: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset": {"type": "file", "id": file_id, "normalize": "standard", **dataset},
        "split": {"train": 0.9, "val": 0.1},
        "model": {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 10}]},
        "loss": "CrossEntropyLoss",
        "optimizer": {"type": "SGD", "lr": 0.01},
        "batch_size": 256,
        "epochs": 1,
        "device": "cpu",
    }


class Peak:
    """The most that a process of the service had of memory, in bytes; a thread looks while the block runs.

    The reader of uploads goes by its own command, the trainer by that of the zygote, whose only child it is.
    """

    def __init__(self, command: str, *, of_parent: bool = False) -> None:
        self.rss = self.pss = self.private = 0
        self._command, self._of_parent = command, of_parent
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            for process in psutil.Process().children(recursive=True):
                try:
                    self._look(process)
                except (psutil.Error, OSError, IndexError):
                    continue  # it ended meanwhile

    def _look(self, process: psutil.Process) -> None:
        named = process.parent() if self._of_parent else process
        if named is None or self._command not in named.cmdline():
            return
        memory = process.memory_full_info()
        self.pss, self.private = max(self.pss, memory.pss), max(self.private, memory.uss)
        status = Path(f"/proc/{process.pid}/status").read_text()
        self.rss = max(self.rss, int(status.partition("VmHWM:")[2].split()[0]) * 1024)


def train(client: httpx.Client, body: dict[str, Any]) -> tuple[dict[str, Any], Peak]:
    answer = client.post("/v1/jobs", json=body)
    answer.raise_for_status()
    job = answer.json()
    deadline = time.monotonic() + PATIENCE_SECONDS
    with Peak(ZYGOTE, of_parent=True) as peak:
        while job["status"] in ("queued", "running") and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
            job = client.get(f"/v1/jobs/{job['id']}").json()
    if job["status"] != "succeeded":
        sys.exit(f"the job {job['status']}: {job['failure']}")
    return job, peak


def upload(client: httpx.Client, path: Path) -> tuple[str, Peak]:
    """The file's id, and the peak of the process that read it."""
    with path.open("rb") as file, Peak(READER) as peak:
        answer = client.post("/v1/files", files={"file": (path.name, file)})
    answer.raise_for_status()
    return answer.json()["id"], peak


def measure(kind: str, size: int) -> dict[str, Any]:
    make, dataset = FORMATS[kind]
    with tempfile.TemporaryDirectory(prefix="postgrad-bench-") as folder, service() as client:
        client.timeout = httpx.Timeout(PATIENCE_SECONDS)
        path = Path(folder) / f"large.{kind}"
        took = {"rows": make(path, size), "file_bytes": path.stat().st_size}
        began = time.monotonic()
        file_id, reading = upload(client, path)
        uploaded = time.monotonic()
        path.unlink()
        job, training = train(client, spec(file_id, dataset))
        seconds = time.monotonic() - uploaded
    return {
        "measurement": "larger_than_memory",
        "format": kind,
        **took,
        "upload_and_read_seconds": round(uploaded - began, 1),
        "reader_peak_rss_mb": round(reading.rss / 1e6),
        "train_seconds": round(seconds, 1),
        "iterations": job["progress"]["iterations"],
        "trainer_peak_rss_mb": round(training.rss / 1e6),
        "trainer_peak_pss_mb": round(training.pss / 1e6),
        "trainer_peak_private_mb": round(training.private / 1e6),
        "file_over_peak_rss": round(took["file_bytes"] / training.rss, 1),
    }


def main() -> None:
    os.environ["POSTGRAD_MAX_UPLOAD_BYTES"] = str(10**12)
    named = sys.argv[1:]  # names of measurements stand there too
    sizes = [a for a in named if a.replace(".", "", 1).isdigit()] or ["2", "6"]
    for kind in [a for a in named if a in FORMATS] or FORMATS:
        for size in sizes:
            print(json.dumps(measure(kind, int(float(size) * GB))), flush=True)


if __name__ == "__main__":
    main()
