"""The client of the checker, against real children that misbehave on purpose."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app import checker as module
from app.checker import Checker, CheckerUnavailable

GOOD = """
import json, os, sys
print(json.dumps({"ready": True, "torch": "9.9"}), flush=True)
for line in sys.stdin:
    question = json.loads(line)
    print(json.dumps({"id": question["id"], "problems": [], "effective_spec": {"pid": os.getpid()},
                      "parameters": {"total": 1, "trainable": 1}}), flush=True)
"""
# Hangs or dies at its first question ever, and answers in the next life: the file remembers.
ONCE = """
import os, pathlib, sys, time
mark = pathlib.Path({mark!r})
if not mark.exists():
    mark.touch()
    print('{{"ready": true, "torch": "9.9"}}', flush=True)
    sys.stdin.readline()
    {fault}
"""


@contextmanager
def running(script: str, seconds: float = 5.0) -> Iterator[Checker]:
    checker = Checker((sys.executable, "-c", script), seconds)
    checker.start()
    try:
        yield checker
    finally:
        checker.close()


FAULTY = """
import json, sys
print(json.dumps({"ready": True, "torch": "9.9"}), flush=True)
for line in sys.stdin:
    print(json.dumps({"id": json.loads(line)["id"], "error": "KeyError: 'type'"}), flush=True)
"""


def test_a_checker_that_failed_has_not_found_the_spec_good() -> None:
    with running(FAULTY) as checker, pytest.raises(CheckerUnavailable, match="could not come to an answer"):
        checker.ask({}, "/nowhere")


def until_answered(checker: Checker) -> int:
    deadline = time.monotonic() + 20
    while True:
        try:
            return int(checker.ask({}, "/nowhere").effective_spec["pid"])
        except CheckerUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_it_answers_and_says_its_torch() -> None:
    with running(GOOD) as checker:
        answer = checker.ask({"loss": "x"}, "/nowhere")
        assert (answer.problems, answer.parameters) == ([], {"total": 1, "trainable": 1})
        assert checker.torch_version() == "9.9"


def test_many_threads_get_their_own_answers_from_one_child() -> None:
    with running(GOOD) as checker:
        pids: list[int] = []
        threads = [threading.Thread(target=lambda: pids.append(until_answered(checker))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(pids) == 8
    assert len(set(pids)) == 1


@pytest.mark.parametrize("fault", ["os._exit(1)", "time.sleep(60)", "print('no json', flush=True); time.sleep(60)"])
def test_a_dead_hung_or_babbling_child_is_replaced(fault: str, tmp_path: Path) -> None:
    script = ONCE.format(mark=str(tmp_path / "mark"), fault=fault) + GOOD
    with running(script, seconds=1.0) as checker:
        with pytest.raises(CheckerUnavailable):
            checker.ask({}, "/nowhere")
        assert until_answered(checker) > 0


def test_a_child_that_dies_at_its_start_is_not_started_in_a_loop(tmp_path: Path) -> None:
    births = tmp_path / "births"
    script = f"open({str(births)!r}, 'a').write('x')"
    with running(script, seconds=0.5) as checker:
        for _ in range(20):
            with pytest.raises(CheckerUnavailable):
                checker.ask({}, "/nowhere")
        assert len(births.read_text()) <= 2


def test_the_child_gets_no_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRAD_API_KEY", "pg_secret")
    monkeypatch.setenv("POSTGRAD_DATABASE_URL", "postgresql://u:p@h/d")
    monkeypatch.setenv("PGPASSWORD", "p")
    assert not {"POSTGRAD_API_KEY", "POSTGRAD_DATABASE_URL", "PGPASSWORD"} & set(module.scrubbed_environment())
    assert module.scrubbed_environment()["PATH"] == os.environ["PATH"]
