"""The environment fingerprint: what, besides the spec, decides the bits of a run; and what of it has changed since it began."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

CPU_INFO = Path("/proc/cpuinfo")
# Variables by which torch and the libraries below it choose other kernels.
CHOOSING = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)


def environment(device: torch.device) -> dict[str, Any]:
    """JSON values by name. `cpu` is the instruction set that torch uses, `processor` the model that MKL and oneDNN look at."""
    found = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
        "mkl": torch.backends.mkl.is_available(),  # type: ignore[no-untyped-call]
        "onednn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        "python": platform.python_version(),
        "variables": {name: os.environ[name] for name in CHOOSING if name in os.environ},
    }
    if device.type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return found


def _processor() -> str:
    """The processor's name by the kernel, else its architecture."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def changes(first: dict[str, Any] | None, now: dict[str, Any]) -> list[str]:
    """One sentence when this attempt's environment is not the first attempt's, else none."""
    if first is None:
        return []
    parts = [f"{key} {first.get(key)} -> {value}" for key, value in now.items() if first.get(key) != value]
    if not parts:
        return []
    return [f"another environment than the first attempt's ({', '.join(parts)}): values may differ in their last bits"]
