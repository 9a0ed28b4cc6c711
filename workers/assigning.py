"""What a claimed job needs of this worker's data folder, as the assignment of its trainer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.errors import JobsError, LostLease
from jobs.files import DataFolder
from jobs.profiles import PLAIN, PYTHON, STRICT, profile_under
from jobs.records import Claim, Failure
from jobs.store import Store
from workers.protocol import Assignment
from workers.sandbox import layers, strict_layers, strict_refusal


class CannotStart(Exception):
    """This job can never start, whatever the worker: reason, message and pointer go into its failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True)
class Bounds:
    """What a job may take, the first two under profile strict only, and whether it may be the user's own Python.

    Bytes of address space are those beyond Python and torch; the log's are those of one attempt.
    """

    memory_bytes: int = 4 * 2**30
    disk_bytes: int = 4 * 2**30
    allow_python: bool = False
    log_bytes: int = 64 * 2**20


NOT_ALLOWED = "the worker runs no Python of users: POSTGRAD_ALLOW_PYTHON is not set"


def profiles(bounds: Bounds) -> dict[str, dict[str, Any]]:
    """What the worker offers, for its row: the layers of each sandbox that are up, and why it is not offered, if it is not."""
    up, refusal = strict_layers(), strict_refusal()
    return {
        PLAIN: {"layers": layers(), "refusal": None},
        STRICT: {"layers": up, "refusal": refusal},
        PYTHON: {"layers": up, "refusal": refusal or (None if bounds.allow_python else NOT_ALLOWED)},
    }


class Assigner:
    """Finds the files that jobs name. Every path comes from the data folder, never from a spec."""

    def __init__(self, store: Store, folder: DataFolder, bounds: Bounds) -> None:
        self._store, self._folder, self._bounds = store, folder, bounds

    def assign(self, claim: Claim, device: str) -> Assignment:
        """The trainer's orders; the job's folder is made, and empty but for logs where the curve begins anew, and its
        door for this attempt is open.

        Raises CannotStart when something is not there, and LostLease.
        """
        spec = json.loads(claim.spec)
        door = self._door(claim)
        if claim.environment is None:
            # Not before the door was opened: a worker that was stopped here for long must not clear what another one writes.
            # Either no attempt has begun, or a retry from the start was asked for: then what is left is of the run before.
            self._folder.clear_job(claim.job_id)
        return Assignment(
            job_id=claim.job_id,
            attempt=claim.attempt,
            spec=claim.spec,
            device=device,
            threads=claim.threads,
            dataset=str(self._dataset(door, spec["dataset"])),
            job_folder=str(door),
            profile=profile_under(claim.profile),
            model_file=self._upload(spec["model"], "/model", "invalid_spec"),
            source_file=self._upload(spec["dataset"], "/dataset", "invalid_data") if _is_python(spec["dataset"]) else None,
            memory_bytes=self._bounds.memory_bytes,
            disk_bytes=self._bounds.disk_bytes,
            init_from=self._weights(spec["model"]),
            environment=claim.environment,
        )

    def _door(self, claim: Claim) -> Path:
        door = self._folder.open_attempt(claim.job_id, claim.attempt)
        try:
            self._store.check_held(claim.job_id, claim.attempt)
        except LostLease:
            self._folder.shut_attempts(claim.job_id, claim.attempt)
            raise
        return door

    def _dataset(self, door: Path, dataset: dict[str, Any]) -> Path:
        """The folder with the job's arrays; what a user's Dataset gives lies in the job's own, once it has been read."""
        if _is_python(dataset):
            return self._folder.own_data(door)
        try:
            if dataset["type"] == "builtin":
                path, pointer = self._folder.builtin(dataset["name"]), "/dataset/name"
            else:
                path, pointer = self._folder.prepared(self._store.file(dataset["id"]).sha256), "/dataset/id"
        except JobsError as error:
            raise CannotStart(Failure("invalid_data", str(error), "/dataset")) from error
        if not path.is_dir():
            raise CannotStart(Failure("invalid_data", "the data set is not in this worker's data folder", pointer))
        return path

    def _upload(self, named: dict[str, Any], pointer: str, reason: str) -> str | None:
        """The upload that holds the model, or the data set's source; None where the spec has the layers themselves."""
        if "id" not in named:
            return None
        if _is_python(named) and not self._bounds.allow_python:  # a job from before workers said so
            raise CannotStart(Failure("error", NOT_ALLOWED, pointer))
        try:
            path = self._folder.file(self._store.file(named["id"]).sha256)
        except JobsError as error:
            raise CannotStart(Failure(reason, str(error), f"{pointer}/id")) from error
        if not path.is_file():
            raise CannotStart(Failure(reason, "the file is not in this worker's data folder", f"{pointer}/id"))
        return str(path)

    def _weights(self, model: dict[str, Any]) -> str | None:
        """The file that the model starts from, None without one."""
        init_from = model.get("init_from")
        if init_from is None:
            return None
        path = self._folder.weights(init_from["sha256"])
        if not path.is_file():
            detail = "the weights to start from are not in this worker's data folder"
            raise CannotStart(Failure("invalid_spec", detail, "/model/init_from"))
        return str(path)


def _is_python(named: dict[str, Any]) -> bool:
    return bool(named["type"] == "python")
