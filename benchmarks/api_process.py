"""What it costs that the API process never imports torch: start time and memory, beside the same process with torch."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

ROUNDS = 7
REPORT = "; print(next(l.split()[1] for l in open('/proc/self/smaps_rollup') if l.startswith('Pss:')))"
WAYS = {"app": "import app.main", "app_with_torch": "import app.main, torch"}


def start(code: str) -> tuple[float, float]:
    """Milliseconds from exec to exit, and the proportional set size in MiB."""
    began = time.monotonic()
    out = subprocess.run([sys.executable, "-c", code + REPORT], check=True, capture_output=True, text=True).stdout
    return (time.monotonic() - began) * 1e3, int(out) / 1024


def main() -> None:
    samples: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way, code in WAYS.items():
            samples[way].append(start(code))
    figures = {
        way: {
            "start_ms": round(statistics.median(s[0] for s in found)),
            "pss_mb": round(statistics.median(s[1] for s in found)),
        }
        for way, found in samples.items()
    }
    print(json.dumps({"benchmark": "api_process", "rounds": ROUNDS, **figures}), flush=True)


if __name__ == "__main__":
    main()
