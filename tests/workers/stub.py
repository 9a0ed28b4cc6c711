"""A trainer without torch: it speaks the protocol, keeps checkpoints, and misbehaves as its spec says."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from workers.child import Child, Exit
from workers.protocol import Assignment, Channel, Checkpointed, Ended, Incident, Message, Points, Started, Stop, Stored


class StubLauncher:
    """Forks the stub: a job starts in a millisecond."""

    def __init__(self, train: Callable[[Assignment, socket.socket], None] | None = None) -> None:
        self.children: dict[int, Child] = {}
        self._train = train or (lambda assignment, sock: StubTrainer(assignment, sock).run())

    def ready(self) -> bool:
        return True

    def launch(self, assignment: Assignment, log_file: Path) -> Child:  # noqa: ARG002
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            self._become_trainer(assignment, theirs, ours)
        theirs.close()
        child = self.children[pid] = Child(pid, ours, lambda: os.kill(pid, signal.SIGKILL))
        return child

    def source(self) -> socket.socket | None:
        return None

    def poll(self) -> None:
        for pid, child in list(self.children.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                child.exit = Exit(signal=-code) if code < 0 else Exit(status=code)
                del self.children[pid]

    def close(self) -> None:
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.children.clear()

    def _become_trainer(self, assignment: Assignment, theirs: socket.socket, ours: socket.socket) -> None:
        status = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            ours.close()
            for child in self.children.values():
                child.socket.close()
            self._train(assignment, theirs)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)


class StubTrainer:
    """spec["stub"]: iterations, kill_at (attempt 1 only), wait_at (until told to stop), ignore_stop, send (raw bytes), fail,
    wait_for (a file in the job's folder, after iteration 10), flood (no checkpoints), incidents (by the iteration after which
    each is told, as often as `times`)."""

    def __init__(self, assignment: Assignment, sock: socket.socket) -> None:
        self.assignment, self.sock = assignment, sock
        self.channel = Channel(sock)
        self.plan: dict[str, Any] = json.loads(assignment.spec)["stub"]
        self.checkpoint = Path(assignment.job_folder, "checkpoints", "last")
        self.stop: str | None = None
        self.stored = 0

    def run(self) -> None:
        Path(self.assignment.job_folder, f"ran-{self.assignment.attempt}-{os.getpid()}").touch()
        start = int(self.checkpoint.read_text()) if self.checkpoint.exists() else 0
        iterations = self.plan["iterations"]
        self.channel.send(Started({"torch": "stub"}, {}, {"total": 1, "trainable": 1}, iterations, iterations, start, []))
        if "send" in self.plan:
            self.sock.sendall(bytes(self.plan["send"]))
        for iteration in range(start + 1, iterations + 1):
            if self._misbehaves(iteration):
                return
            self._report(iteration)
            while iteration == 10 and "wait_for" in self.plan and not self._found(self.plan["wait_for"]):
                time.sleep(0.002)
        self.channel.send(self._last_word())

    def _found(self, name: str) -> bool:
        return Path(self.assignment.job_folder, name).exists()

    def _last_word(self) -> Ended:
        if failure := self.plan.get("fail"):
            return Ended("failed", "error", failure)
        return Ended("succeeded")

    def _misbehaves(self, iteration: int) -> bool:
        if iteration == self.plan.get("kill_at") and self.assignment.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if iteration == self.plan.get("wait_at") and self.assignment.attempt == 1:
            self._wait_for_stop()
            self.channel.send(Ended(self._stopped(iteration - 1)))
            return True
        return False

    def _stopped(self, iteration: int) -> str:
        if self.stop == "cancel":
            return "cancelled"
        self._save(iteration)
        return "paused" if self.stop == "pause" else "given_back"

    def _wait_for_stop(self) -> None:
        while self.stop is None or self.plan.get("ignore_stop"):
            self._hear(self.channel.wait())
            time.sleep(0)

    def _report(self, iteration: int) -> None:
        point = (np.array([iteration]), np.array([1.0 / iteration]))
        self.channel.send(Points({"train/loss": point}, epoch=1, iteration=iteration, samples_per_second=None))
        if incident := self.plan.get("incidents", {}).get(str(iteration)):
            for _ in range(self.plan.get("times", 1)):
                self.channel.send(Incident(**incident))
        if iteration % 5 == 0 and not self.plan.get("flood"):
            self._save(iteration)

    def _save(self, iteration: int) -> None:
        while self.stored < iteration:
            self._hear(self.channel.wait())
        self.checkpoint.write_text(str(iteration))
        self.channel.send(Checkpointed(iteration, 1))

    def _hear(self, messages: list[Message]) -> None:
        self.stop = next((m.why for m in messages if isinstance(m, Stop)), self.stop)
        self.stored = max([self.stored, *(m.iteration for m in messages if isinstance(m, Stored))])
