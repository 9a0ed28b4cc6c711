"""The warm checker: builds a spec without memory and tells what is wrong. `python -m workers.trainer.check`.

One JSON line in, one out. In: {"id", "spec": long form, "dataset": folder, "preflight": bool, "init_from":
file or null, "model": file or null}. Out: {"id", "problems":
[{pointer, code, detail}], "effective_spec", "parameters": {"total", "trainable"}, "preflight": {"layers", "memory"} if
asked for}. The first line out, once warm, is {"ready": true, "torch": version}.
Layers are built on the meta device, and only loss and metrics see numbers, two rows of them: no question can take much memory
or time. A question never ends the process; what is not a problem of the spec comes back as {"id", "error"}.
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
from jobs.spec import InvalidSpec, JobSpec, SpecProblem, parse, profile_of
from workers.trainer import fit, metrics, optimizers, schedulers, trial
from workers.trainer.apart import apart
from workers.trainer.brought import completed_model
from workers.trainer.data import DataDescription, Field, InvalidData, describe
from workers.trainer.effective import effective_spec
from workers.trainer.exported.run import warm_up
from workers.trainer.model import BuildProblem
from workers.trainer.param_groups import Parameters
from workers.trainer.preflight import preflight
from workers.trainer.weights import check_init_from, check_initializers

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
    """The files beside the data that a question names."""

    init_from: Path | None = None
    model: Path | None = None

    @classmethod
    def of(cls, question: dict[str, Any]) -> Files:
        return cls(*(Path(question[name]) if question.get(name) else None for name in ("init_from", "model")))

    def paths(self) -> list[Path]:
        """Those that there are."""
        return [path for path in (self.init_from, self.model) if path is not None]


NO_FILES = Files()


def answer(spec: JobSpec, description: DataDescription, more: bool = False, files: Files = NO_FILES) -> dict[str, Any]:
    """Problems, effective spec and parameters of a spec over data so described, and its preflight if `more` is asked."""
    problems = fit.check_targets(spec, description)
    try:
        completed = completed_model(spec, description, files.model)
    except BuildProblem as error:
        return {"problems": _plain(error.problems + problems)}
    outputs = completed.shapes()
    loss, found = fit.check_loss(spec, description, outputs, completed.outputs) if not problems else (None, [])
    problems += found
    parameters = Parameters.of(completed.module, loss)
    optimizing, found = optimizers.check_optimizer(spec, parameters)
    problems += found
    problems += trial.check(spec, description, completed)
    problems += [*check_initializers(spec, completed.module), *check_init_from(spec, completed.module, files.init_from)]
    steps = schedulers.steps_of(spec, description.counts["train"])
    scheduler, found = schedulers.check_scheduler(spec, optimizing, steps) if optimizing is not None else (None, [])
    problems += found
    if loss is not None and not problems:
        problems = metrics.check(spec, description, loss, outputs, completed.outputs)
    if problems or optimizing is None or loss is None:
        return {"problems": _plain(problems)}
    total = sum(p.numel() for _, p in parameters.named)
    trainable = sum(p.numel() for _, p in parameters.named if p.requires_grad)
    return {
        "problems": [],
        "effective_spec": effective_spec(spec, completed, loss, optimizing, scheduler),
        "parameters": {"total": total, "trainable": trainable},
        "preflight": preflight(spec, description, completed) if more else None,
    }


def _plain(problems: list[SpecProblem]) -> list[dict[str, str]]:
    return [{"pointer": p.pointer, "code": p.code, "detail": p.detail} for p in problems]


def respond(question: dict[str, Any]) -> dict[str, Any]:
    """The answer to one question; never raises."""
    try:
        spec = parse(question["spec"])
        dataset, files = Path(question["dataset"]), Files.of(question)
        description = describe(spec, dataset)

        def answered() -> dict[str, Any]:
            return answer(spec, description, question.get("preflight") is True, files)

        return apart(spec, answered, files.paths()) if profile_of(spec) == STRICT else answered()
    except (InvalidSpec, InvalidData) as error:
        return {"problems": _plain(error.problems)}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"[:500]}


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
