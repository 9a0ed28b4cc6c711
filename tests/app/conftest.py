"""A real server for the tests of this house: one uvicorn process with its checker, shared by the session."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

START_SECONDS = 60


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """This environment with POSTGRAD_* replaced by `settings`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POSTGRAD_")}
    return kept | {"POSTGRAD_DATA_DIR": str(folder)} | {f"POSTGRAD_{name.upper()}": value for name, value in settings.items()}


def wait_for(condition: Callable[[], object], seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx.TransportError:
        return False


class Server:
    """A running `python -m app`."""

    def __init__(self, folder: Path, launcher: Sequence[str] = (), **settings: str) -> None:
        """`launcher` is a command that starts another one."""
        port = free_port()
        self.folder = folder
        self._log = folder.parent / f"{folder.name}.log"
        self.env = environment(folder, port=str(port), **settings)
        subprocess.run([sys.executable, "-m", "migrations"], env=self.env, check=True, capture_output=True)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen([*launcher, sys.executable, "-m", "app"], env=self.env, stdout=log, stderr=log)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20)
        wait_for(lambda: self.process.poll() is not None or answers(self.client, "/health/live"))
        assert self.process.poll() is None, self.log()

    def wait_until_ready(self) -> None:
        wait_for(lambda: answers(self.client, "/health/ready"))

    def log(self) -> str:
        """All that the server has printed."""
        return self._log.read_text()

    def stop(self) -> int:
        self.client.close()
        self.process.terminate()
        return self.process.wait(20)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("data"), max_upload_bytes="100000")
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def client(server: Server) -> httpx.Client:
    return server.client


def good_spec() -> dict[str, Any]:
    """A fresh spec that the service takes."""
    return {
        "name": "mlp",
        "dataset": {"type": "builtin", "name": "breast_cancer", "normalize": "standard"},
        "split": {"train": 0.8, "val": 0.2},
        "model": {
            "type": "Sequential",
            "layers": [
                {"type": "Linear", "out_features": 8},
                {"type": "ReLU"},
                {"type": "Linear", "out_features": 1},
                {"type": "Sigmoid"},
            ],
        },
        "loss": {"type": "BCELoss", "reduction": "sum"},
        "optimizer": {"type": "Adam", "lr": 1e-4},
        "metrics": ["BinaryAccuracy"],
        "batch_size": 32,
        "epochs": 2,
    }
