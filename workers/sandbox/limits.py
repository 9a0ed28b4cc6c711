"""Resource limits of the kernel, each for this process only unless it says otherwise."""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass
from pathlib import Path

from workers.sandbox.kernel import status

# The kernel counts the threads of a user, not of a process, other containers' too: far more room than one job wants.
THREAD_HEADROOM = 1024


@dataclass(frozen=True)
class Limits:
    """What a process under profile `strict` may take."""

    memory_bytes: int  # of address space, beyond what it has when the profile goes up
    file_bytes: int  # the largest file it can write, its log included
    open_files: int = 256
    cpu_seconds: int | None = None  # then SIGXCPU, a second later SIGKILL; for a child that answers one question

    def apply(self) -> None:
        """Sets them, soft and hard. Raises OSError, or ValueError when a hard limit is out of the kernel's range."""
        # Not 0: a core that is piped to a program, as systemd's is, is stopped by this value alone.
        _lower(resource.RLIMIT_CORE, 1)
        open_files(self.open_files)
        _lower(resource.RLIMIT_AS, _address_space() + self.memory_bytes)
        _lower(resource.RLIMIT_FSIZE, self.file_bytes)
        _lower(resource.RLIMIT_MEMLOCK, 0)
        _lower(resource.RLIMIT_NPROC, _threads_of_this_user() + THREAD_HEADROOM)
        if self.cpu_seconds is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (self.cpu_seconds, self.cpu_seconds + 1))


def no_core() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def open_files(most: int) -> None:
    _lower(resource.RLIMIT_NOFILE, most)


def volunteer_for_the_oom_killer() -> None:
    """When memory runs out it is the job that goes, not the supervisor or the zygote."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _lower(which: int, most: int) -> None:
    _, hard = resource.getrlimit(which)
    value = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (value, value))


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _threads_of_this_user() -> int:
    count, user = 0, str(os.getuid())
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, KeyError):
            lines = status(pid)
            count += int(lines["Threads"]) if lines["Uid"].split()[0] == user else 0
    return count
