"""What this machine can train on, asked of a throw-away process: no long-lived process of ours holds a CUDA context."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys

log = logging.getLogger(__name__)

DISCOVERY_SECONDS = 120.0

PROBE = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
found = [torch.cuda.get_device_properties(i) for i in range(count)]
print(json.dumps({"torch": torch.__version__, "gpus": [{"name": p.name, "memory_bytes": p.total_memory} for p in found]}))
"""


@dataclasses.dataclass(frozen=True)
class Device:
    """One thing that a job can run on: `device` is torch's word for it, "cpu" or "cuda:<index>"."""

    device: str
    name: str
    memory_bytes: int | None = None


def usable_cores() -> int:
    """Cores that this process may use (a container's or taskset's share, not the machine's)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def discover() -> list[Device]:
    """The CPU first, then every CUDA device by index. A machine whose torch does not answer has a CPU only."""
    cpu = Device("cpu", f"{usable_cores()} cores")
    try:
        answer = subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=DISCOVERY_SECONDS, check=True
        )
        gpus = json.loads(answer.stdout.splitlines()[-1])["gpus"]
    except (subprocess.SubprocessError, OSError, ValueError, KeyError, IndexError) as error:
        log.warning("asking torch for GPUs failed, so this worker offers the CPU only: %s", error)
        return [cpu]
    return [cpu, *(Device(f"cuda:{index}", gpu["name"], gpu["memory_bytes"]) for index, gpu in enumerate(gpus))]
