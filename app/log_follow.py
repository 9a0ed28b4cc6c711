"""Following the log of a job, attempt after attempt, line by line."""

from __future__ import annotations

import os

from jobs.errors import UnsafeName
from jobs.files import DataFolder

READ_BYTES = 65536


class LogFollower:
    """Whole lines of a job's log as they are written.

    It begins READ_BYTES before the end of what is there, or with `only_new` at the end.
    """

    def __init__(self, folder: DataFolder, job_id: str, attempt: int, *, only_new: bool) -> None:
        self._folder, self._job_id, self._attempt = folder, job_id, attempt
        size = log_size(folder, job_id, attempt)
        self._offset = size if only_new else max(0, size - READ_BYTES)
        self._in_mid_line = not only_new and self._offset > 0
        self._rest = b""

    def read(self, attempt: int, *, final: bool) -> tuple[list[str], bool]:
        """The next lines, and whether to come back at once for more. `attempt` is the job's present one; `final` says that
        nothing more will be written, so that an unfinished last line counts too."""
        finished = final or attempt != self._attempt
        data = self._next_bytes()
        more = len(data) == READ_BYTES
        lines = self._lines(data, flush=finished and not more)
        if not more and attempt != self._attempt:
            self._attempt, self._offset, more = self._attempt + 1, 0, True
        return lines, more

    def _next_bytes(self) -> bytes:
        try:
            with self._folder.log(self._job_id, self._attempt).open("rb") as log:
                # Its middle may have been cut out (workers/log_bound.py): then go on at its end.
                self._offset = min(self._offset, log.seek(0, os.SEEK_END))
                log.seek(self._offset)
                data = log.read(READ_BYTES)
        except (FileNotFoundError, UnsafeName):
            return b""
        self._offset += len(data)
        return data

    def _lines(self, data: bytes, *, flush: bool) -> list[str]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        if self._in_mid_line and whole:
            self._in_mid_line = False
            del whole[0]  # its beginning was not read
        if self._rest and (flush or len(self._rest) > READ_BYTES):
            whole.append(self._rest)
            self._rest = b""
        return [line.decode("utf-8", "replace").rstrip("\r") for line in whole]


def log_size(folder: DataFolder, job_id: str, attempt: int) -> int:
    """Bytes in the log of an attempt; 0 when there is none."""
    try:
        return folder.log(job_id, attempt).stat().st_size
    except (FileNotFoundError, UnsafeName):
        return 0
