"""Runs every measurement of this folder, or those named: `python -m benchmarks [post_to_first_loss] [api_process] ...`."""

from __future__ import annotations

import runpy
import sys

MEASUREMENTS = ("post_to_first_loss", "api_process", "recovery")
WHEN_NAMED = ("larger_than_memory", "table_batches")  # the first takes minutes, and tens of GB of disk

for name in sys.argv[1:] or MEASUREMENTS:
    if name not in (*MEASUREMENTS, *WHEN_NAMED):
        sys.exit(f"no such measurement: {name}; there are {', '.join((*MEASUREMENTS, *WHEN_NAMED))}")
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")
