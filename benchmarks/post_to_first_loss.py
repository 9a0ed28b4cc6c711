"""From POST to the first loss value visible by GET, service warm: the median and its parts, beside a fresh subprocess.

Each round alternates the two, in one run. The subprocess is what a user would start instead: python, import torch, build the
same model, one step.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from datetime import datetime

import httpx

from benchmarks.service import service

ROUNDS = 15

SPEC = {
    "dataset": {"type": "builtin", "name": "breast_cancer", "normalize": "standard"},
    "model": {
        "type": "Sequential",
        "layers": [{"type": "Linear", "out_features": 64}, {"type": "ReLU"}, {"type": "Linear", "out_features": 1}],
    },
    "loss": "BCEWithLogitsLoss",
    "optimizer": {"type": "Adam", "lr": 1e-3},
    "batch_size": 32,
    "epochs": 20,
}

SUBPROCESS = """
import torch
model = torch.nn.Sequential(torch.nn.Linear(30, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
x, y = torch.randn(32, 30), torch.ones(32, 1)
optimizer.zero_grad()
loss = torch.nn.BCEWithLogitsLoss()(model(x), y)
loss.backward()
optimizer.step()
print(loss.item())
"""


def one_job(client: httpx.Client) -> dict[str, float]:
    """Milliseconds of one job: the POST itself, until the worker's claim, until the first point, and the whole."""
    began = time.monotonic()
    answer = client.post("/v1/jobs", json=SPEC)
    posted = time.monotonic()
    url = f"/v1/jobs/{answer.json()['id']}"
    while not client.get(f"{url}/metrics", params={"name": "train/loss", "max_points": 1}).json()["series"]:
        time.sleep(0.001)
    seen = time.monotonic()
    client.get(url, headers={"Prefer": "wait=30"})
    job = client.get(url).json()
    claim = datetime.fromisoformat(job["started_at"]) - datetime.fromisoformat(job["created_at"])
    return {
        "total": (seen - began) * 1e3,
        "post": (posted - began) * 1e3,
        "created_to_started": claim.total_seconds() * 1e3,
        "posted_to_seen": (seen - posted) * 1e3,
    }


def main() -> None:
    jobs: list[dict[str, float]] = []
    fresh: list[float] = []
    with service() as client:
        one_job(client)  # the first job of a service warms the checker's and the API's caches
        for _ in range(ROUNDS):
            jobs.append(one_job(client))
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", SUBPROCESS], check=True, stdout=subprocess.DEVNULL)
            fresh.append((time.monotonic() - began) * 1e3)
    medians = {f"{part}_ms": round(statistics.median(j[part] for j in jobs), 1) for part in jobs[0]}
    line = {
        "benchmark": "post_to_first_loss",
        "rounds": ROUNDS,
        **medians,
        "max_ms": round(max(j["total"] for j in jobs), 1),
        "fresh_subprocess_ms": round(statistics.median(fresh), 1),
        "ratio": round(statistics.median(fresh) / medians["total_ms"], 1),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
