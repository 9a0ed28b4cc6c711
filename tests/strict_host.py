"""A process with torch imported that forks children into profile `strict`, as the trainer's zygote does.

Started by the fixture `host` as an ordinary user. One JSON line in: {"program", "folder"} and options: "limits", "readable",
"disk_bytes", "seconds". One out: {"said", "status", "signal", "excess"}. The program is run by the child under the profile;
what it prints is said. With "seconds" it is run by a disposable child, and said is the value of its `answer` or the exception.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from workers.sandbox import Limits, Usage, apply_strict, in_disposable_child, strict_layers, strict_refusal

SECONDS = 60.0
LOOK_SECONDS = 0.02
MEMORY_BYTES = 2 * 2**30
FILE_BYTES = 64 * 2**20


@dataclasses.dataclass
class Outcome:
    """How a program under `strict` fared."""

    said: str
    status: int | None
    signal: int | None
    excess: str | None


Attack = Callable[..., Outcome]


def refused(outcome: Outcome, error: str = "PermissionError") -> None:
    """The child met this exception and ended by it, as user code would."""
    assert outcome.status == 1, outcome
    assert any(line.startswith(error) for line in outcome.said.splitlines()), outcome.said


class Host:
    """The test's end."""

    def __init__(self) -> None:
        here = Path(__file__).resolve()
        command = [sys.executable, str(here.with_name("unprivileged.py")), sys.executable, "-m", "tests.strict_host"]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=here.parents[1], env=environment
        )
        self.facts = self._receive()

    def run(self, program: str, folder: Path | None, **options: Any) -> Outcome:
        """Runs it in a child; the host itself must answer, whatever the program did. `options` as in the module's words."""
        request = {"program": program, "folder": folder and str(folder), **options}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Outcome(**self._receive())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the host ended with {self._process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> None:
    from workers.trainer.zygote import warm_up

    warm_up()
    facts = {"pid": os.getpid(), "uid": os.getuid(), "refusal": strict_refusal(), "layers": strict_layers()}
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        print(json.dumps(dataclasses.asdict(_serve(json.loads(line)))), flush=True)


def _serve(request: Mapping[str, Any]) -> Outcome:
    if "seconds" in request:
        return Outcome(json.dumps(_disposable(request)), None, None, None)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(request, writing)
    os.close(writing)
    try:
        return _watched(pid, reading, request)
    finally:
        os.close(reading)


def _disposable(request: Mapping[str, Any]) -> Any:
    names: dict[str, Any] = {}

    def work() -> Any:
        exec(request["program"], names)
        return names["answer"]

    try:
        return in_disposable_child(work, limits=_limits(request), seconds=request["seconds"], readable=_readable(request))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _watched(pid: int, reading: int, request: Mapping[str, Any]) -> Outcome:
    usage = Usage(pid, Path(request["folder"] or "/nonexistent"), request.get("disk_bytes", 2**30))
    said, excess, end = b"", None, time.monotonic() + SECONDS
    while True:
        if select.select([reading], [], [], LOOK_SECONDS)[0]:
            if not (data := os.read(reading, 65536)):
                break
            said += data
        excess = excess or usage.excess() or ("it took too long" if time.monotonic() > end else None)
        if excess is not None:
            os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Outcome(said.decode(), code if code >= 0 else None, -code if code < 0 else None, excess)


def _child(request: Mapping[str, Any], writing: int) -> NoReturn:
    status = 1
    try:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        _run(request)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _run(request: Mapping[str, Any]) -> None:
    folder = request["folder"] and Path(request["folder"])
    layers = apply_strict(folder, limits=_limits(request), readable=_readable(request))
    exec(compile(request["program"], "program.py", "exec"), {"__name__": "program", "folder": folder, "layers": layers})


def _limits(request: Mapping[str, Any]) -> Limits:
    return Limits(**{"memory_bytes": MEMORY_BYTES, "file_bytes": FILE_BYTES, **request.get("limits", {})})


def _readable(request: Mapping[str, Any]) -> list[Path]:
    return [Path(path) for path in request.get("readable", [])]


if __name__ == "__main__":
    main()
