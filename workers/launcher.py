"""Where trainer processes come from. One seam, `Launcher`: a forked child of the zygote, a fresh process where forking is not
safe, and later whatever starts several ranks."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from jobs.environment import without_secrets
from workers.child import Child, Exit
from workers.protocol import Assignment

log = logging.getLogger(__name__)

FORK_SECONDS = 10.0
RESTART_SECONDS = 1.0
PACKET_BYTES = 65536


class LaunchFailed(Exception):
    """No process could be started for this assignment; it is not the job's fault."""


class Launcher(Protocol):
    """Starts trainer processes and learns how they ended. Only `launch` may take a moment; nothing else ever waits."""

    def ready(self) -> bool:
        """Whether `launch` would answer at once."""

    def launch(self, assignment: Assignment, log_file: Path) -> Child:
        """Starts one process whose stdout and stderr are appended to log_file. Raises LaunchFailed."""

    def source(self) -> socket.socket | None:
        """Readable when `poll` has something to do; None when it must be polled."""

    def poll(self) -> None:
        """Sets `exit` of the children that have ended."""

    def close(self) -> None:
        """Ends every process that was started."""


def best_launcher() -> Launcher:
    """The zygote on Linux. Elsewhere (macOS) forking a process that has loaded torch is not safe: a fresh process per job."""
    return ZygoteLauncher() if sys.platform == "linux" else ProcessLauncher()


def trainer_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what looks like a secret. OpenBLAS gets one thread: a fork takes only the calling one along."""
    return {**without_secrets(environment), "OPENBLAS_NUM_THREADS": "1"}


def _python() -> list[str]:
    return [sys.executable, "-m", "workers.trainer.zygote"]


def _written(assignment: Assignment) -> IO[bytes]:
    """The assignment in an unlinked file: a spec may be larger than a packet."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    file.write(json.dumps(dataclasses.asdict(assignment)).encode())
    file.flush()
    file.seek(0)
    return file


def _open_log(log_file: Path) -> IO[bytes]:
    """The log, or a file that keeps nothing where there can be none: no job fails for its log."""
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        return log_file.open("ab")
    except OSError as error:
        log.error("%s cannot be written, so what this trainer prints is lost: %s", log_file, error)
        return Path(os.devnull).open("ab")


class ZygoteLauncher:
    """Keeps one zygote and asks it for forks. A zygote that dies takes its children with it and is replaced."""

    def __init__(self) -> None:
        self._children: dict[int, Child] = {}
        self._warm = False
        self._restart_at: float | None = None
        self._start()

    def ready(self) -> bool:
        return self._warm

    @property
    def pid(self) -> int:
        """Of the zygote."""
        return self._process.pid

    def launch(self, assignment: Assignment, log_file: Path) -> Child:
        ours, theirs = socket.socketpair()
        with theirs, _written(assignment) as text, _open_log(log_file) as output:
            try:
                fds = [text.fileno(), theirs.fileno(), output.fileno()]
                socket.send_fds(self._control, [b'{"run": true}'], fds)
                pid = self._forked()
            except (OSError, EOFError, LaunchFailed) as error:
                ours.close()
                self._replace(f"it did not fork: {error}")
                raise LaunchFailed(str(error)) from error
        child = Child(pid, ours, lambda: self._ask_kill(pid))
        self._children[pid] = child
        return child

    def source(self) -> socket.socket | None:
        return self._control if self._restart_at is None else None

    def poll(self) -> None:
        if self._restart_at is not None:
            if time.monotonic() >= self._restart_at:
                self._start()
            return
        try:
            while True:
                self._note(self._receive())
        except BlockingIOError:
            return
        except (OSError, EOFError, ValueError) as error:
            self._replace(f"its control channel broke: {error}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._control.close()

    def _start(self) -> None:
        self._warm, self._restart_at = False, None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # A session of its own: a Ctrl-C in the terminal is for the supervisor, which asks its children to stop.
            self._process = subprocess.Popen(
                [*_python(), str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                env=trainer_environment(os.environ),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        ours.setblocking(False)
        self._control = ours

    def _receive(self) -> dict[str, Any]:
        packet = self._control.recv(PACKET_BYTES)
        if not packet:
            raise EOFError("the zygote is gone")
        report: dict[str, Any] = json.loads(packet)
        return report

    def _forked(self) -> int:
        """The pid of the fork just asked for. Reports of other children's ends may come first."""
        give_up_at = time.monotonic() + FORK_SECONDS
        while True:
            if not select.select([self._control], [], [], max(0.0, give_up_at - time.monotonic()))[0]:
                raise LaunchFailed(f"no answer from the zygote in {FORK_SECONDS:g} s")
            report = self._receive()
            if "forked" in report:
                return int(report["forked"])
            if "refused" in report:
                raise LaunchFailed(report["refused"])
            self._note(report)

    def _note(self, report: dict[str, Any]) -> None:
        if "ready" in report:
            self._warm = True
            log.info("zygote %d is warm after %.1f s", self._process.pid, report["seconds"])
        elif "exited" in report and (child := self._children.pop(report["exited"], None)):
            child.exit = Exit(report["status"], report["signal"])

    def _ask_kill(self, pid: int) -> None:
        # The zygote kills, not we: only the parent knows that the pid has not gone to another process since.
        with contextlib.suppress(OSError):
            self._control.send(json.dumps({"kill": pid}).encode())

    def _replace(self, why: str) -> None:
        log.error("zygote %d is replaced: %s", self._process.pid, why)
        self.close()
        for child in self._children.values():
            child.exit = Exit(signal=signal.SIGKILL, note="the zygote, its parent, died")
        self._children.clear()
        self._warm, self._restart_at = False, time.monotonic() + RESTART_SECONDS


class ProcessLauncher:
    """A fresh Python process per job: seconds instead of milliseconds, and safe everywhere."""

    def __init__(self) -> None:
        self._children: list[tuple[subprocess.Popen[bytes], Child]] = []

    def ready(self) -> bool:
        return True

    def launch(self, assignment: Assignment, log_file: Path) -> Child:
        ours, theirs = socket.socketpair()
        with theirs, _written(assignment) as text, _open_log(log_file) as output:
            fds = [text.fileno(), theirs.fileno()]
            try:
                process = subprocess.Popen(
                    [*_python(), "--once", *map(str, fds), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=trainer_environment(os.environ),
                    pass_fds=fds,
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise LaunchFailed(str(error)) from error
        child = Child(process.pid, ours, lambda: _kill_group(process))
        self._children.append((process, child))
        return child

    def source(self) -> socket.socket | None:
        return None

    def poll(self) -> None:
        for process, child in self._children:
            if (code := process.poll()) is not None:
                child.exit = Exit(signal=-code) if code < 0 else Exit(status=code)
        self._children = [(process, child) for process, child in self._children if child.exit is None]

    def close(self) -> None:
        for process, _ in self._children:
            _kill_group(process)
            process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
