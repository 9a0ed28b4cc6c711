"""No line of the service reads a pickle, or anything else that runs what it reads."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSES = ("app", "jobs", "workers", "migrations", "postgrad")
ROOT = Path(__file__).parent.parent
UNPICKLING = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
LOADS = {"torch.load", "np.load", "numpy.load", "torch.export.load", "torch.jit.load", "torch.hub.load"}
RUNS = {"eval", "exec", "compile", "__import__"}
# Where a user's source is run, in the sandbox; and torch's own annotations, read on the developer's machine.
ALLOWED = {("workers/trainer/source.py", "exec"), ("workers/trainer/source.py", "compile")}
ALLOWED |= {("workers/trainer/introspect.py", "eval")}


def findings(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (name for name in names if name.partition(".")[0] in UNPICKLING)
        elif isinstance(node, ast.Call):
            called, safe = ast.unparse(node.func), any(_keeps_to_weights(keyword) for keyword in node.keywords)
            if called in RUNS or (called in LOADS and not safe):
                yield called


def _keeps_to_weights(keyword: ast.keyword) -> bool:
    return keyword.arg == "weights_only" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True


@pytest.mark.parametrize("house", HOUSES)
def test_nothing_unpickles(house: str) -> None:
    files = sorted((ROOT / house).rglob("*.py"))
    assert files
    found = {(str(path.relative_to(ROOT)), what) for path in files for what in findings(path.read_text(encoding="utf-8"))}
    assert found - ALLOWED == set()


@pytest.mark.parametrize(
    "text", ["import pickle", "from yaml import x", "torch.load(f)", "np.load(f)", "eval(a)", "torch.load(f, weights_only=x)"]
)
def test_the_look_sees_what_it_is_for(text: str) -> None:
    assert list(findings(text))
