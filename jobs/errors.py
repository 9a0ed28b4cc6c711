"""What can go wrong in the store: each class reads as a sentence, all have one base, app/ maps them to HTTP in one place."""

from __future__ import annotations


class JobsError(Exception):
    """Base of everything that the store and the data folder raise on purpose."""


class UnknownJob(JobsError):
    """There is no job with this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id!r}")
        self.job_id = job_id


class UnknownFile(JobsError):
    """There is no file with this id."""

    def __init__(self, file_id: str) -> None:
        super().__init__(f"there is no file {file_id!r}")
        self.file_id = file_id


class UnknownKey(JobsError):
    """There is no API key with this id."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no key {key_id!r}")
        self.key_id = key_id


class KeyReused(JobsError):
    """This idempotency key has come with another request before."""


class AnsweredMeanwhile(JobsError):
    """Another request with the same idempotency key was answered first; this one has changed nothing."""


class UnknownWorker(JobsError):
    """No worker is registered under this id (it was stopped, or was silent for so long that it was forgotten)."""

    def __init__(self, worker_id: str) -> None:
        super().__init__(f"there is no worker {worker_id!r}")
        self.worker_id = worker_id


class QueueFull(JobsError):
    """As many jobs wait as may."""

    def __init__(self, most: int) -> None:
        super().__init__(f"{most} jobs wait already, and no more may")


class CurveFull(JobsError):
    """The curve would grow beyond its bounds. Nothing of the append was stored."""


class LostLease(JobsError):
    """This attempt no longer holds the job: its lease ran out, or the job has ended. Whoever wrote must stop."""

    def __init__(self, job_id: str, attempt: int) -> None:
        super().__init__(f"attempt {attempt} no longer holds job {job_id!r}")
        self.job_id = job_id
        self.attempt = attempt


class ForbiddenTransition(JobsError):
    """The table in jobs/states.py has no such transition."""

    def __init__(self, before: str, after: str) -> None:
        super().__init__(f"a job cannot go from {before!r} to {after!r}")


class WrongState(JobsError):
    """The job's state does not allow what was asked of it; the sentence says what would be right."""

    def __init__(self, request: str, state: str, sentence: str) -> None:
        super().__init__(f"the job is {state}, so {request} is refused: {sentence}")


class VersionDiffers(JobsError):
    """The job has changed since its reader, who wanted it unchanged, looked at it."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id!r} has changed since it was read")


class FileInUse(JobsError):
    """A job that has not ended names the file."""

    def __init__(self, file_id: str, job_id: str) -> None:
        super().__init__(f"file {file_id!r} is named by job {job_id!r}, which has not ended: cancel it, or wait for its end")


class UnsafeName(JobsError):
    """This is not a name that the data folder gives out, so no path is made of it."""

    def __init__(self, what: str, name: str) -> None:
        super().__init__(f"{name!r} is not the name of a {what}")


class DatabaseUnfit(JobsError):
    """This database cannot hold the queue, for the reason given."""
