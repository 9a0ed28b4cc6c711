"""The warm checker: builds a spec without memory and tells what is wrong. `python -m workers.trainer.check`.

One JSON line in, one out. In: {"id", "spec": long form, "dataset": folder, or "source": file of a data set in Python,
"preflight": bool, "init_from": file or null, "model": file or null}. Out: {"id", "problems": [{pointer, code, detail}],
"effective_spec", "parameters": {"total", "trainable"}, "preflight": {"layers", "memory"} if asked for}. The first line out,
once warm, is {"ready": true, "torch": version}.
Layers are built on the meta device, and only loss and metrics see numbers, two rows of them: no question can take much memory
or time. What the user brought runs in a child of its own. A question never ends the process; what is not a problem of the spec
comes back as {"id", "error"}.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before torch is imported: a second thread of numpy's OpenBLAS is of no use here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch

from jobs.profiles import STRICT
from jobs.spec import InvalidSpec, JobSpec, PythonDataset, SpecProblem, parse, profile_of
from workers.trainer import fit
from workers.trainer.apart import apart
from workers.trainer.brought import completed_model
from workers.trainer.data import DataDescription, Field, InvalidData, describe
from workers.trainer.effective import effective_spec
from workers.trainer.examine import examine
from workers.trainer.exported.run import warm_up
from workers.trainer.model import BuildProblem
from workers.trainer.own_data import foreseen
from workers.trainer.own_fields import settled
from workers.trainer.preflight import preflight
from workers.trainer.source import SourceProblem

WARM_UP = DataDescription(
    rows=8,
    inputs={"x": Field((4,), 0, 1)},
    targets={"y": Field((), 0, 2, 3)},
    counts={"train": 8, "val": 0, "test": 0},
)
WARM_UP_SPEC = {
    "dataset": {"type": "builtin", "name": "iris"},
    "model": {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 3}]},
    "loss": "CrossEntropyLoss",
    "optimizer": "Adam",
    "metrics": ["MulticlassAccuracy"],
    "batch_size": 4,
    "epochs": 1,
}


@dataclass(frozen=True)
class Files:
    """The files that a question names beside the folder of prepared data; `source` is a data set in Python."""

    init_from: Path | None = None
    model: Path | None = None
    source: Path | None = None

    @classmethod
    def of(cls, question: dict[str, Any]) -> Files:
        return cls(*(Path(question[name]) if question.get(name) else None for name in ("init_from", "model", "source")))

    def paths(self) -> list[Path]:
        """Those that there are."""
        return [path for path in (self.init_from, self.model, self.source) if path is not None]


NO_FILES = Files()


def answer(spec: JobSpec, description: DataDescription, more: bool = False, files: Files = NO_FILES) -> dict[str, Any]:
    """Problems, effective spec and parameters of a spec over data so described, and its preflight if `more` is asked.

    Raises InvalidData.
    """
    try:
        completed = completed_model(spec, description, files.model)
    except BuildProblem as error:
        return {"problems": _plain(error.problems + fit.check_targets(spec, description))}
    description = settled(spec, description, completed.shapes())
    found = examine(spec, description, completed, files.init_from)
    if found.problems or found.optimizing is None or found.loss is None:
        return {"problems": _plain(found.problems)}
    total = sum(p.numel() for _, p in found.parameters.named)
    trainable = sum(p.numel() for _, p in found.parameters.named if p.requires_grad)
    return {
        "problems": [],
        "effective_spec": effective_spec(spec, completed, found.loss, found.optimizing, found.scheduler),
        "parameters": {"total": total, "trainable": trainable},
        "preflight": preflight(spec, description, completed) if more else None,
    }


def _plain(problems: list[SpecProblem]) -> list[dict[str, str]]:
    return [{"pointer": p.pointer, "code": p.code, "detail": p.detail} for p in problems]


def respond(question: dict[str, Any]) -> dict[str, Any]:
    """The answer to one question; never raises."""
    try:
        spec, files = parse(question["spec"]), Files.of(question)
        own = isinstance(spec.dataset, PythonDataset)
        description = None if own else describe(spec, Path(question["dataset"]))

        def answered() -> dict[str, Any]:
            return _told(spec, description, question.get("preflight") is True, files)

        return apart(spec, answered, files.paths()) if profile_of(spec) == STRICT else answered()
    except (InvalidSpec, InvalidData) as error:
        return {"problems": _plain(error.problems)}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def _told(spec: JobSpec, description: DataDescription | None, more: bool, files: Files) -> dict[str, Any]:
    """The answer, or what is wrong with the data; without a description the data is the user's own Dataset."""
    try:
        if description is None:
            assert files.source is not None
            description = foreseen(spec, files.source)
        return answer(spec, description, more, files)
    except (InvalidData, SourceProblem) as error:
        return {"problems": _plain(error.problems)}


def main() -> None:
    """Answers until its standard input ends."""
    torch.set_num_threads(1)
    warm_up()
    answer(parse(WARM_UP_SPEC), WARM_UP)  # the first optimizer imports a second's worth of torch
    print(json.dumps({"ready": True, "torch": torch.__version__.split("+")[0]}), flush=True)
    for line in sys.stdin.buffer:
        print(json.dumps(_reply(line)), flush=True)


def _reply(line: bytes) -> dict[str, Any]:
    """The answer to one line; a line that is no question has the id null."""
    try:
        question = json.loads(line)
        return {"id": question.get("id"), **respond(question)}
    except Exception as error:
        return {"id": None, "error": f"no question: {type(error).__name__}: {error}"[:500]}


if __name__ == "__main__":
    main()
