"""One piece of work in a child that is gone afterwards, whatever the work was."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.strict_host import Host


def disposed(host: Host, program: str, **options: Any) -> Any:
    return json.loads(host.run(program, None, **{"seconds": 30, **options}).said)


def test_the_answer_comes_back(host: Host) -> None:
    assert disposed(host, "import torch; answer = {'a': [1.5, None, float(torch.ones(2).sum())]}") == {"a": [1.5, None, 2.0]}


def test_it_works_under_strict(host: Host, folder: Path) -> None:
    assert disposed(host, "import socket; socket.socket()") == "Disposed: PermissionError: [Errno 1] Operation not permitted"
    assert disposed(host, f"open({str(folder / 'new')!r}, 'w')").startswith("Disposed: PermissionError: [Errno 13]")
    (folder.parent / "data").write_text("mine")
    program = f"answer = open({str(folder.parent / 'data')!r}).read()"
    assert disposed(host, program).startswith("Disposed: PermissionError")
    assert disposed(host, program, readable=[str(folder.parent / "data")]) == "mine"


NO_ANSWER = "Disposed: the process that ran the user's code "
# Writes over the real answer, into whatever descriptor leads out.
FORGERY = """
import os
for fd in map(int, os.listdir("/proc/self/fd")):
    try: os.write(fd, b"{}")
    except OSError: pass
answer = 1
"""


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("1 / 0", "Disposed: ZeroDivisionError: division by zero"),
        ("answer = object()", "Disposed: TypeError: Object of type object is not JSON serializable"),
        ("answer = bytearray(2**33)", "Disposed: MemoryError"),
        ("raise SystemExit(3)", "Disposed: SystemExit: 3"),
        ("import os; os._exit(3)", NO_ANSWER + "ended with status 3 and gave no answer"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", NO_ANSWER + "was killed by SIGSEGV and gave no answer"),
        (FORGERY, NO_ANSWER),
        ("print('not for the parent' * 10**6); answer = 1", 1),
        ("answer = 'x' * 2**21", "Disposed: the user's code answered with more than 1048576 bytes"),
    ],
)
def test_every_way_to_go_wrong_is_a_sentence(host: Host, program: str, sentence: object) -> None:
    found = disposed(host, program)
    assert found == sentence or str(found).startswith(str(sentence))


def test_the_parent_waits_no_longer_than_it_said(host: Host) -> None:
    start = time.monotonic()
    for program in ("while True: pass", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"):
        assert disposed(host, program, seconds=0.3).startswith("Disposed: the user's code took longer than 0.3 s")
    assert time.monotonic() - start < 10


def test_processor_time_is_bounded(host: Host) -> None:
    assert "was killed by SIGXCPU" in disposed(host, "while True: pass", limits={"cpu_seconds": 1})
