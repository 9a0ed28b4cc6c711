"""Profile `plain`, for jobs of named layers.

The process can no longer gain privileges, dump core, or write anywhere but into its own job's folder and the device files.
Reading is left alone: torch imports parts of itself late. A layer that the kernel lacks is skipped, and `layers` says which
are up.
"""

from __future__ import annotations

import sys
from pathlib import Path

from workers.sandbox import limits
from workers.sandbox.kernel import PR_SET_NO_NEW_PRIVS, prctl
from workers.sandbox.landlock import CHANGE_FOLDERS, REFER, TRUNCATE, WRITE_FILE, landlock_abi, restrict

MAX_OPEN_FILES = 4096


def layers() -> list[str]:
    """The layers of profile `plain` that this machine can put up, for the worker's row."""
    if sys.platform != "linux":
        return ["rlimits"]
    up = ["no_new_privs", "rlimits"]
    if abi := landlock_abi():
        up.append(f"landlock-{abi}")
    return up


def apply_plain(job_folder: Path) -> list[str]:
    """Puts this process and all its later children under profile `plain`, for good.

    Returns the layers that are up. Raises SandboxError when the kernel has a layer and refuses it.
    """
    # No RLIMIT_AS: CUDA reserves far more address space than it uses.
    limits.no_core()
    limits.open_files(MAX_OPEN_FILES)
    if sys.platform != "linux":
        return layers()
    limits.volunteer_for_the_oom_killer()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if abi := landlock_abi():
        _write_only_into(job_folder, abi)
    return layers()


def _write_only_into(job_folder: Path, abi: int) -> None:
    everything = WRITE_FILE | CHANGE_FOLDERS | REFER | TRUNCATE
    rules = [
        (job_folder, everything),
        (Path("/dev/shm"), everything),  # noqa: S108 (torch's shared tensors live there)
        (Path("/dev"), WRITE_FILE | TRUNCATE),  # the null device and the GPUs
    ]
    restrict(everything, rules, abi)
