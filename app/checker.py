"""The warm child that knows torch, so that this process need not: `python -m workers.trainer.check`, one JSON line each way.

The child is started with the API and answers in milliseconds once torch is imported. A question that is not answered in time,
or that the child dies of, fails with CheckerUnavailable, and the child is replaced.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from jobs.environment import without_secrets

ANSWER_SECONDS = 5.0
RESTART_PAUSE_SECONDS = 1.0  # a child that dies at its start must not be started in a tight loop
COMMAND = (sys.executable, "-m", "workers.trainer.check")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

log = logging.getLogger(__name__)


class CheckerUnavailable(Exception):
    """The checker gave no answer; the question may be asked again in a moment."""


@dataclass(frozen=True)
class Answer:
    """What building the spec revealed: problems, or the spec read back from the live objects and the parameter counts.

    `preflight` holds layers and memory where they were asked for.
    """

    problems: list[dict[str, str]]
    effective_spec: dict[str, Any]
    parameters: dict[str, int]
    preflight: dict[str, Any]


def scrubbed_environment() -> dict[str, str]:
    """This process's environment for a child that meets strangers' input: without secrets, and with one thread."""
    return without_secrets(os.environ) | ONE_THREAD


class _Child:
    """One process and the thread that reads its answers."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self.born = time.monotonic()
        self.torch: str | None = None  # set by its first line
        self.answers: SimpleQueue[dict[str, Any] | None] = SimpleQueue()  # None: it is gone
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=scrubbed_environment(), bufsize=0
        )
        threading.Thread(target=self._read, name="checker-answers", daemon=True).start()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in os.fdopen(os.dup(self.process.stdout.fileno()), "rb"):
                message = json.loads(line)
                self.torch = message.get("torch", self.torch)
                self.answers.put(message)
        self.answers.put(None)

    def send(self, message: Mapping[str, Any]) -> None:
        """Raises OSError when the child is gone."""
        assert self.process.stdin is not None
        data = memoryview(json.dumps(message, allow_nan=False).encode() + b"\n")
        while data:
            data = data[self.process.stdin.write(data) :]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Checker:
    """Asks the child, one question at a time; safe to use from many threads."""

    def __init__(self, command: tuple[str, ...] = COMMAND, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._command, self._seconds = command, answer_seconds
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._asked = 0
        self._closed = False

    def start(self) -> None:
        """Starts the child without waiting for it to be warm."""
        with self._lock:
            self._replace()

    def close(self) -> None:
        """Ends the child. Questions asked later fail."""
        self._closed = True
        if self._child is not None:
            self._child.kill()

    def torch_version(self) -> str | None:
        """The torch of a child that is warm and alive; None until then. A dead child is replaced on the way."""
        child = self._child
        if child is not None and not child.alive and self._lock.acquire(blocking=False):
            try:
                with contextlib.suppress(CheckerUnavailable):
                    self._revive()
            finally:
                self._lock.release()
        return child.torch if child is not None and child.alive else None

    def ask(
        self,
        spec: Mapping[str, Any],
        dataset: str | None,
        *,
        preflight: bool = False,
        init_from: str | None = None,
        model: str | None = None,
        source: str | None = None,
    ) -> Answer:
        """What building `spec` on the data in the folder `dataset` reveals; a data set in Python is the file `source` instead.

        Raises CheckerUnavailable. Waits at most ANSWER_SECONDS, the wait for other questions and for a cold child included.
        """
        deadline = time.monotonic() + self._seconds
        if not self._lock.acquire(timeout=self._seconds):
            raise CheckerUnavailable("the checker is busy with other specs")
        try:
            files = {"dataset": dataset, "source": source, "init_from": init_from, "model": model}
            return self._ask({"spec": spec, "preflight": preflight, **files}, deadline)
        finally:
            self._lock.release()

    def _ask(self, question: Mapping[str, Any], deadline: float) -> Answer:
        child = self._revive()
        self._wait_until_warm(child, deadline)
        self._asked += 1
        try:
            child.send({"id": self._asked, **question})
            message = self._answer(child, self._asked, deadline)
        except (OSError, Empty, EOFError) as error:
            log.warning("the checker %s and is replaced", "hung" if isinstance(error, Empty) else "died")
            self._replace()
            raise CheckerUnavailable("the checker gave no answer and is being restarted") from error
        if "error" in message:  # not "no problems": nothing is queued unchecked
            log.error("the checker failed on a spec: %s", message["error"])
            raise CheckerUnavailable("the checker could not come to an answer")
        found = {name: message.get(name) or {} for name in ("effective_spec", "parameters", "preflight")}
        return Answer(message.get("problems") or [], **found)

    def _wait_until_warm(self, child: _Child, deadline: float) -> None:
        while child.torch is None:
            try:
                first = child.answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty as error:
                raise CheckerUnavailable("the checker is still starting") from error
            if first is None:
                raise CheckerUnavailable("the checker died while it was starting")

    @staticmethod
    def _answer(child: _Child, number: int, deadline: float) -> dict[str, Any]:
        while True:
            message = child.answers.get(timeout=max(0.0, deadline - time.monotonic()))
            if message is None:
                raise EOFError
            if message.get("id") == number:  # else: the first line, or the answer to a question given up
                return message

    def _revive(self) -> _Child:
        child = self._child
        if child is not None and child.alive:
            return child
        if child is not None and time.monotonic() - child.born < RESTART_PAUSE_SECONDS:
            raise CheckerUnavailable("the checker died and is started again in a moment")
        return self._replace()

    def _replace(self) -> _Child:
        if self._closed:
            raise CheckerUnavailable("the server is stopping")
        if self._child is not None:
            self._child.kill()
        self._child = _Child(self._command)
        return self._child
