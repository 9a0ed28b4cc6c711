"""The warm process that becomes a trainer: `python -m workers.trainer.zygote <control fd> <supervisor's pid>`.

It imports torch once, trains one step so that everything lazy is loaded, and then forks one child per request: the child
reaches its first iteration in milliseconds. Three things would spoil the forks, so they are kept out: a second thread (its
locks would stay locked in the child for ever), a CUDA context (it does not survive a fork), and secrets in the environment.
With `--once` it runs a single assignment without forking, for systems where that is not safe.

On the control socket every packet is one JSON object. In: {"run": true} with three descriptors (assignment, channel, log),
{"kill": pid}. Out: {"ready": true, "seconds"}, {"forked": pid} or {"refused": why}, {"exited": pid, "status", "signal"}.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from jobs.profiles import PLAIN
from workers.protocol import Assignment, Channel
from workers.sandbox import Limits, apply_plain, apply_strict, die_with
from workers.trainer.output import forgive

PACKET_BYTES = 65536
FDS_PER_RUN = 3


def main(arguments: list[str]) -> None:
    """Serves until the supervisor closes the control socket; never returns in a child."""
    if arguments[0] == "--once":
        text, channel, supervisor = map(int, arguments[1:])
        die_with(supervisor)
        _train(text, channel)
    control, supervisor = map(int, arguments)
    die_with(supervisor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Zygote(socket.socket(fileno=control)).serve()


def warm_up() -> None:
    """Loads all that the first step of a job would load: the first optimizer alone imports torch._dynamo, a second's work."""
    import safetensors.torch  # noqa: F401
    import torch
    import torch._dynamo
    import torchmetrics.classification
    import torchmetrics.regression  # noqa: F401

    import workers.trainer.attempt  # noqa: F401
    from workers.trainer.exported.run import warm_up as warm_up_meta

    # One thread: an OpenMP region of two would leave a pool behind that hangs every forked child.
    torch.set_num_threads(1)
    _one_step(torch)
    warm_up_meta()
    gc.collect()
    gc.freeze()  # else the first collection in a child would copy every page


def _one_step(torch: Any) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters())
    loss = torch.nn.CrossEntropyLoss()(model(torch.ones(2, 4)), torch.zeros(2, dtype=torch.int64))
    optimizer.zero_grad()
    # In a CUDA build the first backward starts one thread per GPU and asks the driver for them: never here.
    if not torch.backends.cuda.is_built():
        loss.backward()
    optimizer.step()


def threads() -> int:
    """Threads of this process, counted by the kernel; 1 where it does not say."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else 1


class Zygote:
    """Forks on request and reports how its children ended."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: set[int] = set()
        self._wake, write_end = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        start = time.monotonic()
        warm_up()
        self._report({"ready": True, "seconds": time.monotonic() - start})
        while True:
            readable, _, _ = select.select([self._control.fileno(), self._wake], [], [])
            if self._wake in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, PACKET_BYTES)
                self._reap()
            if self._control.fileno() in readable and not self._obey():
                return

    def _obey(self) -> bool:
        """Does what one packet asks; False when the supervisor is gone. The children then die with this process."""
        try:
            packet, fds, _, _ = socket.recv_fds(self._control, PACKET_BYTES, FDS_PER_RUN)
        except ConnectionResetError:
            return False
        if not packet:
            return False
        request = json.loads(packet)
        if "kill" in request:
            self._kill(request["kill"])
        elif "run" in request:
            self._fork(fds)
        for fd in fds:
            os.close(fd)
        return True

    def _fork(self, fds: list[int]) -> None:
        if (count := threads()) != 1:
            self._report({"refused": f"a process of {count} threads must not fork"})
            return
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            _child(zygote, *fds)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # here too, so that a kill never comes before it
        self._children.add(pid)
        self._report({"forked": pid})

    def _kill(self, pid: int) -> None:
        if pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._children.discard(pid)
            code = os.waitstatus_to_exitcode(status)
            self._report({"exited": pid, "status": code if code >= 0 else None, "signal": -code if code < 0 else None})

    def _report(self, report: dict[str, Any]) -> None:
        self._control.send(json.dumps(report).encode())


def _child(zygote: int, text: int, channel: int, log: int) -> NoReturn:
    """What the fork does with its life. Every way out is os._exit: the zygote's own frames lie below this one."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.setpgid(0, 0)
        die_with(zygote)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _close_all_but({0, 1, 2, text, channel})
        _train(text, channel)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _close_all_but(kept: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # the descriptor of this very listing
                os.close(int(name))


def _sandbox(assignment: Assignment, channel: int) -> None:
    folder = Path(assignment.job_folder)
    if assignment.profile == PLAIN:
        apply_plain(folder)
        return
    limits = Limits(memory_bytes=assignment.memory_bytes, file_bytes=assignment.disk_bytes)
    named = (assignment.dataset, assignment.source_file, assignment.model_file, assignment.init_from)
    apply_strict(folder, limits=limits, readable=[Path(path) for path in named if path is not None], keep={channel})


def _train(text: int, channel: int) -> NoReturn:
    status = 1
    try:
        with os.fdopen(text, "rb") as file:
            assignment = Assignment(**json.load(file))
        forgive()
        _sandbox(assignment, channel)
        from workers.trainer import attempt

        attempt.run(assignment, Channel.from_fd(channel))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
