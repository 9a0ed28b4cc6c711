"""The kernel's calls that Python has no names for."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_GET_SECCOMP = 21
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39


class SandboxError(OSError):
    """A layer could not be put up, or does not hold."""


def libc() -> ctypes.CDLL:
    """The C library of this process; errors are read with ctypes.get_errno."""
    return ctypes.CDLL(None, use_errno=True)


def prctl(option: int, *arguments: int) -> int:
    """prctl(2). Raises SandboxError with the kernel's code."""
    words = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    result = int(libc().prctl(option, *words))
    if result < 0:
        code = ctypes.get_errno()
        raise SandboxError(code, f"prctl({option}) failed: {os.strerror(code)}")
    return result


def die_with(parent: int) -> None:
    """This process is killed when `parent` ends. The kernel follows the parent's *thread* that started us.

    Elsewhere than on Linux it does nothing: there the closed channel ends the child.
    """
    if sys.platform != "linux":
        return
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above took hold
        os._exit(1)


def status(pid: int | str = "self") -> dict[str, str]:
    """The lines of /proc/<pid>/status. Raises OSError when there is no such process (any more)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
