"""Fixtures that several houses' tests share."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.strict_host import Attack, Host
from tests.unprivileged import NOBODY


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """A process of an ordinary user that runs programs under profile `strict`."""
    if sys.platform != "linux":
        pytest.skip("the layers are Linux's")
    host = Host()
    assert host.facts["uid"] != 0
    if host.facts["refusal"] is not None:
        pytest.skip(host.facts["refusal"])
    yield host
    host.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the host's own user, such as a job has. pytest's own temporary folders are closed to that user."""
    outer = Path(tempfile.mkdtemp())
    outer.chmod(0o755)
    inner = outer / "job"
    inner.mkdir()
    if os.geteuid() == 0:
        os.chown(inner, NOBODY, NOBODY)
    yield inner
    shutil.rmtree(outer)


# What every program may use: where it is, and the kernel without Python in between.
PRELUDE = """
import ctypes, os, signal, socket, subprocess, threading, time
from pathlib import Path
outer = folder.parent
parent = os.getppid()
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""


@pytest.fixture
def attack(host: Host, folder: Path) -> Iterator[Attack]:
    """Runs a program with an open outside: a secret that the user may read, a file and a folder that he may write."""
    outer = folder.parent
    outside = outer / "outside"
    outside.mkdir()
    for path in (outer / "secret", outside / "kept"):
        path.write_text("kept")
        path.chmod(0o666)
        os.chown(path, *_owner(folder))
    outside.chmod(0o777)
    yield lambda program, **options: host.run(PRELUDE + program, folder, **options)
    assert (outer / "secret").read_text() == "kept"
    assert (outer / "secret").stat().st_mode & 0o777 == 0o666
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("kept", "kept")]


def _owner(folder: Path) -> tuple[int, int]:
    return folder.stat().st_uid, folder.stat().st_gid
