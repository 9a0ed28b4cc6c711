"""The real zygote, with a trainer that does what the assignment's spec says. Takes the zygote's arguments."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import types
from pathlib import Path

from workers.protocol import Assignment, Channel, Ended
from workers.trainer import zygote


def run(assignment: Assignment, channel: Channel) -> None:
    plan = json.loads(assignment.spec)
    print("hello from", os.getpid())
    if plan.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if plan.get("raise"):
        raise RuntimeError("a bug in the trainer")
    facts = {
        "ppid": os.getppid(),
        "threads": zygote.threads(),
        "fds": sorted(os.readlink(f"/proc/self/fd/{n}") for n in ("0", "1", "2")),
        "open": len(os.listdir("/proc/self/fd")) - 1,
        "environment": dict(os.environ),
        "outside": _can_write(Path(assignment.job_folder).parent / "outside"),
        "inside": _can_write(Path(assignment.job_folder) / "inside"),
    }
    channel.send(Ended("succeeded", message=json.dumps(facts)))
    if plan.get("wait"):
        threading.Event().wait()


def _can_write(path: Path) -> bool:
    try:
        path.write_text("x")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    attempt = types.ModuleType("workers.trainer.attempt")
    attempt.run = run  # type: ignore[attr-defined]
    sys.modules["workers.trainer.attempt"] = attempt
    import workers.trainer

    workers.trainer.attempt = attempt
    zygote.main(sys.argv[1:])
