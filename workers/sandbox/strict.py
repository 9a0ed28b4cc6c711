"""Profile `strict`, for Python that a user wrote: nothing it does may reach beyond its job's folder, memory and time.

It is put on after a fork, with torch imported, before the first byte from the user is read. Every layer must be up; what
the layers do and do not bound is in docs/sandbox.md.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import sys
import sysconfig
from collections.abc import Collection, Iterable
from pathlib import Path

from workers.sandbox import seccomp
from workers.sandbox.kernel import PR_GET_NO_NEW_PRIVS, PR_GET_SECCOMP, PR_SET_NO_NEW_PRIVS, SandboxError, prctl, status
from workers.sandbox.landlock import (
    EVERY_FILE_RIGHT,
    MAKE_DIR,
    MAKE_REG,
    READ_DIR,
    READ_FILE,
    REFER,
    REMOVE_DIR,
    REMOVE_FILE,
    TRUNCATE,
    WRITE_FILE,
    landlock_abi,
    restrict,
)
from workers.sandbox.limits import Limits, volunteer_for_the_oom_killer

# Before it a file cannot be moved from one folder to another, which checkpoints and artifacts need (Linux 5.19).
LEAST_LANDLOCK_ABI = 2

READ = READ_FILE | READ_DIR
# No links, pipes, sockets or devices: others read these folders and would follow a link or wait at a pipe.
OWN = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER | TRUNCATE

LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
# What the C library, OpenMP, MKL and oneDNN look at to learn about the processor, and time zones.
MACHINE = (
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/etc/localtime",
    "/usr/share/zoneinfo",
)

_up_in: int | None = None  # the process that has put the profile on


def strict_layers() -> list[str]:
    """The layers of profile `strict` that this machine can put up, for the worker's row."""
    if sys.platform != "linux":
        return ["rlimits"]
    up = ["no_new_privs", "rlimits"]
    if abi := landlock_abi():
        up.append(f"landlock-{abi}")
    if seccomp.supported():
        up.append("seccomp")
    return up


def strict_refusal() -> str | None:
    """The sentence that says why profile `strict` cannot be offered by this process here; None when it can."""
    if sys.platform != "linux":
        return "the sandbox for user code is made of Linux's layers, and this is another system"
    if 0 in os.getresuid():
        return "the worker runs as root, against which the sandbox for user code does not hold; run it as another user"
    if int(status()["CapPrm"], 16):
        return "the worker holds capabilities, against which the sandbox for user code does not hold; run it without any"
    if (abi := landlock_abi()) < LEAST_LANDLOCK_ABI:
        has = f"has only version {abi} of it" if abi else "does not have it, or it is switched off"
        return f"the sandbox for user code needs Landlock {LEAST_LANDLOCK_ABI} (Linux 5.19), and this kernel {has}"
    if not seccomp.supported():
        return f"the sandbox for user code needs seccomp filters, and this kernel ({platform.machine()}) takes none from us"
    return None


def apply_strict(
    folder: Path | None, *, limits: Limits, readable: Iterable[Path] = (), keep: Collection[int] = ()
) -> list[str]:
    """Puts this process, which must have one thread, under profile `strict`, for good.

    It may then write only into `folder` (None: nowhere), read only there, in `readable` and what Python and torch are made of,
    and has no descriptors but 0 (the null device from then on), 1, 2 and `keep`. Returns the layers that are up.

    Raises SandboxError with a sentence when there is a reason not to; the process must then end without reading anything of
    the user's.
    """
    global _up_in
    if (why := strict_refusal()) is not None:
        raise SandboxError(why)
    if (count := int(status()["Threads"])) != 1:
        raise SandboxError(f"the layers are put up thread by thread, and this process has {count}")
    up, rules = strict_layers(), _rules(folder, readable)  # afterwards the kernel answers no such questions
    _close_all_but({1, 2, *keep})
    _set(limits)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    restrict(EVERY_FILE_RIGHT, rules, landlock_abi(), alone=True)
    seccomp.install(os.getpid())
    _prove()
    _up_in = os.getpid()
    return up


def is_strict() -> bool:
    """Whether `apply_strict` has put this process under the profile, by its own word and by the kernel's."""
    if _up_in is None or _up_in != os.getpid():
        return False
    # The kernel's word alone is not enough: a container has a filter of its own, another one.
    return prctl(PR_GET_SECCOMP) == seccomp.MODE_FILTER and prctl(PR_GET_NO_NEW_PRIVS) == 1


def _set(limits: Limits) -> None:
    volunteer_for_the_oom_killer()
    try:
        limits.apply()
    except ValueError as error:
        raise SandboxError(f"a resource limit could not be set: {error}") from error


def _rules(folder: Path | None, readable: Iterable[Path]) -> list[tuple[Path, int]]:
    roots = [*_installation(), *map(Path, LIBRARIES)]
    rules = [(path, READ) for path in (*roots, *map(Path, MACHINE), *readable)]
    rules += [(Path("/dev/null"), READ_FILE | WRITE_FILE | TRUNCATE)]
    if folder is None:
        return rules
    for root in roots:
        if folder.resolve().is_relative_to(root):
            raise SandboxError(f"the data folder lies in {root}, which user code must be able to read; move it elsewhere")
    return [*rules, (folder, OWN)]


def _installation() -> list[Path]:
    """Where Python, what is installed into it, and postgrad's own packages lie.

    Not the folder that holds these packages: in a checkout it holds the data folder too.
    """
    paths = sysconfig.get_paths()
    places = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    places |= {place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")}
    here = Path(__file__).resolve().parents[2]
    return [Path(place).resolve() for place in sorted(places)] + [here / "jobs", here / "workers"]


def _close_all_but(kept: Collection[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # the descriptor of this very listing
                os.close(int(name))
    os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free: 0, which may have been the operator's terminal


def _prove() -> None:
    """One forbidden thing of each layer is tried. Raises SandboxError when it works."""
    with contextlib.suppress(PermissionError):
        os.listdir("/")
        raise SandboxError("Landlock is up but does not hold: the root folder can be listed")
    with contextlib.suppress(PermissionError):
        socket.socket().close()
        raise SandboxError("seccomp is up but does not hold: a socket can be made")
