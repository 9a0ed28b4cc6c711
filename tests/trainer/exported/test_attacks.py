"""Files made to attack the reader: each is refused with a sentence or ignored, and nothing of it runs.

Every file is read in a process of its own under an audit hook, which sees each import, exec, open, socket and new process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.exported.attacks import ATTACKS, PICKLED
from tests.trainer.exported.forging import TRAIN, edited, records, write
from tests.trainer.exported.zips import FILES
from workers.trainer.exported.problem import UnreadableProgram
from workers.trainer.exported.program import read

HARMLESS = {"builtins.id"}


@pytest.fixture(scope="module")
def seen(exported: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What one watched process did with each file, all in a folder of its own."""
    folder = tmp_path_factory.mktemp("attacks")
    good = exported("mlp")
    paths = {"good": good}
    for number, (name, (change, _)) in enumerate(ATTACKS.items()):
        changed = records(good)
        change(changed)
        paths[name] = folder / f"changed_{number}.pt2"
        write(paths[name], changed)
    for number, (name, (make, _)) in enumerate(FILES.items()):
        paths[name] = folder / f"file_{number}.pt2"
        make(paths[name], records(good))
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "tests.trainer.exported.watched", *map(str, paths.values())]
    ran = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, check=True)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert not list(folder.glob("executed"))
    return {name: line | {"path": str(path)} for (name, path), line in zip(paths.items(), lines, strict=True)}


def inert(found: dict[str, Any]) -> None:
    others = [(event, what) for event, what in found["events"] if event not in HARMLESS]
    assert all(event == "open" and found["path"] in what for event, what in others), others
    assert found["error"] is None


def test_the_pickles_would_run_if_they_were_read(tmp_path: Path) -> None:
    program = f"import pickle; pickle.loads({PICKLED!r})"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert (tmp_path / "executed").exists()


def test_a_good_file_is_read_and_run_without_a_trace(seen: dict[str, dict[str, Any]]) -> None:
    assert seen["good"]["problem"] is None
    inert(seen["good"])
    assert len(seen["good"]["events"]) >= 2, "the hook saw nothing"


@pytest.mark.parametrize("name", [*ATTACKS, *FILES])
def test_it_is_inert(seen: dict[str, dict[str, Any]], name: str) -> None:
    sentence = ATTACKS[name][1] if name in ATTACKS else FILES[name][1]
    inert(seen[name])
    if sentence is None:
        assert seen[name]["problem"] is None
    else:
        assert seen[name]["problem"] is not None, "it was accepted"
        assert re.search(sentence, seen[name]["problem"]), seen[name]["problem"]


def test_a_recurrent_layer_of_a_million_steps_is_refused(exported: Callable[[str], Path], tmp_path: Path) -> None:
    changed = records(exported("gru"))
    for record in (TRAIN, "models/eval.json"):
        with edited(changed, record) as document:
            document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][1] = {"as_int": 1_000_000}
    write(tmp_path / "long.pt2", changed)
    with pytest.raises(UnreadableProgram, match="more than 10,000 steps"):
        read(tmp_path / "long.pt2")
