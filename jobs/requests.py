"""What a user may ask of a job: cancel, pause, resume, retry, delete. jobs/states.py has the table of when each is taken.

A running job is only asked: its process stops first, and then its worker makes the move (jobs/queue.py). Each method takes
`versions`, those of which the job must have one now, else VersionDiffers; None is any. Each is one transaction, so that of two
requests that collide the second meets what the first has done.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa

from jobs import series
from jobs import tables as t
from jobs.database import writing
from jobs.errors import VersionDiffers, WrongState
from jobs.moves import Row, add_event, change, locked, move, name_files, now
from jobs.queue import Queue
from jobs.reading import to_jobs
from jobs.records import Job
from jobs.replies import Answered
from jobs.states import (
    CANCEL,
    CANCELLED,
    DELETE,
    PAUSE,
    PAUSED,
    QUEUED,
    RESUME,
    RETRY,
    RUNNING,
    SUCCEEDED,
    Request,
    ended,
    transition,
)

Versions = Collection[int] | None

BEING_CANCELLED = "its cancel has been asked for, and is not taken back"
FROM_CHECKPOINT = "a retry from the checkpoint"
NOTHING_LEFT = "every epoch is done and nothing is left to train; retry it from the start"
NO_CHECKPOINT = "it has no checkpoint; retry it from the start"
AFRESH = {"environment": None, "started_at": None, "device": None, "epoch": 0, "iteration": 0}
AS_NEW = {"attempts_spent": 0, "cancel_requested_at": None, "finished_at": None} | dict.fromkeys(
    ("failure_reason", "failure_message", "failure_pointer")
)


class Requests(Queue):
    """Jobs as their users change them."""

    def request_cancel(self, job_id: str, versions: Versions = None) -> Job:
        """A queued or paused job is cancelled at once, a running one when its process has stopped; an ended one stays as it is.
        Safe to repeat. Raises UnknownJob and VersionDiffers."""
        with writing(self.engine) as connection:
            row = _asked(connection, job_id, CANCEL, versions)
            if row["cancel_requested_at"] is None and not ended(row["state"]):
                row = _cancel(connection, row)
            return to_jobs(connection, [row])[0]

    def request_pause(self, job_id: str, versions: Versions = None) -> Job:
        """A queued job is paused at once, a running one when its process has saved its place and stopped. Safe to repeat.

        Raises UnknownJob, VersionDiffers and WrongState.
        """
        with writing(self.engine) as connection:
            row = _asked(connection, job_id, PAUSE, versions)
            if row["cancel_requested_at"] is not None:
                raise WrongState(PAUSE.name, row["state"], BEING_CANCELLED)
            if row["pause_requested_at"] is None:
                row = _pause(connection, row)
            return to_jobs(connection, [row])[0]

    def resume(self, job_id: str, versions: Versions = None) -> Job:
        """A paused job goes back to the queue. A pause that a running job has not come to yet is taken back: the job runs on,
        or, if its process was stopping already, goes back to the queue. Safe to repeat.

        Raises UnknownJob, VersionDiffers and WrongState.
        """
        with writing(self.engine) as connection:
            row = _asked(connection, job_id, RESUME, versions)
            if row["cancel_requested_at"] is not None:
                raise WrongState(RESUME.name, row["state"], BEING_CANCELLED)
            if row["pause_requested_at"] is not None:
                row = _resume(connection, row)
            return to_jobs(connection, [row])[0]

    def retry(
        self,
        job_id: str,
        *,
        from_checkpoint: bool,
        files: Sequence[str] = (),
        versions: Versions = None,
        answered: Answered[Job] | None = None,
    ) -> Job:
        """An ended job goes back to the queue with all its attempts, under its id and in its place in line.

        From the start its curve is emptied, and the next attempt removes what the ones before left on disk. From the checkpoint
        it goes on as after any stop. `files` are the uploads that its spec names.

        Raises UnknownJob, VersionDiffers, WrongState, AnsweredMeanwhile, and UnknownFile when one of `files` was deleted.
        """
        with writing(self.engine) as connection:
            row = _asked(connection, job_id, RETRY, versions)
            name_files(connection, job_id, files)
            step, itself = transition(row["state"], QUEUED), t.jobs.c.id == job_id
            if from_checkpoint:
                _check_unfinished(row)
                row = _told(move(connection, itself, step, "to go on from its last checkpoint", **AS_NEW))
            else:
                series.drop_after(connection, job_id, 0)
                row = _told(move(connection, itself, step, "to run again from the start", **AS_NEW, **AFRESH))
            job = to_jobs(connection, [row])[0]
            if answered is not None:
                answered.keep(connection, job)
            return job

    def delete_job(self, job_id: str, versions: Versions = None) -> None:
        """Forgets the job, its events and its curve; its folder is jobs/deleting.py's to remove.

        Raises UnknownJob, VersionDiffers and WrongState.
        """
        with writing(self.engine) as connection:
            _asked(connection, job_id, DELETE, versions)
            connection.execute(sa.delete(t.jobs).where(t.jobs.c.id == job_id))


def _asked(connection: sa.Connection, job_id: str, request: Request, versions: Versions) -> Row:
    """The job's row, held, if the request is taken in its state."""
    row = locked(connection, job_id)
    if versions is not None and row["version"] not in versions:
        raise VersionDiffers(job_id)
    if row["state"] not in request.taken_in:
        raise WrongState(request.name, row["state"], request.otherwise)
    return row


def _check_unfinished(row: Row) -> None:
    if row["state"] == SUCCEEDED:
        raise WrongState(FROM_CHECKPOINT, SUCCEEDED, NOTHING_LEFT)
    if row["environment"] is None:  # no attempt has come to its first iteration since the job was made or retried
        raise WrongState(FROM_CHECKPOINT, row["state"], NO_CHECKPOINT)


def _told(changed: Row | None) -> Row:
    assert changed is not None  # the row is held, so nobody has moved it since it was looked at
    return changed


def _cancel(connection: sa.Connection, row: Row) -> Row:
    itself, asked = t.jobs.c.id == row["id"], now()
    if row["state"] == RUNNING:
        add_event(connection, row["id"], "cancel_requested", "a cancel was asked for", attempt=row["attempt"])
        return _told(change(connection, itself, cancel_requested_at=asked))
    message = "cancelled before it ran" if row["state"] == QUEUED else "cancelled while it was paused"
    values = {"cancel_requested_at": asked, "pause_requested_at": None, "finished_at": asked}
    return _told(move(connection, itself, transition(row["state"], CANCELLED), message, **values))


def _pause(connection: sa.Connection, row: Row) -> Row:
    itself, asked = t.jobs.c.id == row["id"], now()
    if row["state"] == RUNNING:
        add_event(connection, row["id"], "pause_requested", "a pause was asked for", attempt=row["attempt"])
        return _told(change(connection, itself, pause_requested_at=asked))
    return _told(move(connection, itself, transition(QUEUED, PAUSED), "paused in the queue", pause_requested_at=asked))


def _resume(connection: sa.Connection, row: Row) -> Row:
    itself = t.jobs.c.id == row["id"]
    if row["state"] == RUNNING:
        add_event(connection, row["id"], "pause_withdrawn", "the pause was taken back", attempt=row["attempt"])
        return _told(change(connection, itself, pause_requested_at=None))
    return _told(move(connection, itself, transition(PAUSED, QUEUED), "to go on where it stands", pause_requested_at=None))
