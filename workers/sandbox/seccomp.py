"""The seccomp filter of profile `strict`: a program for the kernel that looks at every system call before it happens.

It is a list of what is allowed. The rest fails with EPERM, so that user code meets an exception that it can print; clone3 and
calls newer than this list fail with ENOSYS, so that the C library falls back to ones whose arguments can be seen.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from workers.sandbox.kernel import PR_SET_SECCOMP, libc, prctl
from workers.sandbox.syscalls import CLONE3, NEWEST, NUMBERS

MODE_FILTER = 2
ALLOW, FAIL_WITH = 0x7FFF0000, 0x00050000

# Instructions of classic BPF: code, jump if true, jump if false, constant.
LOAD, AND, EQUAL, GREATER, AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x25, 0x35, 0x06
Instruction = tuple[int, int, int, int]

# Offsets in struct seccomp_data. Both machines are little-endian.
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
X32 = 0x40000000

AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
COLUMN = {"x86_64": 0, "aarch64": 1}


@dataclass(frozen=True)
class Check:
    """The call is allowed when `argument & mask` is one of `values`, else it fails with `error`.

    Only the lower 32 bits are looked at: the kernel takes these arguments as ints. A `pointer` is looked at whole.
    """

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    error: int = errno.EPERM
    pointer: bool = False


O_TRUNC, O_TMPFILE = 0o1000, 0o20000000
# Truncating needs a writer's descriptor, which Landlock gives or not (before its version 3 it does not look at O_TRUNC);
# a file without a name would not be seen by who watches the folder.
OPEN_MASK, OPEN_FLAGS = 3 | O_TRUNC | O_TMPFILE, (0, 1, 2, O_TRUNC | 1, O_TRUNC | 2)

# Folders stay open to their owner, who counts and deletes what is in them.
OWNERS = 0o700

CLONE_THREAD = 0x10000
# CLONE_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET
CLONE_NEW = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000

# dup, close-on-exec and status flags. Not F_SETOWN and F_SETSIG, which send signals to others, nor locks and leases.
FCNTL = (0, 1, 2, 3, 4, 1030)
# FIONCLEX, FIOCLEX, FIONBIO, FIONREAD, and what isatty and the size of a terminal ask.
IOCTL = (0x5450, 0x5451, 0x5421, 0x541B, 0x5401, 0x5413)
# PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_GET_SECCOMP, PR_GET_NO_NEW_PRIVS, PR_SVE_GET_VL, PR_SET_VMA.
# Not PR_SET_PDEATHSIG and PR_SET_DUMPABLE: the process must not outlive its parent nor hide from it.
PRCTL = (3, 15, 16, 21, 39, 51, 0x53564D41)


def _checks(pid: int) -> dict[str, Check]:
    return {
        "open": Check(1, OPEN_FLAGS, OPEN_MASK),
        "openat": Check(2, OPEN_FLAGS, OPEN_MASK),
        "mkdir": Check(1, (OWNERS,), OWNERS),
        "mkdirat": Check(2, (OWNERS,), OWNERS),
        "umask": Check(0, (0,), OWNERS),
        "renameat2": Check(4, (0, 1)),  # not RENAME_WHITEOUT, which makes a device node
        "fcntl": Check(1, FCNTL),
        "ioctl": Check(1, IOCTL, error=errno.ENOTTY),
        "clone": Check(0, (CLONE_THREAD,), mask=CLONE_THREAD | CLONE_NEW),
        "kill": Check(0, (pid,)),
        "tgkill": Check(0, (pid,)),
        "prlimit64": Check(0, (0, pid)),
        "sched_setaffinity": Check(0, (0, pid)),
        "prctl": Check(0, PRCTL),
        "sendto": Check(4, (0,), pointer=True),  # an address would send elsewhere than the connected peer
    }


def supported() -> bool:
    """Whether this kernel takes filters and this machine's call numbers are known."""
    if sys.platform != "linux" or platform.machine() not in COLUMN or sys.maxsize < 2**32:
        return False
    # A filter at address 0 is refused as unreadable (EFAULT) where filters exist, else as no such mode (EINVAL).
    libc().prctl(PR_SET_SECCOMP, MODE_FILTER, None, 0, 0)
    return ctypes.get_errno() == errno.EFAULT


def install(pid: int) -> None:
    """Puts the filter on this thread and those it will start, for good; no_new_privs must be set. Raises SandboxError."""
    instructions = program(platform.machine(), pid)
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *one) for one in instructions))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(instructions), ctypes.addressof(code)))
    prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.addressof(header))


def program(machine: str, pid: int) -> list[Instruction]:
    """The filter for the process `pid` on "x86_64" or "aarch64"."""
    column, checks = COLUMN[machine], _checks(pid)
    found = [(name, numbers[column]) for name, numbers in NUMBERS.items()]
    numbers = {name: number for name, number in found if number is not None}
    built: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, AUDIT_ARCHITECTURES[machine]),
        _fail(errno.EPERM),
        (LOAD, 0, 0, NUMBER),
        *_when(AT_LEAST, X32, [_fail(errno.EPERM)]),
    ]
    for name, check in checks.items():
        if name in numbers:
            built += _when(EQUAL, numbers[name], _checked(check))
    for number in sorted(numbers[name] for name in numbers.keys() - checks.keys()):
        built += _when(EQUAL, number, [(RETURN, 0, 0, ALLOW)])
    built += _when(EQUAL, CLONE3, [_fail(errno.ENOSYS)])
    built += _when(GREATER, NEWEST, [_fail(errno.ENOSYS)])
    return [*built, _fail(errno.EPERM)]


def _fail(code: int) -> Instruction:
    return (RETURN, 0, 0, FAIL_WITH | code)


def _when(test: int, constant: int, block: list[Instruction]) -> list[Instruction]:
    """The block, which ends in a RETURN, is jumped over when the test fails."""
    return [(test, 0, len(block), constant), *block]


def _checked(check: Check) -> list[Instruction]:
    low = FIRST_ARGUMENT + 8 * check.argument
    allowed = [(RETURN, 0, 0, ALLOW)]
    if check.pointer:
        allowed = [(LOAD, 0, 0, low + 4), *_when(EQUAL, 0, allowed), _fail(check.error)]
    return [(LOAD, 0, 0, low), (AND, 0, 0, check.mask), *_any_of(check.values, allowed), _fail(check.error)]


def _any_of(values: Iterable[int], block: list[Instruction]) -> list[Instruction]:
    return [one for value in values for one in _when(EQUAL, value, block)]
