"""What a trainer child takes away from itself before it runs a stranger's job: the profile `plain`.

It can no longer gain privileges, dump core, or write anywhere but into its own job's folder and the device files. Reading
is left alone: torch imports parts of itself late. A layer that the kernel lacks is skipped, and `layers` says which are up.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1

WRITE_FILE = 1 << 1
# remove_dir, remove_file and the seven make_* rights: bits 4 to 12.
CHANGE_FOLDERS = sum(1 << bit for bit in range(4, 13))
REFER, TRUNCATE = 1 << 13, 1 << 14
REFER_ABI, TRUNCATE_ABI = 2, 3

MAX_OPEN_FILES = 4096


class SandboxError(OSError):
    """A layer that this kernel has could not be put up."""


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise SandboxError(ctypes.get_errno(), f"prctl({option}) failed")


def die_with(parent: int) -> None:
    """This process is killed when `parent` ends. The kernel follows the parent's *thread* that started us.

    Elsewhere than on Linux it does nothing: there the closed channel ends the child.
    """
    if sys.platform != "linux":
        return
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above took hold
        os._exit(1)


def landlock_abi() -> int:
    """The version of Landlock in this kernel, 0 when there is none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc().syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION)))


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
    _limit()
    if sys.platform != "linux":
        return layers()
    _volunteer_for_the_oom_killer()
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if abi := landlock_abi():
        _write_only_into(job_folder, abi)
    return layers()


def _limit() -> None:
    # No RLIMIT_AS: CUDA reserves far more address space than it uses.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _volunteer_for_the_oom_killer() -> None:
    """When memory runs out it is the job that goes, not the supervisor or the zygote."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _write_only_into(job_folder: Path, abi: int) -> None:
    rights = WRITE_FILE | CHANGE_FOLDERS
    rights |= REFER if abi >= REFER_ABI else 0
    rights |= TRUNCATE if abi >= TRUNCATE_ABI else 0
    ruleset = _landlock(LANDLOCK_CREATE_RULESET, struct.pack("<Q", rights), 8, 0)
    try:
        _allow(ruleset, job_folder, rights)
        _allow(ruleset, Path("/dev/shm"), rights)  # noqa: S108 (torch's shared tensors live there)
        _allow(ruleset, Path("/dev"), WRITE_FILE | (rights & TRUNCATE))  # the null device and the GPUs
        _landlock(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, folder: Path, rights: int) -> None:
    if not folder.is_dir():
        return
    fd = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        _landlock(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, struct.pack("<Qi", rights, fd), 0)
    finally:
        os.close(fd)


def _landlock(call: int, *arguments: int | bytes) -> int:
    result = int(_libc().syscall(call, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise SandboxError(code, f"Landlock call {call} failed: {os.strerror(code)}")
    return result
