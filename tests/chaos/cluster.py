"""The service as its four kinds of process, each restarted when it is gone, and all of them ready to be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

KINDS = ("api", "supervisor", "zygote", "trainer")
RESTART_LOOK_SECONDS = 0.1
LEASE_SECONDS = 2.0
STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Trainer:
    """A live process that trains, and the attempt whose log it writes."""

    process: psutil.Process
    job: str
    attempt: str


class Cluster:
    """One API and some workers over one data folder. A process that ends is started again, as a container would be."""

    def __init__(self, folder: Path, port: int, workers: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._environment = _environment(folder, port)
        self._modules = ["app", *["workers"] * workers]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()  # a kill must not meet a half-made process
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self.killed: Counter[str] = Counter()
        self.twice_at_once: set[str] = set()  # jobs that two live processes trained at the same moment

    def start(self) -> None:
        subprocess.run([sys.executable, "-m", "migrations"], env=self._environment, check=True, stdout=subprocess.DEVNULL)
        self._start_missing()
        self._keeper.start()

    def stop(self) -> None:
        """SIGTERM to all; raises subprocess.TimeoutExpired when one does not end."""
        self._stopping.set()
        self._keeper.join()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait(STOP_SECONDS)

    def kill(self, kind: str) -> bool:
        """SIGKILL to one process of the kind, or to every process there is for "all"; False when there was none."""
        with self._lock:
            there = [p for one in KINDS for p in self._of(one)] if kind == "all" else self._of(kind)[:1]
            done = sum(_kill(process) for process in there)
            self.killed[kind] += bool(done)
            return bool(done)

    def workers(self) -> list[psutil.Process]:
        """The live supervisors, those that train first."""
        return self._of("supervisor")

    def trainers(self) -> list[Trainer]:
        """The processes that train now, by the log that each has open."""
        found = [_trainer(process) for process in self._of("trainer")]
        return [one for one in found if one is not None]

    def _of(self, kind: str) -> list[psutil.Process]:
        places = [place for place, module in enumerate(self._modules) if (module == "app") == (kind == "api")]
        roots = [_alive(self._processes[place].pid) for place in places]
        # Those that train first: there a kill hurts.
        below = sorted((root for root in roots if root is not None), key=_is_idle)
        for _ in range({"zygote": 1, "trainer": 2}.get(kind, 0)):
            below = [child for process in below for child in _children(process)]
        return below

    def _keep(self) -> None:
        while not self._stopping.wait(RESTART_LOOK_SECONDS):
            self._start_missing()
            per_job = Counter(trainer.job for trainer in self.trainers())
            self.twice_at_once |= {job for job, count in per_job.items() if count > 1}

    def _start_missing(self) -> None:
        for place, module in enumerate(self._modules):
            if place not in self._processes or self._processes[place].poll() is not None:
                with self._lock, (self.folder.parent / f"{module}-{place}.log").open("ab") as log:
                    command = [sys.executable, "-m", module]
                    self._processes[place] = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)


def _environment(folder: Path, port: int) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POSTGRAD_")}
    ours = {"data_dir": folder, "port": port, "lease_seconds": LEASE_SECONDS, "cpu_slots": 1}
    return kept | {f"POSTGRAD_{name.upper()}": str(value) for name, value in ours.items()}


def _alive(pid: int) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.NoSuchProcess:
        return None


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [child for child in process.children() if child.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []


def _is_idle(process: psutil.Process) -> bool:
    return not any(_children(child) for child in _children(process))


def _trainer(process: psutil.Process) -> Trainer | None:
    try:
        log = Path(os.readlink(f"/proc/{process.pid}/fd/1"))
    except OSError:
        return None  # it ended meanwhile
    if not log.name.startswith("attempt-"):
        return None  # just forked: the log is not in place yet
    return Trainer(process, log.parent.name, log.stem)


def _kill(process: psutil.Process) -> bool:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True
