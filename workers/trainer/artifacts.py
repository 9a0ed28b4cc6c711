"""Files of a job, written whole or not at all: a temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

LAST, BEST, SPEC = "model.safetensors", "model.best.safetensors", "spec.json"


class CannotWrite(Exception):
    """A file of the job could not be written; the text says which, and why."""


@contextmanager
def writing(what: str, temporary: Path) -> Iterator[None]:
    """For a block that fills `temporary`. Whatever it raises, that file goes: where a disk is full, it may be what fills it.

    Raises CannotWrite for what the system or a library's own writer says. A folder that is not there any more is
    FileNotFoundError still: another attempt has the job, and there is nothing to go on with.
    """
    try:
        yield
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError) or (why := _why(error)) is None:
            raise
        raise CannotWrite(f"{what} could not be written: {why}") from error


def _why(error: BaseException | None) -> str | None:
    """torch's writer hides what its file said behind an error of its own, which is of no use to anyone."""
    if isinstance(error, SafetensorError):
        return str(error)
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        error = error.__context__
    return None


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path` and publishes it under that name.

    Raises CannotWrite, and FileNotFoundError when the job's folder is not under its path any more.
    """
    temporary = path.with_name(path.name + ".tmp")
    with writing(path.name, temporary):
        path.parent.mkdir(exist_ok=True)  # no parents: a path that was taken from this attempt must not come back
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
        """Raises CannotWrite; the weights are then written the next time."""
        if (best := self._best) is not None:
            write_whole(self._folder / BEST, lambda path: save_file(best, path, metadata={"format": "pt"}))
            self._best = None

    def write_last(self, learned: Mapping[str, Tensor]) -> None:
        """Best weights, last weights and spec. Raises CannotWrite."""
        self.write_best()
        last = copied(learned)
        write_whole(self._folder / LAST, lambda path: save_file(last, path, metadata={"format": "pt"}))
        self.write_spec()

    def write_spec(self) -> None:
        write_whole(self._folder / SPEC, lambda path: path.write_text(self._spec, encoding="utf-8"))
