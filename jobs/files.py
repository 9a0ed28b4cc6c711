"""Where things lie on disk. Only this module knows the names, so that object storage can take its place.

<root>/postgrad.db
<root>/files/<sha256>             an upload, stored once by content
<root>/files/<sha256>.prepared/   its arrays and schema, as the trainer reads them
<root>/files/incoming-*           an upload on its way
<root>/weights/<sha256>           what a model starts from (init_from), stored once by content
<root>/jobs/<id>/checkpoints/, artifacts/, attempt-<n>.log
<root>/jobs/<id>/data/            what the job's own Dataset gave, as a prepared folder
<root>/jobs/<id>/attempt-<n>      the door through which the attempt that runs writes there, a link to the folder itself
<root>/files/<sha256>.deleting, <root>/jobs/<id>.deleting    a deletion that has begun
<root>/deleting.lock
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jobs.errors import UnsafeName
from jobs.settings import Settings

# A name that becomes part of a path is checked here whoever checked it before: nothing that climbs, nothing hidden.
JOB_ID = re.compile(r"job_[0-9a-z]{26}")
SHA256 = re.compile(r"[0-9a-f]{64}")
DELETING = ".deleting"
OWN_DATA = "data"
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
CHECKPOINT_NAME = re.compile(r"[0-9]+\.json")  # the manifest, which is written last (workers/trainer/checkpoint.py)
INCOMING, PREPARED = "incoming-", ".prepared"
BLOCK_BYTES = 512  # of st_blocks, whatever the disk's own are
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
        return self.root / "files" / f"{_checked('upload', SHA256, sha256)}{PREPARED}"

    def builtin(self, name: str) -> Path:
        """The folder with a built-in set's arrays and schema."""
        return self.builtin_dir / _checked("built-in data set", PLAIN_NAME, name)

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """A new empty file to stream an upload into, on the disk where it will stay; gone at the end unless `keep` took it.

        It is locked meanwhile, which tells it from what a killed process has left.
        """
        folder = self.root / "files"
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=INCOMING, dir=folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)
            os.close(descriptor)

    def sweep(self) -> list[str]:
        """Removes what uploads have left whose process was killed: half files, and arrays of files that were never kept. The
        names of what is gone. Safe beside other processes: theirs are locked."""
        folder = self.root / "files"
        names = os.listdir(folder) if folder.is_dir() else []
        prepared = [name for name in names if SHA256.fullmatch(name.removesuffix(PREPARED)) and name.endswith(PREPARED)]
        gone = [name for name in names if name.startswith(INCOMING) and _removed_unless_locked(folder / name)]
        if any(folder.glob(f"{INCOMING}*")):
            return gone  # an upload is on its way, and these may be its arrays
        for name in prepared:
            if not (folder / name.removesuffix(PREPARED)).exists():
                shutil.rmtree(folder / name)
                gone.append(name)
        return gone

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
        with self.exclusively():
            return _kept(incoming, final)

    def pinned(self) -> list[str]:
        """The SHA-256 of all pinned weights."""
        folder = self.root / "weights"
        return sorted(name for name in os.listdir(folder) if SHA256.fullmatch(name)) if folder.is_dir() else []

    def pinned_at(self, sha256: str) -> datetime | None:
        """When these weights were pinned last, None when they are not."""
        try:
            return datetime.fromtimestamp(self.weights(sha256).stat().st_mtime, UTC)
        except FileNotFoundError:
            return None

    def unpin(self, sha256: str) -> None:
        """Removes pinned weights; a job that starts from them cannot run any more."""
        self.weights(sha256).unlink(missing_ok=True)

    def job(self, job_id: str) -> Path:
        """The folder of one job: all that its trainer may write to."""
        return self.root / "jobs" / _checked("job", JOB_ID, job_id)

    def checkpoints(self, job_id: str) -> Path:
        """Where a job's checkpoints lie."""
        return self.job(job_id) / "checkpoints"

    @staticmethod
    def own_data(door: Path) -> Path:
        """Where the rows lie that a job's own Dataset gave, through the door of an attempt; its trainer makes the folder."""
        return door / OWN_DATA

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

    def has_checkpoint(self, job_id: str) -> bool:
        """Whether there is a checkpoint that an attempt could go on from."""
        folder = self.checkpoints(job_id)
        return folder.is_dir() and any(CHECKPOINT_NAME.fullmatch(name) for name in os.listdir(folder))

    def clear_job(self, job_id: str) -> None:
        """Removes the checkpoints, results and rows that earlier attempts have left; their logs stay."""
        for folder in (self.checkpoints(job_id), self.artifacts(job_id), self.job(job_id) / OWN_DATA):
            _remove(folder)
        self.make_job(job_id)

    # ---- deletions (jobs/deleting.py)

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Keeps every other process and thread out of this block; they wait. What is removed is not made anew meanwhile."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "deleting.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go of when the file is closed, by a crash too
            yield

    def mark(self, sha256_or_job_id: str) -> None:
        """Writes down, safe against a power cut, that the deletion of an upload or of a job's folder has begun."""
        mark = self._mark(sha256_or_job_id)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        _sync_folder(mark.parent)

    def unmark(self, sha256_or_job_id: str) -> None:
        """The deletion is done, or it was refused."""
        self._mark(sha256_or_job_id).unlink(missing_ok=True)

    def marked(self) -> list[str]:
        """The uploads (SHA-256) and jobs (id) whose deletion has begun."""
        places = [place for place in (self.root / "files", self.root / "jobs") if place.is_dir()]
        names = [name.removesuffix(DELETING) for place in places for name in os.listdir(place) if name.endswith(DELETING)]
        return sorted(name for name in names if SHA256.fullmatch(name) or JOB_ID.fullmatch(name))

    def remove(self, sha256_or_job_id: str) -> None:
        """Removes an upload with its arrays, or a job's folder. Raises OSError."""
        if JOB_ID.fullmatch(sha256_or_job_id):
            _remove(self.job(sha256_or_job_id))
        else:
            _remove(self.file(sha256_or_job_id))
            _remove(self.prepared(sha256_or_job_id))

    def size_of(self, sha256_or_job_id: str) -> int:
        """Bytes on disk of an upload with its arrays, or of a job's folder."""
        if JOB_ID.fullmatch(sha256_or_job_id):
            return bytes_on_disk(self.job(sha256_or_job_id))
        return bytes_on_disk(self.file(sha256_or_job_id)) + bytes_on_disk(self.prepared(sha256_or_job_id))

    def _mark(self, sha256_or_job_id: str) -> Path:
        path = self.job(sha256_or_job_id) if JOB_ID.fullmatch(sha256_or_job_id) else self.file(sha256_or_job_id)
        return path.with_name(path.name + DELETING)


def bytes_on_disk(path: Path) -> int:
    """What a file or a folder with all that is in it takes, without following links; 0 when there is none."""
    total = 0
    with suppress(FileNotFoundError):
        total += path.lstat().st_blocks * BLOCK_BYTES
        if path.is_dir() and not path.is_symlink():
            total += sum(bytes_on_disk(child) for child in path.iterdir())
    return total


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


def _removed_unless_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


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
