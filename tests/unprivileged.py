"""Runs a program as an ordinary user: `python tests/unprivileged.py PROGRAM ARGUMENT ...`; a no-op for who is one already.

Root may keep Python and this checkout in folders that nobody else can enter (/root/...). So in a mount namespace of its own
the outermost closed folder is covered by an empty one, and what the program needs is mounted back in its old place. Nothing
outside this process sees that.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import sys
from pathlib import Path

NOBODY = 65534
CLONE_NEWNS = 0x00020000
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
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(CLONE_NEWNS))
    _check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    held = {place: os.open(place, os.O_PATH) for place in closed}
    for top in set(closed.values()):
        _check(libc.mount(b"tmpfs", bytes(top), b"tmpfs", 0, b"mode=755"))
    for place, fd in held.items():
        with contextlib.suppress(FileExistsError):
            place.mkdir(parents=True)
        _check(libc.mount(f"/proc/self/fd/{fd}".encode(), bytes(place), None, MS_BIND | MS_REC, None))
        os.close(fd)


def _outermost_closed(place: Path) -> Path | None:
    ancestors = [*reversed(place.parents), place]
    return next((folder for folder in ancestors if not folder.stat().st_mode & stat.S_IXOTH), None)


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    main(sys.argv[1:])
