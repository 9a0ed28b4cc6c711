"""Starts the server's processes: `python -m app | workers | migrations` with POSTGRAD_* set. Imports none of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import httpx

STOP_SECONDS = 25.0  # the worker gives its jobs back (10 s at most) and the API closes its streams (5 s)
READY_POLL_SECONDS = 0.25
PR_SET_PDEATHSIG = 1
BAD_PLACE = 2  # exit code: the address is not to be had


def environment(host: str | None = None, port: int | None = None, data_dir: Path | None = None) -> dict[str, str]:
    """This process's environment with the flags that were given on top."""
    flags = {"POSTGRAD_HOST": host, "POSTGRAD_PORT": port, "POSTGRAD_DATA_DIR": data_dir}
    return os.environ | {name: str(value) for name, value in flags.items() if value is not None}


def run(module: str, settings: Mapping[str, str], arguments: Sequence[str] = ()) -> int:
    """Runs one server module in the foreground; its exit code, 128 + n when signal n ended it. Signals reach it and not us."""
    with _processes([[module, *arguments]], settings) as processes:
        return _as_in_a_shell(processes[0].wait())


def _as_in_a_shell(code: int) -> int:
    return code if code >= 0 else 128 - code


def serve(settings: Mapping[str, str], *, worker: bool) -> int:
    """Migrates, then runs the API and one worker until a signal comes or one of them ends; the exit code."""
    if (problem := _taken(*_place(settings))) is not None:
        print(problem, file=sys.stderr)
        return BAD_PLACE
    if (code := run("migrations", settings)) != 0:
        return code
    modules = [["app"], ["workers"]] if worker else [["app"]]
    with _processes(modules, settings) as processes:
        threading.Thread(target=_announce, args=(settings, processes[0]), daemon=True).start()
        while all(p.poll() is None for p in processes):
            time.sleep(READY_POLL_SECONDS)
        return next(_as_in_a_shell(ended) for p in processes if (ended := p.poll()) is not None)


def _place(settings: Mapping[str, str]) -> tuple[str, int]:
    port = settings.get("POSTGRAD_PORT") or "8000"
    return settings.get("POSTGRAD_HOST") or "127.0.0.1", int(port) if port.isdigit() else 0  # a bad one is the API's to tell


def _taken(host: str, port: int) -> str | None:
    """Why nobody can listen there now, found before anything is started; None when one can."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return None
    except OSError as error:
        return f"postgrad cannot listen on {host} port {port}: {error.strerror}; --port and --host choose another place"


@contextlib.contextmanager
def _processes(modules: list[list[str]], settings: Mapping[str, str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes, each a module and its arguments. Each is told of our signals; at the end all are stopped, by force if they
    do not listen."""
    processes: list[subprocess.Popen[bytes]] = []
    stopping: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        stopping.append(number)
        for process in processes:
            process.send_signal(signal.SIGTERM)

    # SIGHUP: the terminal was closed.
    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        for module in modules:
            # A session of its own: Ctrl-C in the terminal comes to us alone, and we pass it on as SIGTERM once.
            command = [sys.executable, "-m", *module]
            processes.append(
                subprocess.Popen(command, env=dict(settings), start_new_session=True, preexec_fn=_stop_with_parent)
            )
            if stopping:
                forward(stopping[0], None)
        yield processes
    finally:
        _stop(processes)
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_with_parent() -> None:
    """In the child: it is told to stop when this process is killed and can forward nothing any more (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


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
    host, port = _place(settings)
    url = f"http://{'127.0.0.1' if host in {'0.0.0.0', '::'} else host}:{port}"  # noqa: S104
    while process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health/ready", timeout=5).status_code == 200:
                print(f"postgrad is ready at {url}", flush=True)
                return
        time.sleep(READY_POLL_SECONDS)
