"""Files of a job, written whole or not at all: a temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

LAST, BEST, SPEC = "model.safetensors", "model.best.safetensors", "spec.json"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path` and publishes it under that name.

    Raises OSError, also when the job's folder is not under its path any more: then another attempt has the job.
    """
    path.parent.mkdir(exist_ok=True)  # no parents: a path that was taken from this attempt must not come back
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def remove_unfinished(folder: Path) -> None:
    """Removes what an attempt that was killed, or is stopped, was writing. Whoever has it open writes into nothing then."""
    for left in folder.glob("*.tmp"):
        left.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """fsync of a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copied(learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of parameters and buffers on the CPU: contiguous, and no two sharing memory, as safetensors wants."""
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in learned.items()}


class Artifacts:
    """`artifacts/` of one job: the last weights, the best weights and the spec they came from."""

    def __init__(self, folder: Path, spec: str) -> None:
        self._folder, self._spec = folder, spec
        remove_unfinished(folder)
        self._best: dict[str, Tensor] | None = None  # better than what is on disk, not written yet

    def keep_best(self, learned: Mapping[str, Tensor]) -> None:
        """Remembers the weights as they are. They reach the disk with the next checkpoint or at the end, not every epoch."""
        self._best = copied(learned)

    def write_best(self) -> None:
        """Raises OSError."""
        if self._best is not None:
            best, self._best = self._best, None
            write_whole(self._folder / BEST, lambda path: save_file(best, path, metadata={"format": "pt"}))

    def write_last(self, learned: Mapping[str, Tensor]) -> None:
        """Best weights, last weights and spec. Raises OSError."""
        self.write_best()
        last = copied(learned)
        write_whole(self._folder / LAST, lambda path: save_file(last, path, metadata={"format": "pt"}))
        self.write_spec()

    def write_spec(self) -> None:
        write_whole(self._folder / SPEC, lambda path: path.write_text(self._spec, encoding="utf-8"))
