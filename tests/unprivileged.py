"""Runs a program as an ordinary user: `python tests/unprivileged.py PROGRAM ARGUMENT ...`; a no-op for who is one already.

Root may keep Python and this checkout in folders that nobody else can enter (/root/...). So in a mount namespace of its own
the outermost closed folder is covered by an empty one, and what the program needs is mounted back in its old place. Nothing
outside this process sees that.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from pathlib import Path

NOBODY = 65534
CLONE_NEWNS = 0x00020000
LIBC = ctypes.CDLL(None, use_errno=True)
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000


def main(program: list[str]) -> None:
    if os.geteuid() == 0:
        _open_the_way([Path(sys.prefix), Path(sys.base_prefix), Path(__file__).resolve().parents[1]])
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    os.execv(program[0], program)


def _open_the_way(needed: list[Path]) -> None:
    closed = {place: top for place in needed if (top := _outermost_closed(place)) is not None}
    if not closed:
        return
    _check(LIBC.unshare(CLONE_NEWNS))
    _check(LIBC.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    held = {place: os.open(place, os.O_RDONLY) for place in closed}
    for top in set(closed.values()):
        _check(LIBC.mount(b"tmpfs", bytes(top), b"tmpfs", 0, b"mode=755"))
    for place, fd in held.items():
        place.mkdir(parents=True, exist_ok=True)
        if os.fstat(fd).st_mode & stat.S_IXOTH:
            _bind(fd, place)
        else:
            _bind_what_is_in(fd, place)


def _bind_what_is_in(folder: int, place: Path) -> None:
    for name in os.listdir(folder):
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=folder)
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            (place / name).mkdir(exist_ok=True)
            _bind(fd, place / name)
        elif stat.S_ISREG(mode):
            (place / name).touch()
            _bind(fd, place / name)


def _bind(fd: int, place: Path) -> None:
    _check(LIBC.mount(f"/proc/self/fd/{fd}".encode(), bytes(place), None, MS_BIND | MS_REC, None))


def _outermost_closed(place: Path) -> Path | None:
    ancestors = [*reversed(place.parents), place]
    return next((folder for folder in ancestors if not folder.stat().st_mode & stat.S_IXOTH), None)


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    main(sys.argv[1:])
