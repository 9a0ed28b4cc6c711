"""Checkpoints of one job: whole or absent, checked by SHA-256 when read, the last good ones kept.

One checkpoint is two files: `<iteration>.pt` (tensors, numbers and text, read back with weights_only) and its manifest,
`<iteration>.json`, renamed into place last: a checkpoint without a manifest does not exist. Bits on a disk rot without a word
and torch.load does not notice, so the manifest holds the file's SHA-256 and its own: what differs from either is removed and
the checkpoint before it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workers.trainer.artifacts import remove_unfinished, sync, write_whole, writing
from workers.trainer.loop import Position, Steps
from workers.trainer.recorder import Recorder

FORMAT = 2

State = dict[str, Any]


class UnusableCheckpoint(Exception):
    """The file is not what its manifest says, or of another format; the text says which, as the end of a sentence."""


# ---- what a checkpoint holds


def capture(steps: Steps, position: Position, recorder: Recorder) -> State:
    """Everything that decides the rest of the run, between two iterations. Tensors are the live ones, not copies."""
    cuda = _cuda(steps.model.module)
    return {
        "format": FORMAT,
        "position": vars(position).copy(),
        "model": steps.model.module.state_dict(),
        "loss": steps.loss.module.state_dict(),
        "optimizer": steps.optimizer.state_dict(),
        "scheduler": None if steps.scheduler is None else steps.scheduler.state_dict(),
        "feed": steps.feed.state(),
        "train_metrics": steps.train_metrics.state(),
        "recorder": recorder.state(),
        "precision": steps.precision.state(),
        "early_stopping": steps.early_stopping.state(),
        "generator": torch.get_rng_state(),
        "cuda_generator": None if cuda is None else torch.cuda.get_rng_state(cuda),
    }


def restore(state: State, steps: Steps, recorder: Recorder) -> Position:
    """Puts a captured state into freshly built steps and gives the position to go on from."""
    steps.model.module.load_state_dict(state["model"])
    steps.loss.module.load_state_dict(state["loss"])
    steps.optimizer.load_state_dict(state["optimizer"])
    if steps.scheduler is not None:
        steps.scheduler.load_state_dict(state["scheduler"])
    steps.feed.restore(state["feed"])
    steps.train_metrics.restore(state["train_metrics"])
    recorder.restore(state["recorder"])
    steps.precision.restore(state["precision"])
    steps.early_stopping.restore(state["early_stopping"])
    torch.set_rng_state(state["generator"])
    cuda = _cuda(steps.model.module)
    if cuda is not None and state["cuda_generator"] is not None:
        torch.cuda.set_rng_state(state["cuda_generator"], cuda)
    return Position(**state["position"])


def _cuda(model: nn.Module) -> torch.device | None:
    return next((p.device for p in model.parameters() if p.device.type == "cuda"), None)


# ---- the files


class Checkpoints:
    """The `checkpoints/` folder of one job, with the newest `keep` of them."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep
        remove_unfinished(folder)

    def save(self, state: State, iteration: int, epoch: int, before_rename: Callable[[], None]) -> None:
        """Writes and publishes one checkpoint. `before_rename` runs when its bytes are safe but it does not exist yet; what it
        raises leaves the folder's checkpoints as they were. Raises CannotWrite.
        """
        data = self._folder / f"{iteration:012d}.pt"
        temporary = data.with_name(data.name + ".tmp")
        with writing("the checkpoint", temporary):
            self._folder.mkdir(exist_ok=True)
            with temporary.open("wb") as file:  # ours, not torch's: its errors say what the system said
                torch.save(state, file)
            sync(temporary)
            manifest = {"format": FORMAT, "iteration": iteration, "epoch": epoch, "bytes": temporary.stat().st_size}
            text = _manifest_text(manifest | {"sha256": _sha256(temporary)})
            before_rename()
            self._manifest(iteration).unlink(missing_ok=True)  # else a crash here would leave new bytes under an old manifest
            temporary.replace(data)
        write_whole(self._manifest(iteration), lambda path: path.write_text(text, encoding="utf-8"))
        self._prune()

    def drop_after(self, iteration: int) -> None:
        """Removes the checkpoints of later iterations. Raises OSError."""
        for later in self._iterations():
            if later > iteration:
                self._remove(later)

    def latest(self) -> tuple[State | None, list[str]]:
        """The newest usable checkpoint, or None; and a sentence for each that is not, which is removed."""
        notes: list[str] = []
        found = list(reversed(self._iterations()))
        for iteration, before in zip_longest(found, found[1:]):
            try:
                return self._load(iteration), notes
            except UnusableCheckpoint as error:
                then = "no other is left: the run starts from the beginning" if before is None else "the one before it is used"
                notes.append(f"the checkpoint of iteration {iteration} {error}; {then}")
                self._remove(iteration)
        return None, notes

    def usable(self) -> Iterator[State]:
        """Every usable checkpoint, the newest first; the others are passed over in silence."""
        for iteration in reversed(self._iterations()):
            with suppress(UnusableCheckpoint):
                yield self._load(iteration)

    def _load(self, iteration: int) -> State:
        path = self._folder / f"{iteration:012d}.pt"
        try:
            manifest = _read_manifest(self._manifest(iteration))
            if path.stat().st_size != manifest["bytes"]:
                raise UnusableCheckpoint(f"is damaged ({path.stat().st_size} bytes instead of {manifest['bytes']})")
            if _sha256(path) != manifest["sha256"]:
                raise UnusableCheckpoint("is damaged (its SHA-256 differs from the manifest's)")
        except OSError as error:
            raise UnusableCheckpoint(f"is damaged (unreadable: {error})") from error
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        return state

    def _prune(self) -> None:
        for iteration in self._iterations()[: -self._keep]:
            self._remove(iteration)

    def _remove(self, iteration: int) -> None:
        self._manifest(iteration).unlink(missing_ok=True)
        (self._folder / f"{iteration:012d}.pt").unlink(missing_ok=True)

    def _manifest(self, iteration: int) -> Path:
        return self._folder / f"{iteration:012d}.json"

    def _iterations(self) -> list[int]:
        return sorted(int(path.stem) for path in self._folder.glob("*.json") if path.stem.isdigit())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest_text(manifest: dict[str, Any]) -> str:
    """The manifest as JSON, with the SHA-256 of the rest of it as its last member."""
    rest = json.dumps(manifest)
    return json.dumps(manifest | {"manifest_sha256": hashlib.sha256(rest.encode()).hexdigest()})


def _read_manifest(path: Path) -> dict[str, Any]:
    """Raises OSError, and UnusableCheckpoint unless it is, to the last bit, a manifest that `save` wrote in this format."""
    try:
        text = path.read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(text)
        written = found.get("format")
        if "manifest_sha256" not in found and written == 1:
            raise UnusableCheckpoint(f"was written in format 1 by an older postgrad; this one reads format {FORMAT}")
        found.pop("manifest_sha256")
        if _manifest_text(found) != text:
            raise UnusableCheckpoint("is damaged (its manifest's own SHA-256 differs)")
    except (ValueError, KeyError, AttributeError) as error:
        raise UnusableCheckpoint(f"is damaged (its manifest is unreadable: {error})") from error
    if written != FORMAT:
        raise UnusableCheckpoint(f"was written in format {written} by another postgrad; this one reads format {FORMAT}")
    return found
