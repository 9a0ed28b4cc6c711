"""Landlock: what a process may do with which files, decided by the kernel from then on and for good.

What a right does not name it does not stop: owner, mode, times, attributes and the mere existence of files (stat) are outside
of it; profile `strict` takes the calls that would change them away by seccomp.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from workers.sandbox.kernel import SandboxError, libc

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1

WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
# remove_dir, remove_file and the seven make_* rights: bits 4 to 12.
CHANGE_FOLDERS = sum(1 << bit for bit in range(4, 13))
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
FIRST_ABI = {REFER: 2, TRUNCATE: 3, IOCTL_DEV: 5}
EVERY_FILE_RIGHT = (1 << 16) - 1
# Rights that make sense for what is not a folder; the kernel refuses a rule that gives more.
OF_FILES = WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

NETWORK_ABI, BIND_AND_CONNECT_TCP = 4, 3
SCOPE_ABI, ABSTRACT_SOCKETS_AND_SIGNALS = 6, 3


def landlock_abi() -> int:
    """The version of Landlock in this kernel, 0 when there is none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(libc().syscall(CREATE_RULESET, None, 0, CREATE_RULESET_VERSION)))


def known(rights: int, abi: int) -> int:
    """Those of the rights that a kernel of this version has."""
    return rights & ~sum(right for right, first in FIRST_ABI.items() if abi < first)


def restrict(handled: int, rules: Iterable[tuple[Path, int]], abi: int, *, alone: bool = False) -> None:
    """From now on this thread may use a right in `handled` only at or beneath the paths whose rule gives it.

    A rule's path that does not exist is passed over. With `alone` it may also neither bind nor connect TCP, nor reach sockets
    and processes outside by abstract names and signals, as far as the kernel has that. Raises SandboxError.
    """
    handled = known(handled, abi)
    words = [handled]
    if alone and abi >= NETWORK_ABI:
        words += [BIND_AND_CONNECT_TCP]
    if alone and abi >= SCOPE_ABI:
        words += [ABSTRACT_SOCKETS_AND_SIGNALS]
    attributes = struct.pack(f"<{len(words)}Q", *words)
    ruleset = _call(CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path, rights in rules:
            _allow(ruleset, path, rights & handled)
        _call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            rights &= EVERY_FILE_RIGHT if path.is_dir() else OF_FILES
            _call(ADD_RULE, ruleset, RULE_PATH_BENEATH, struct.pack("<Qi", rights, fd), 0)
        finally:
            os.close(fd)


def _call(number: int, *arguments: int | bytes) -> int:
    result = int(libc().syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise SandboxError(code, f"Landlock call {number} failed: {os.strerror(code)}")
    return result
