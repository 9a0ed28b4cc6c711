"""A warm service for the measurements: `postgrad serve` as a process, with a data folder of its own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

READY_SECONDS = 60.0


@contextlib.contextmanager
def service() -> Iterator[httpx.Client]:
    """An HTTP client of a service that is ready; both are gone afterwards. Raises TimeoutError."""
    command = [str(Path(sys.executable).with_name("postgrad")), "serve", "--port", str(port := free_port())]
    with tempfile.TemporaryDirectory(prefix="postgrad-bench-") as folder:
        process = subprocess.Popen([*command, "--data-dir", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                wait_ready(client)
                yield client
        finally:
            process.terminate()
            process.wait(30)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/health/ready").status_code == 200 and client.get("/v1/workers").json()["data"]:
                return
        time.sleep(0.05)
    raise TimeoutError("the service did not become ready")
