"""Where things lie on disk. Only this module knows the names, so that object storage can take its place.

<root>/postgrad.db
<root>/files/<sha256>             an upload, stored once by content
<root>/files/<sha256>.prepared/   its arrays and schema, as the trainer reads them
<root>/files/incoming-*           an upload on its way
<root>/weights/<sha256>           what a model starts from (init_from), stored once by content
<root>/jobs/<id>/checkpoints/, artifacts/, attempt-<n>.log
<root>/jobs/<id>/attempt-<n>      the door through which the attempt that runs writes there, a link to the folder itself
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import UnsafeName
from jobs.settings import Settings

# A name that becomes part of a path is checked here whoever checked it before: nothing that climbs, nothing hidden.
JOB_ID = re.compile(r"job_[0-9a-z]{26}")
SHA256 = re.compile(r"[0-9a-f]{64}")
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
LOG_NAME = re.compile(r"attempt-([1-9][0-9]*)\.log")
DOOR_NAME = re.compile(r"attempt-([1-9][0-9]*)")


@dataclass(frozen=True)
class DataFolder:
    """The data folder at `root`, and the folder of prepared built-in data sets.

    Every method that is given a name raises UnsafeName rather than make a path of what is not one.
    """

    root: Path
    builtin_dir: Path

    @classmethod
    def of(cls, settings: Settings) -> DataFolder:
        """The folder that the settings name, as an absolute path."""
        return cls(settings.data_dir.resolve(), settings.builtin_dir.resolve())

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "postgrad.db"

    def file(self, sha256: str) -> Path:
        """The upload with this content."""
        return self.root / "files" / _checked("upload", SHA256, sha256)

    def prepared(self, sha256: str) -> Path:
        """The folder with an upload's arrays and schema."""
        return self.root / "files" / f"{_checked('upload', SHA256, sha256)}.prepared"

    def builtin(self, name: str) -> Path:
        """The folder with a built-in set's arrays and schema."""
        return self.builtin_dir / _checked("built-in data set", PLAIN_NAME, name)

    def incoming(self) -> Path:
        """A new empty file to stream an upload into, on the disk where it will stay. Hand it to `keep`, or unlink it."""
        folder = self.root / "files"
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix="incoming-", dir=folder)
        os.close(descriptor)
        return Path(name)

    def keep(self, incoming: Path, sha256: str) -> Path:
        """Gives an upload its final name, safe against a power cut. The same content twice is one file."""
        return _kept(incoming, self.file(sha256))

    def weights(self, sha256: str) -> Path:
        """The pinned weights with this content."""
        return self.root / "weights" / _checked("pinned weights", SHA256, sha256)

    def keep_weights(self, incoming: Path, sha256: str) -> Path:
        """Gives a copy of another job's weights its final name, as `keep` does."""
        final = self.weights(sha256)
        final.parent.mkdir(parents=True, exist_ok=True)
        return _kept(incoming, final)

    def job(self, job_id: str) -> Path:
        """The folder of one job: all that its trainer may write to."""
        return self.root / "jobs" / _checked("job", JOB_ID, job_id)

    def checkpoints(self, job_id: str) -> Path:
        """Where a job's checkpoints lie."""
        return self.job(job_id) / "checkpoints"

    def artifacts(self, job_id: str) -> Path:
        """Where a job's results lie."""
        return self.job(job_id) / "artifacts"

    def artifact(self, job_id: str, name: str) -> Path:
        """One result of a job; the file may not exist (yet)."""
        return self.artifacts(job_id) / _checked("artifact", PLAIN_NAME, name)

    def log(self, job_id: str, attempt: int) -> Path:
        """What the trainer of one attempt has printed."""
        return self.job(job_id) / f"attempt-{int(attempt)}.log"

    def logs(self, job_id: str) -> list[tuple[int, Path]]:
        """The logs there are, as (attempt, path), in the attempts' order."""
        folder = self.job(job_id)
        names = os.listdir(folder) if folder.is_dir() else []
        found = [(int(match[1]), folder / name) for name in names if (match := LOG_NAME.fullmatch(name))]
        return sorted(found)

    def make_job(self, job_id: str) -> Path:
        """The job's folder with its two inner folders, made if missing."""
        for folder in (self.checkpoints(job_id), self.artifacts(job_id)):
            folder.mkdir(parents=True, exist_ok=True)
        return self.job(job_id)

    def open_attempt(self, job_id: str, attempt: int) -> Path:
        """The job's folder under the path through which this attempt, and no other, writes there. Raises OSError.

        This is the fence on files: the doors of earlier attempts are shut first, and a process of one of them, however long it
        was stopped and at whatever instruction, finds no such path when it goes on. Whoever opens a door must ask the store
        *afterwards* whether the attempt still holds the job, and shut it if not: then of two workers one meets the other's.
        """
        folder = self.make_job(job_id)
        self.shut_attempts(job_id, attempt)
        door = folder / f"attempt-{int(attempt)}"
        door.symlink_to(".", target_is_directory=True)
        return door

    def shut_attempts(self, job_id: str, last: int) -> None:
        """Shuts the doors of all attempts up to `last`; safe to repeat."""
        folder = self.job(job_id)
        for name in os.listdir(folder) if folder.is_dir() else []:
            if (match := DOOR_NAME.fullmatch(name)) and int(match[1]) <= last:
                _remove(folder / name)


def _remove(path: Path) -> None:
    # A trainer may have put a link in its folder's place: the link goes, and what it names stays.
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _checked(what: str, pattern: re.Pattern[str], name: str) -> str:
    if not pattern.fullmatch(name):
        raise UnsafeName(what, name)
    return name


def _kept(incoming: Path, final: Path) -> Path:
    with incoming.open("rb") as upload:
        os.fsync(upload.fileno())
    incoming.replace(final)
    _sync_folder(final.parent)
    return final


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
