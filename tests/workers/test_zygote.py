"""The real zygote: torch is imported and warmed, and forked. Only the trainer itself is a stub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workers import launcher as launcher_module
from workers.child import Child
from workers.launcher import Launcher, LaunchFailed, ProcessLauncher, ZygoteLauncher, trainer_environment
from workers.protocol import Assignment, Ended
from workers.sandbox import landlock_abi

STUB = Path(__file__).with_name("zygote_with_stub.py")
REPOSITORY = STUB.parents[2]
PATIENCE_SECONDS = 60.0
RAISE: dict[str, Any] = {"raise": True}  # a keyword of the language

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the zygote is for Linux")


@pytest.fixture(scope="module")
def zygote() -> Iterator[ZygoteLauncher]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher_module, "_python", lambda: [sys.executable, str(STUB)])
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setenv("POSTGRAD_API_KEY", "pg_secret")
        patch.setenv("POSTGRAD_DATABASE_URL", "postgresql://u:pw@host/db")
        patch.setenv("PGPASSWORD", "pw")
        launcher = ZygoteLauncher()
        until(launcher, launcher.ready)
        yield launcher
        launcher.close()


def until(launcher: Launcher, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        launcher.poll()
        time.sleep(0.001)


def launch(launcher: Launcher, folder: Path, log_file: Path | None = None, /, **plan: Any) -> Child:
    job = folder / "job"
    job.mkdir(exist_ok=True)
    assignment = Assignment("job_1", 1, json.dumps(plan), "cpu", 1, "/nowhere", str(job))
    return launcher.launch(assignment, log_file or folder / "log")


def facts(launcher: Launcher, child: Child) -> dict[str, Any]:
    """What the trainer told of itself."""
    received: list[Any] = []

    def heard() -> bool:
        received.extend(child.receive())
        return bool(received)

    until(launcher, heard)
    assert isinstance(received[0], Ended)
    told: dict[str, Any] = json.loads(received[0].message or "")
    return told


def test_a_child_starts_in_milliseconds_and_its_end_is_reported(zygote: ZygoteLauncher, tmp_path: Path) -> None:
    start = time.monotonic()
    child = launch(zygote, tmp_path)
    told = facts(zygote, child)
    assert time.monotonic() - start < 1.0
    until(zygote, lambda: child.exit)
    assert child.exit is not None
    assert (child.exit.status, child.exit.signal) == (0, None)
    assert told["ppid"] == zygote.pid
    assert told["threads"] == 1


def test_output_goes_to_the_log_and_nothing_else_is_open(zygote: ZygoteLauncher, tmp_path: Path) -> None:
    told = facts(zygote, launch(zygote, tmp_path))
    log = tmp_path / "log"
    assert told["fds"] == sorted([os.devnull, str(log), str(log)])
    assert told["open"] == 4  # and the channel
    assert log.read_text().startswith("hello from")


def test_no_secret_reaches_a_trainer(zygote: ZygoteLauncher, tmp_path: Path) -> None:
    environment = facts(zygote, launch(zygote, tmp_path))["environment"]
    assert not {"POSTGRAD_API_KEY", "POSTGRAD_DATABASE_URL", "PGPASSWORD"} & environment.keys()
    assert b"pg_secret" not in Path(f"/proc/{zygote.pid}/environ").read_bytes()
    assert environment["OPENBLAS_NUM_THREADS"] == "1"


@pytest.mark.skipif(landlock_abi() == 0, reason="this kernel has no Landlock")
def test_a_child_writes_into_its_own_folder_only(zygote: ZygoteLauncher, tmp_path: Path) -> None:
    told = facts(zygote, launch(zygote, tmp_path))
    assert (told["inside"], told["outside"]) == (True, False)


def test_how_a_child_ended_is_told(zygote: ZygoteLauncher, tmp_path: Path) -> None:
    killed, failed = launch(zygote, tmp_path, die=True), launch(zygote, tmp_path, **RAISE)
    until(zygote, lambda: killed.exit and failed.exit)
    assert killed.exit is not None
    assert failed.exit is not None
    assert "SIGKILL" in killed.exit.sentence()
    assert failed.exit.status == 1
    assert "a bug in the trainer" in (tmp_path / "log").read_text()


def test_kill_ends_a_child(zygote: ZygoteLauncher, tmp_path: Path) -> None:
    child = launch(zygote, tmp_path, wait=True)
    facts(zygote, child)
    child.kill()
    until(zygote, lambda: child.exit)
    assert child.exit is not None
    assert child.exit.signal == 9


def test_a_spec_larger_than_a_packet_arrives(zygote: ZygoteLauncher, tmp_path: Path) -> None:
    assert facts(zygote, launch(zygote, tmp_path, padding="x" * 2_000_000))["inside"]


def test_when_the_zygote_dies_its_children_die_and_a_new_one_comes(zygote: ZygoteLauncher, tmp_path: Path) -> None:
    child = launch(zygote, tmp_path, wait=True)
    facts(zygote, child)
    before = zygote.pid
    os.kill(before, 9)
    until(zygote, lambda: child.exit)
    assert child.exit is not None
    assert "the zygote" in child.exit.sentence()
    until(zygote, lambda: not Path(f"/proc/{child.pid}/cmdline").exists() or _is_zombie(child.pid))
    until(zygote, zygote.ready)
    assert zygote.pid != before
    assert facts(zygote, launch(zygote, tmp_path))["inside"]


def test_a_launch_that_meets_a_dead_zygote_says_so(zygote: ZygoteLauncher, tmp_path: Path) -> None:
    os.kill(zygote.pid, 9)
    os.waitid(os.P_PID, zygote.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(LaunchFailed):
        launch(zygote, tmp_path)
    until(zygote, zygote.ready)


def test_zygote_and_children_die_with_the_supervisor(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from workers import launcher as m; from tests.workers.test_zygote import *\n"
        f"m._python = lambda: [sys.executable, {str(STUB)!r}]\n"
        "z = ZygoteLauncher(); until(z, z.ready)\n"
        f"c = launch(z, Path({str(tmp_path)!r}), wait=True); facts(z, c)\n"
        "print(z.pid, c.pid, flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    supervisor = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
    assert supervisor.stdout is not None
    pids = [int(pid) for pid in supervisor.stdout.readline().split()]
    assert len(pids) == 2
    supervisor.kill()
    supervisor.wait()
    deadline = time.monotonic() + 10
    while not all(_is_zombie(pid) for pid in pids):
        assert time.monotonic() < deadline, "they outlived their supervisor"
        time.sleep(0.01)


def _is_zombie(pid: int) -> bool:
    """Gone, or dead and not yet reaped by whoever inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_fresh_process_does_the_same_without_a_zygote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher_module, "_python", lambda: [sys.executable, str(STUB)])
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    launcher = ProcessLauncher()
    child = launch(launcher, tmp_path)
    assert facts(launcher, child)["inside"]
    until(launcher, lambda: child.exit)
    assert child.exit is not None
    assert child.exit.status == 0


def test_what_counts_as_a_secret() -> None:
    kept = trainer_environment(
        {"PATH": "/bin", "HF_TOKEN": "x", "AWS_SECRET_ACCESS_KEY": "x", "my_password": "x", "OMP_NUM_THREADS": "2"}
    )
    assert kept == {"PATH": "/bin", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}


@pytest.mark.parametrize("place", ["full", "in the way"])
def test_a_log_that_cannot_be_written_stops_no_job(zygote: ZygoteLauncher, tmp_path: Path, place: str) -> None:
    """A device that is always full; and a file where the log's folder should be."""
    (tmp_path / "in the way").touch()
    log_file = Path("/dev/full") if place == "full" else tmp_path / "in the way" / "log"
    child = launch(zygote, tmp_path, log_file)
    assert facts(zygote, child)["threads"] == 1
    until(zygote, lambda: child.exit)
    assert child.exit is not None
    assert child.exit.status == 0


def test_an_exception_that_cannot_be_logged_is_an_ordinary_end(zygote: ZygoteLauncher, tmp_path: Path) -> None:
    child = launch(zygote, tmp_path, Path("/dev/full"), **RAISE)
    until(zygote, lambda: child.exit)
    assert child.exit is not None
    assert (child.exit.status, child.exit.signal) == (1, None)
