"""`model.init_from`: another job's artifact, found, copied and pinned by its digest, so that a resume meets the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.problems import error, invalid_spec
from app.state import Service
from jobs.errors import UnknownJob
from jobs.files import DataFolder
from jobs.model_spec import InitFrom
from jobs.spec import JobSpec

CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Pin:
    """The copy of an artifact. `keep` makes it last, once the job that starts from it has been checked."""

    folder: DataFolder
    path: Path
    sha256: str

    def keep(self) -> None:
        self.folder.keep_weights(self.path, self.sha256)

    def noted(self, canonical: str) -> str:
        """The spec's text with the digest in it."""
        spec = json.loads(canonical)
        spec["model"]["init_from"]["sha256"] = self.sha256
        return json.dumps(spec, ensure_ascii=False, allow_nan=False)


@contextmanager
def pinned(parts: Service, spec: JobSpec) -> Iterator[Pin | None]:
    """The copy of what the model starts from, gone afterwards unless it was kept; None when it starts from nothing.

    Raises Problem when there is no such job or artifact, or when it does not have the digest that the spec gives.
    """
    if spec.model.init_from is None:
        yield None
        return
    source = _source(parts, spec.model.init_from)
    with parts.folder.incoming() as copy:
        digest = _copied(source, copy)
        if spec.model.init_from.sha256 not in (None, digest):
            detail = f"the artifact's digest is {digest}; it has changed, or is another one"
            raise invalid_spec([error("/model/init_from/sha256", "digest_mismatch", detail)])
        yield Pin(parts.folder, copy, digest)


def _source(parts: Service, init_from: InitFrom) -> Path:
    try:
        job = parts.store.job(init_from.job)
    except UnknownJob as unknown:
        raise invalid_spec([error("/model/init_from/job", "unknown_job", "there is no job with this id")]) from unknown
    path = parts.folder.artifact(job.id, init_from.artifact)
    if path.is_symlink() or not path.is_file():
        detail = f"job {job.id} is {job.state} and has no artifact {init_from.artifact}"
        raise invalid_spec([error("/model/init_from/artifact", "unknown_artifact", detail)])
    return path


def _copied(source: Path, copy: Path) -> str:
    """Copies a file and gives its SHA-256. What a job left in its folder is opened without following a link."""
    digest = hashlib.sha256()
    with os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW), "rb") as original, copy.open("wb") as target:
        while chunk := original.read(CHUNK_BYTES):
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()
