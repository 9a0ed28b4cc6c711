"""The checker's child for what a user brought: whatever ends it, the checker answers, and says what it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import postgrad
from tests.trainer.supervised import prepare
from workers.trainer import check

ROOT = Path(__file__).parents[2]
EXPORTED = {"type": "exported", "id": "file_" + "0" * 24}
PYTHON = {**EXPORTED, "type": "python", "class": "Net"}


def spec(model: dict[str, Any], **changes: Any) -> dict[str, Any]:
    body = {"dataset": {"type": "builtin", "name": "iris"}, "model": model, "loss": "CrossEntropyLoss", "optimizer": "SGD"}
    return {**body, "batch_size": 16, "epochs": 1, **changes}


# Each is what runs in the child in place of the question.
PROGRAM = """
import json, os, signal, sys, time
from jobs.spec import parse
from workers.trainer.apart import apart

def crash(): os.kill(os.getpid(), signal.SIGSEGV)
def hang():
    while True: pass
def fill(): return bytearray(2**33)
def forge(): return {"problems": [], "parameters": {"total": 1, "trainable": "x"}, "effective_spec": {}, "preflight": None}
def write(): open("/tmp/postgrad-apart-was-here", "w")

spec = parse(json.loads(sys.argv[1]))
print(json.dumps([apart(spec, attack, []) for attack in (crash, hang, fill, forge, write)]))
"""


def as_user(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(ROOT / "tests" / "unprivileged.py"), sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("model", "what", "code", "seconds"),
    [(EXPORTED, "the exported program", "invalid_program", "4.5"), (PYTHON, "the user's code", "invalid_source", "3")],
)
def test_every_end_of_the_child_is_a_sentence(model: dict[str, Any], what: str, code: str, seconds: str) -> None:
    ran = as_user("-c", PROGRAM, json.dumps(spec(model)))
    assert ran.returncode == 0, ran.stderr.decode()
    found = [answer["problems"] for answer in json.loads(ran.stdout)]
    assert all([(p["pointer"], p["code"]) for p in problems] == [("/model/id", code)] for problems in found), found
    sentences = [problems[0]["detail"] for problems in found]
    assert sentences[0] == f"the process that ran {what} was killed by SIGSEGV and gave no answer"
    assert sentences[1] == f"{what} took longer than {seconds} s"
    assert sentences[2].startswith("MemoryError")
    assert sentences[3] == f"{what} gave another answer than was asked for"
    assert sentences[4].startswith("PermissionError")


@pytest.fixture
def program(folder: Path) -> Path:
    torch.manual_seed(0)
    path = folder.parent / "net.pt2"
    postgrad.export(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), torch.zeros(4, 4), path)
    path.chmod(0o644)
    return path


def test_the_checker_of_an_ordinary_user_answers_for_an_exported_program(folder: Path, program: Path) -> None:
    iris = str(prepare(folder.parent) / "iris")
    question = {"spec": spec(EXPORTED), "dataset": iris, "model": str(program), "preflight": True}
    asked = f"import json, sys; from workers.trainer import check; print(json.dumps(check.respond({question!r})))"
    ran = as_user("-c", asked)
    assert ran.returncode == 0, ran.stderr.decode()
    answer = json.loads(ran.stdout)
    assert answer["problems"] == []
    assert answer["parameters"] == {"total": 67, "trainable": 67}
    assert answer["effective_spec"]["model"]["id"]["value"] == EXPORTED["id"]
    assert answer["preflight"]["layers"] == [{"name": "", "type": "model", "output_shape": [3], "parameters": 67}]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's checker refuses strict here")
@pytest.mark.parametrize("model", [EXPORTED, PYTHON])
def test_the_checker_of_root_opens_none_of_it(tmp_path: Path, model: dict[str, Any]) -> None:
    answer = check.respond({"spec": spec(model), "dataset": str(prepare(tmp_path) / "iris"), "model": str(tmp_path / "none")})
    assert [(p["pointer"], p["code"]) for p in answer["problems"]] == [("/model/type", "not_supported")]
    assert "runs as root" in answer["problems"][0]["detail"]
