"""From a kill -9 to the job's running again, and from SIGTERM to its being back in the queue: medians of real kills.

A killed worker's job waits for its lease to run out, so that figure is a matter of POSTGRAD_LEASE_SECONDS (here LEASE_SECONDS;
30 unless set). A killed worker is started again at once, as a container is; `other_worker` is a second one taking over.
"""

from __future__ import annotations

import json
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks.service import free_port
from tests.chaos.cluster import LEASE_SECONDS, Cluster

ROUNDS = 7
LOOK_SECONDS = 0.005
SETTLE_SECONDS = 6.0  # some checkpoints, and time for a worker that was restarted to warm up
PATIENCE_SECONDS = 60.0
SPEC = {
    "dataset": {"type": "builtin", "name": "breast_cancer", "normalize": "standard"},
    "model": {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 1}]},
    "loss": "BCEWithLogitsLoss",
    "optimizer": {"type": "Adam", "lr": 1e-3},
    "batch_size": 32,
    "epochs": 100_000,
    "checkpoint": {"every_seconds": 0.5},
    "max_attempts": 100,
}


def rounds(workers: int, strike: Callable[[Cluster], object], event: str) -> list[float]:
    """Seconds from each strike at a running job until the next `event` of it."""
    with tempfile.TemporaryDirectory(prefix="postgrad-bench-") as folder:
        cluster = Cluster(Path(folder) / "data", free_port(), workers)
        cluster.start()
        try:
            with httpx.Client(base_url=cluster.url, timeout=30) as client:
                until(lambda: ready(client, workers))
                return _rounds(cluster, client, strike, event)
        finally:
            cluster.stop()


def _rounds(cluster: Cluster, client: httpx.Client, strike: Callable[[Cluster], object], event: str) -> list[float]:
    job = client.post("/v1/jobs", json=SPEC).json()["id"]
    found = []
    for _ in range(ROUNDS):
        until(lambda: bool(cluster.trainers()) and events(client, job)[-1]["kind"] == "started")
        time.sleep(SETTLE_SECONDS)
        found.append(_round(cluster, client, job, strike, event))
    return found


def _round(cluster: Cluster, client: httpx.Client, job: str, strike: Callable[[Cluster], object], event: str) -> float:
    began = time.time()
    strike(cluster)
    until(lambda: last(client, job, event) > began)
    return last(client, job, event) - began


def ready(client: httpx.Client, workers: int) -> bool:
    try:
        return client.get("/health/ready").status_code == 200 and len(client.get("/v1/workers").json()["data"]) == workers
    except httpx.TransportError:
        return False


def events(client: httpx.Client, job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/v1/jobs/{job}/events", params={"limit": 100}).json()["data"]
    return found


def last(client: httpx.Client, job: str, kind: str) -> float:
    """Seconds since the epoch of the newest event of that kind, 0 if there is none."""
    return max((datetime.fromisoformat(e["at"]).timestamp() for e in events(client, job) if e["kind"] == kind), default=0.0)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the service did not recover")
        time.sleep(LOOK_SECONDS)


def main() -> None:
    def kill(kind: str) -> Callable[[Cluster], object]:
        return lambda cluster: cluster.kill(kind)

    def stop(cluster: Cluster) -> None:
        cluster.workers()[0].send_signal(signal.SIGTERM)

    measured = {
        "trainer_killed_to_running": rounds(1, kill("trainer"), "started"),
        "zygote_killed_to_running": rounds(1, kill("zygote"), "started"),
        "worker_killed_to_running": rounds(1, kill("supervisor"), "started"),
        "worker_killed_to_running_on_other_worker": rounds(2, kill("supervisor"), "started"),
        "sigterm_to_requeued": rounds(1, stop, "given_back"),
    }
    for name, seconds in measured.items():
        line = {"benchmark": "recovery", "measured": name, "rounds": ROUNDS, "lease_s": LEASE_SECONDS}
        line |= {"median_ms": round(statistics.median(seconds) * 1e3), "max_ms": round(max(seconds) * 1e3)}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
