"""`postgrad serve` as an ordinary user, whose worker can offer the sandbox profile strict, whoever runs the tests."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import Service, wait_for
from tests.unprivileged import NOBODY


@contextmanager
def user_service(**settings: str) -> Iterator[Service]:
    """A running service with these POSTGRAD_* settings. Skips where the kernel lacks a layer."""
    outer = Path(tempfile.mkdtemp())  # pytest's own temporary folders are closed to that user
    outer.chmod(0o755)
    data = outer / "data"
    data.mkdir()
    if os.geteuid() == 0:
        os.chown(data, NOBODY, NOBODY)
    launcher = [sys.executable, str(Path(__file__).parents[1] / "unprivileged.py")]
    running = Service(data, launcher, settings)
    try:
        running.start()
        if (why := strict_refusal(running)) is not None:
            pytest.skip(why)
        yield running
    finally:
        running.stop()
        shutil.rmtree(outer)


def strict_refusal(service: Service) -> str | None:
    """Why the worker does not offer strict; its row is there a moment after the API."""
    wait_for(lambda: bool(service.client.get("/v1/workers").json()["data"]), 30)
    refusal: str | None = service.client.get("/v1/workers").json()["data"][0]["profiles"]["strict"]["refusal"]
    return refusal
