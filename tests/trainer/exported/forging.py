"""Files that postgrad.export would never write: a good one, its records changed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Records = dict[str, bytes]
TRAIN = "models/train.json"
WEIGHTS = "data/weights/train_weights_config.json"


def records(path: Path) -> Records:
    """A file's records by their names without the folder around them."""
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(path: Path, changed: Records, compression: int = zipfile.ZIP_STORED) -> None:
    """A zip of these records in one folder."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in changed.items():
            archive.writestr(f"m/{name}", data)


@contextmanager
def edited(changed: Records, name: str) -> Iterator[Any]:
    """A JSON record, to be changed in place."""
    document = json.loads(changed[name])
    yield document
    changed[name] = json.dumps(document).encode()


@contextmanager
def nodes(changed: Records) -> Iterator[list[dict[str, Any]]]:
    """The steps of the training graph, to be changed in place."""
    with edited(changed, TRAIN) as document:
        yield document["graph_module"]["graph"]["nodes"]


def step(target: str, arguments: dict[str, Any], output: str = "forged") -> dict[str, Any]:
    """One step that gives one tensor."""
    inputs = [{"name": name, "arg": argument, "kind": 1} for name, argument in arguments.items()]
    return {"target": target, "inputs": inputs, "outputs": [{"as_tensor": {"name": output}}], "metadata": {}}


def tensor(name: str) -> dict[str, Any]:
    """An argument that is a tensor."""
    return {"as_tensor": {"name": name}}


def with_first(*forged: dict[str, Any]) -> Callable[[Records], None]:
    """Puts steps before all others of the training graph."""

    def change(changed: Records) -> None:
        with nodes(changed) as steps:
            steps[:0] = forged

    return change
