"""The real thing: `postgrad serve` as a process of its own, spoken to over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

READY_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Service:
    """One data folder and the processes of `postgrad serve` over it; can be stopped and started again."""

    def __init__(self, folder: Path, launcher: Sequence[str] = (), settings: Mapping[str, str] | None = None) -> None:
        """`launcher` is a program that starts another one; `settings` are POSTGRAD_* variables without their prefix."""
        self.folder = folder
        self._launcher, self._settings = list(launcher), settings or {}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=70)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("POSTGRAD_")}
        environment |= {f"POSTGRAD_{name.upper()}": value for name, value in self._settings.items()}
        command = [
            *self._launcher,
            str(Path(sys.executable).with_name("postgrad")),
            "serve",
            "--port",
            str(self.port),
            "--data-dir",
            str(self.folder),
        ]
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *flags], env=environment, stdout=log, stderr=log)
        wait_for(self._ready, READY_SECONDS)

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            return self.client.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def log(self) -> str:
        return (self.folder.parent / f"{self.folder.name}.log").read_text()

    def stop(self) -> float:
        """SIGTERM, as Docker does; the seconds until everything was gone."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        return time.monotonic() - began

    def submit(self, spec: dict[str, Any]) -> str:
        answer = self.client.post("/v1/jobs", json=spec)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        body: dict[str, Any] = self.client.get(f"/v1/jobs/{job_id}").json()
        return body

    def finished(self, job_id: str, seconds: float = 60) -> dict[str, Any]:
        """The job once it has ended."""
        wait_for(lambda: self.job(job_id)["finished_at"] is not None, seconds)
        return self.job(job_id)

    def series(self, job_id: str, name: str = "train/loss") -> tuple[list[int], list[Any]]:
        """Every point of one series: steps and values."""
        answer = self.client.get(f"/v1/jobs/{job_id}/metrics", params={"name": name, "max_points": 0}).json()
        for series in answer["series"]:
            return series["steps"], series["values"]
        return [], []


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("service") / "data")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def own_service(tmp_path: Path) -> Iterator[Service]:
    """A service for one test that kills or restarts it."""
    running = Service(tmp_path / "data")
    running.start()
    yield running
    if running.process is not None and running.process.poll() is None:
        running.stop()


def mlp(**changes: Any) -> dict[str, Any]:
    """The README's job: an MLP with BCELoss(reduction="sum") and Adam."""
    spec: dict[str, Any] = {
        "name": "breast-cancer-mlp",
        "dataset": {"type": "builtin", "name": "breast_cancer", "normalize": "standard"},
        "split": {"train": 0.8, "val": 0.2},
        "model": {
            "type": "Sequential",
            "layers": [
                {"type": "Linear", "out_features": 64},
                {"type": "ReLU"},
                {"type": "Linear", "out_features": 1},
                {"type": "Sigmoid"},
            ],
        },
        "loss": {"type": "BCELoss", "reduction": "sum"},
        "optimizer": {"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0, "amsgrad": False},
        "metrics": ["BinaryAccuracy"],
        "batch_size": 32,
        "epochs": 5,
    }
    return spec | changes
