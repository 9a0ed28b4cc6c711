"""Starts the server's processes: `python -m app | workers | migrations` with POSTGRAD_* set. Imports none of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

import httpx

STOP_SECONDS = 25.0  # the worker gives its jobs back (10 s at most) and the API closes its streams (5 s)
READY_POLL_SECONDS = 0.1


def environment(host: str | None = None, port: int | None = None, data_dir: Path | None = None) -> dict[str, str]:
    """This process's environment with the flags that were given on top."""
    flags = {"POSTGRAD_HOST": host, "POSTGRAD_PORT": port, "POSTGRAD_DATA_DIR": data_dir}
    return os.environ | {name: str(value) for name, value in flags.items() if value is not None}


def run(module: str, settings: Mapping[str, str]) -> int:
    """Runs one server module in the foreground; its exit code. Signals reach it and not us."""
    with _processes([module], settings) as processes:
        return processes[0].wait()


def serve(settings: Mapping[str, str], *, worker: bool) -> int:
    """Migrates, then runs the API and one worker until a signal comes or one of them ends; the exit code."""
    if (code := run("migrations", settings)) != 0:
        return code
    modules = ["app", "workers"] if worker else ["app"]
    with _processes(modules, settings) as processes:
        threading.Thread(target=_announce, args=(settings, processes[0]), daemon=True).start()
        while all(p.poll() is None for p in processes):
            time.sleep(READY_POLL_SECONDS)
        return next(ended for p in processes if (ended := p.poll()) is not None)


@contextlib.contextmanager
def _processes(modules: list[str], settings: Mapping[str, str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes, each told of our signals; at the end all are stopped, by force if they do not listen."""
    processes: list[subprocess.Popen[bytes]] = []
    stopping: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        stopping.append(number)
        for process in processes:
            process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for module in modules:
            # A session of its own: Ctrl-C in the terminal comes to us alone, and we pass it on as SIGTERM once.
            command = [sys.executable, "-m", module]
            processes.append(subprocess.Popen(command, env=dict(settings), start_new_session=True))
            if stopping:
                forward(stopping[0], None)
        yield processes
    finally:
        _stop(processes)
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _announce(settings: Mapping[str, str], process: subprocess.Popen[bytes]) -> None:
    """Prints the address once the server says that it is ready."""
    host, port = settings.get("POSTGRAD_HOST") or "127.0.0.1", settings.get("POSTGRAD_PORT") or "8000"
    url = f"http://{'127.0.0.1' if host in {'0.0.0.0', '::'} else host}:{port}"  # noqa: S104
    while process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health/ready", timeout=5).status_code == 200:
                print(f"postgrad is ready at {url}", flush=True)
                return
        time.sleep(READY_POLL_SECONDS)
