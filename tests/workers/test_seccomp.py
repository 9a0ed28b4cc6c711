"""The filter of profile `strict`, run by a small interpreter of the kernel's language: so both machines are tested on any."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from tests.workers.forbidden import FORBIDDEN
from workers.sandbox.seccomp import AUDIT_ARCHITECTURES, COLUMN, Instruction, program
from workers.sandbox.syscalls import NUMBERS

PID = 4711
ALLOWED, EPERM, ENOTTY, ENOSYS = 0x7FFF0000, 0x50001, 0x50019, 0x50026
MACHINES = sorted(COLUMN)
HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}


def verdict(instructions: list[Instruction], architecture: int, number: int, *arguments: int) -> int:
    """What the kernel would do with this call."""
    words = [argument % 2**64 for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *words)
    accumulator = at = 0
    while True:
        code, if_true, if_false, constant = instructions[at]
        at += 1
        if code == 0x06:
            return constant
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif code == 0x54:
            accumulator &= constant
        else:
            holds = {0x15: accumulator == constant, 0x25: accumulator > constant, 0x35: accumulator >= constant}[code]
            at += if_true if holds else if_false


def ask(machine: str, name: str, *arguments: int) -> int:
    number = {**NUMBERS, **FORBIDDEN}[name][COLUMN[machine]]
    if number is None:
        pytest.skip(f"{machine} has no {name}")
    return verdict(program(machine, PID), AUDIT_ARCHITECTURES[machine], number, *arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_forbidden_calls_fail(machine: str) -> None:
    there = [name for name, numbers in FORBIDDEN.items() if numbers[COLUMN[machine]] is not None]
    assert {name: ask(machine, name) for name in there} == {name: ENOSYS if name == "clone3" else EPERM for name in there}


@pytest.mark.parametrize("machine", MACHINES)
def test_everything_that_is_not_on_the_list_fails(machine: str) -> None:
    listed = {numbers[COLUMN[machine]] for numbers in NUMBERS.values()}
    instructions, architecture = program(machine, PID), AUDIT_ARCHITECTURES[machine]
    answers = {verdict(instructions, architecture, number) for number in range(1200) if number not in listed}
    assert answers == {EPERM, ENOSYS}


@pytest.mark.parametrize("machine", MACHINES)
def test_another_architecture_and_x32_fail(machine: str) -> None:
    instructions, architecture = program(machine, PID), AUDIT_ARCHITECTURES[machine]
    getpid = NUMBERS["getpid"][COLUMN[machine]] or 0
    assert verdict(instructions, architecture, getpid) == ALLOWED
    assert verdict(instructions, 0x40000003, 20) == EPERM  # getpid of i386
    assert verdict(instructions, architecture, 0x40000000 | getpid) == EPERM
    assert verdict(instructions, architecture, 0xFFFFFFFF) == EPERM


THREAD, PROCESS, VFORK = 0x3D0F00, 0x1200011, 0x4111  # as glibc calls clone for pthread_create, fork and posix_spawn
CALLS = [
    ("clone", (THREAD,), ALLOWED),
    ("clone", (PROCESS,), EPERM),
    ("clone", (VFORK,), EPERM),
    ("clone", (THREAD | 0x10000000,), EPERM),  # and a user namespace
    ("clone", (THREAD | 0x40000000,), EPERM),  # and a network namespace
    ("kill", (PID, 9), ALLOWED),
    ("kill", (1, 9), EPERM),
    ("kill", (0, 9), EPERM),
    ("kill", (-1, 9), EPERM),
    ("kill", (-PID, 9), EPERM),
    ("tgkill", (PID, PID + 1, 6), ALLOWED),
    ("tgkill", (1, 1, 6), EPERM),
    ("openat", (-100, 0, 0o2000000), ALLOWED),
    ("openat", (-100, 0, 0o1101), ALLOWED),  # O_WRONLY | O_CREAT | O_TRUNC
    ("openat", (-100, 0, 0o1000), EPERM),  # O_RDONLY | O_TRUNC
    ("openat", (-100, 0, 0o20200002), EPERM),  # O_TMPFILE
    ("open", (0, 0o1000), EPERM),
    ("mkdirat", (-100, 0, 0o777), ALLOWED),
    ("mkdirat", (-100, 0, 0o077), EPERM),
    ("umask", (0o022,), ALLOWED),
    ("umask", (0o400,), EPERM),
    ("renameat2", (0, 0, 0, 0, 1), ALLOWED),
    ("renameat2", (0, 0, 0, 0, 4), EPERM),  # RENAME_WHITEOUT
    ("fcntl", (3, 1030), ALLOWED),
    ("fcntl", (3, 8, 1), EPERM),  # F_SETOWN
    ("ioctl", (3, 0x5401), ALLOWED),
    ("ioctl", (3, 0x5412), ENOTTY),  # TIOCSTI types into a terminal
    ("prctl", (15,), ALLOWED),
    ("prctl", (1, 0), EPERM),  # PR_SET_PDEATHSIG
    ("prctl", (4, 0), EPERM),  # PR_SET_DUMPABLE
    ("prlimit64", (0,), ALLOWED),
    ("prlimit64", (1,), EPERM),
    ("sched_setaffinity", (1,), EPERM),
    ("sendto", (3, 0, 0, 0, 0), ALLOWED),
    ("sendto", (3, 0, 0, 0, 0x7F0000000000), EPERM),  # an address whose lower half is 0
    ("sendto", (3, 0, 0, 0, 16), EPERM),
]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("name", "arguments", "answer"), CALLS)
def test_arguments_decide(machine: str, name: str, arguments: tuple[int, ...], answer: int) -> None:
    assert ask(machine, name, *arguments) == answer


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_the_kernels(machine: str) -> None:
    header = Path(HEADERS[machine])
    if not header.is_file():
        pytest.skip("no kernel headers here")
    found: dict[str, int] = {}
    for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()):
        found.setdefault(name, int(number))
    found.setdefault("newfstatat", found.get("fstatat", -1))  # as 64-bit machines call it
    newer = {"landlock_create_ruleset", "landlock_restrict_self", "memfd_secret"}  # than some headers
    for name, numbers in {**NUMBERS, **FORBIDDEN}.items():
        if name not in newer or name in found:
            assert numbers[COLUMN[machine]] == found.get(name), name
