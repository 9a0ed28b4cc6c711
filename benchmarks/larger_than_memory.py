"""Training on files of several GB: what the trainer takes of memory, whatever the file's size.

Makes an NPZ file, uploads it to a service of its own, trains one epoch on it, and prints one JSON line for each size. It takes
three times the largest size of disk for a while. `python -m benchmarks.larger_than_memory [GB ...]`, by default 2 and 6.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import zipfile
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
ZYGOTE = "workers.trainer.zygote"


def make_file(path: Path, size: int) -> int:
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


def spec(file_id: str) -> dict[str, Any]:
    return {
        "dataset": {"type": "file", "id": file_id, "normalize": "standard"},
        "split": {"train": 0.9, "val": 0.1},
        "model": {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 10}]},
        "loss": "CrossEntropyLoss",
        "optimizer": {"type": "SGD", "lr": 0.01},
        "batch_size": 256,
        "epochs": 1,
        "device": "cpu",
    }


class Peak:
    """The most that the trainer, the zygote's only child, had of memory; in bytes."""

    def __init__(self) -> None:
        self.rss = self.pss = self.private = 0

    def look(self) -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                parent = process.parent()
                if parent is None or ZYGOTE not in parent.cmdline():
                    continue
                memory = process.memory_full_info()
                self.pss, self.private = max(self.pss, memory.pss), max(self.private, memory.uss)
                status = Path(f"/proc/{process.pid}/status").read_text()
                self.rss = max(self.rss, int(status.partition("VmHWM:")[2].split()[0]) * 1024)
            except (psutil.Error, OSError, IndexError):
                continue  # it ended meanwhile


def train(client: httpx.Client, file_id: str) -> tuple[dict[str, Any], Peak]:
    answer = client.post("/v1/jobs", json=spec(file_id))
    answer.raise_for_status()
    job, peak = answer.json(), Peak()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while job["status"] in ("queued", "running") and time.monotonic() < deadline:
        time.sleep(0.1)
        peak.look()
        job = client.get(f"/v1/jobs/{job['id']}").json()
    if job["status"] != "succeeded":
        sys.exit(f"the job {job['status']}: {job['failure']}")
    return job, peak


def measure(size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="postgrad-bench-") as folder, service() as client:
        client.timeout = httpx.Timeout(PATIENCE_SECONDS)
        path = Path(folder) / "large.npz"
        rows = make_file(path, size)
        took = {"file_bytes": path.stat().st_size, "rows": rows}
        began = time.monotonic()
        with path.open("rb") as file:
            answer = client.post("/v1/files", files={"file": ("large.npz", file)})
        answer.raise_for_status()
        uploaded = time.monotonic()
        path.unlink()
        job, peak = train(client, answer.json()["id"])
        seconds = time.monotonic() - uploaded
    return {
        "measurement": "larger_than_memory",
        **took,
        "upload_and_read_seconds": round(uploaded - began, 1),
        "train_seconds": round(seconds, 1),
        "iterations": job["progress"]["iterations"],
        "trainer_peak_rss_mb": round(peak.rss / 1e6),
        "trainer_peak_pss_mb": round(peak.pss / 1e6),
        "trainer_peak_private_mb": round(peak.private / 1e6),
        "file_over_peak_rss": round(took["file_bytes"] / peak.rss, 1),
    }


def main() -> None:
    os.environ["POSTGRAD_MAX_UPLOAD_BYTES"] = str(10**12)
    named = [a for a in sys.argv[1:] if a.replace(".", "", 1).isdigit()]  # names of measurements stand there too
    for size in named or ("2", "6"):
        print(json.dumps(measure(int(float(size) * GB))), flush=True)


if __name__ == "__main__":
    main()
