"""Fixtures that several houses' tests share."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.strict_host import Host
from tests.unprivileged import NOBODY


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """A process of an ordinary user that runs programs under profile `strict`."""
    if sys.platform != "linux":
        pytest.skip("the layers are Linux's")
    host = Host()
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
