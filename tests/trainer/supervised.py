"""A trainer in a process of its own, and the smallest supervisor that can stand at the other end of its socket pair."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  here, so that not every forked child imports it with its first optimizer
from safetensors.torch import load_file
from torch import Tensor

from jobs.spec import parse
from workers.protocol import (
    Assignment,
    Channel,
    Checkpointed,
    Decoder,
    Ended,
    Incident,
    Message,
    Points,
    Started,
    Stop,
    Stored,
    encode,
)
from workers.trainer import attempt, ingest


@dataclass
class Supervised:
    """One job: its curve, as a store would keep it over several attempts, and what the attempts said."""

    assignment: Assignment
    curve: dict[str, dict[int, float]] = field(default_factory=dict)
    started: list[Started] = field(default_factory=list)
    checkpoints: list[Checkpointed] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    iteration: int = 0
    stderr: str = ""
    stores: bool = True  # answers Stored

    def attempt(self, watch: Callable[[Supervised, Message], str | None] = lambda _job, _message: None) -> Ended | None:
        """Runs one attempt to its end; its last word, or None when it died without one.

        `watch` sees every message and may answer "kill" (kill -9), "vanish" (the supervisor closes its end) or a Stop's why.
        """
        ours, theirs = socket.socketpair()
        before = len(self.ended)
        log = Path(self.assignment.job_folder) / "log"
        pid = os.fork()
        if pid == 0:
            _child(self.assignment, ours, theirs, log)
        theirs.close()
        try:
            self._listen(ours, pid, watch)
        finally:
            ours.close()
            os.waitpid(pid, 0)
            self.stderr = log.read_text()
        return self.ended[-1] if len(self.ended) > before else None

    def _listen(self, sock: socket.socket, pid: int, watch: Callable[[Supervised, Message], str | None]) -> None:
        decoder = Decoder()
        while data := _receive(sock):
            for message in decoder.feed(data):
                self._hear(message, sock)
                match watch(self, message):
                    case None:
                        pass
                    case "kill":
                        os.kill(pid, signal.SIGKILL)
                        return
                    case "vanish":
                        return
                    case why:
                        _answer(sock, Stop(why))

    def _hear(self, message: Message, sock: socket.socket) -> None:
        match message:
            case Started():
                self.started.append(message)
                self._drop_after(message.resumed_from)
            case Points():
                self._append(message)
                self.iteration = message.iteration
                if self.stores:
                    _answer(sock, Stored(message.iteration))
            case Checkpointed():
                self.checkpoints.append(message)
            case Incident():
                self.incidents.append(message)
                if message.back_to is not None:
                    self._drop_after(message.back_to)
            case Ended():
                self.ended.append(message)

    def _drop_after(self, iteration: int) -> None:
        for points in self.curve.values():
            for step in [s for s in points if s > iteration]:
                del points[step]

    def _append(self, message: Points) -> None:
        for name, (steps, values) in message.series.items():
            points = self.curve.setdefault(name, {})
            for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                assert step > max(points, default=0), f"{name}: {step} came again"
                points[step] = value

    def values(self, name: str) -> list[float]:
        return list(self.curve[name].values())

    def weights(self, name: str = "model.safetensors") -> dict[str, Tensor]:
        return dict(load_file(Path(self.assignment.job_folder) / "artifacts" / name))

    def digest(self, name: str = "model.safetensors") -> str:
        return hashlib.sha256((Path(self.assignment.job_folder) / "artifacts" / name).read_bytes()).hexdigest()


def prepare(folder: Path) -> Path:
    """The built-in sets as the trainer reads them."""
    for name, (schema, arrays) in ingest.builtins().items():
        ingest.write(folder / name, schema, arrays)
    return folder


def job(sets: Path, folder: Path, spec: dict[str, Any], **fields: Any) -> Supervised:
    """A job on a built-in set, about to be run in `folder`."""
    folder.mkdir(exist_ok=True)
    given: dict[str, Any] = {"job_id": "job_test", "attempt": 1, "device": "cpu", "threads": 1}
    if "dataset" not in fields:
        given["dataset"] = str(sets / spec["dataset"]["name"])
    text = parse(spec).canonical()
    return Supervised(Assignment(spec=text, job_folder=str(folder), **(given | fields)))


def _child(assignment: Assignment, ours: socket.socket, theirs: socket.socket, log: Path) -> None:
    status = 1
    try:
        ours.close()
        descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        attempt.run(assignment, Channel(theirs))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except ConnectionResetError:
        return b""


def _answer(sock: socket.socket, message: Any) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have said all it had to say
        sock.sendall(encode(message))
