"""The states of a job and the moves between them, as data. SQL guards, CHECK constraints and the docs are made from this."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.errors import ForbiddenTransition

QUEUED = "queued"
RUNNING = "running"
PAUSED = "paused"
SUCCEEDED = "succeeded"
FAILED = "failed"
CANCELLED = "cancelled"

STATES = (QUEUED, RUNNING, PAUSED, SUCCEEDED, FAILED, CANCELLED)
ENDED = (SUCCEEDED, FAILED, CANCELLED)

REASONS = ("error", "diverged", "invalid_spec", "invalid_data", "out_of_memory", "timeout", "crashed", "worker_lost")
# These end an attempt, not the job: it goes back to the queue while attempts are left.
REASONS_OF_AN_ATTEMPT = ("crashed", "worker_lost", "out_of_memory")


@dataclass(frozen=True)
class Transition:
    """One allowed move. `name` is the kind of the event that tells of it."""

    name: str
    before: str
    after: str
    cause: str


TRANSITIONS = (
    Transition("claimed", QUEUED, RUNNING, "a worker with a fitting free device took the oldest job"),
    Transition("requeued", RUNNING, QUEUED, "the attempt ended by no fault of the job and attempts are left"),
    Transition(
        "given_back",
        RUNNING,
        QUEUED,
        "the worker was told to stop or cannot write its files, or a pause was taken back late; uses up no attempt",
    ),
    Transition("succeeded", RUNNING, SUCCEEDED, "the last epoch is done"),
    Transition("failed", RUNNING, FAILED, "the trainer failed, or no attempts are left"),
    Transition("cancelled", RUNNING, CANCELLED, "a cancel was asked for and the trainer has stopped"),
    Transition("cancelled", QUEUED, CANCELLED, "a cancel was asked for before it ran"),
    Transition("cancelled", PAUSED, CANCELLED, "a cancel was asked for while it was paused"),
    Transition(
        "paused", RUNNING, PAUSED, "a pause was asked for and the trainer has stopped; uses up no attempt unless it crashed"
    ),
    Transition("paused", QUEUED, PAUSED, "a pause was asked for before it ran"),
    Transition("resumed", PAUSED, QUEUED, "it is to go on where it stands; uses up no attempt"),
    Transition("retried", SUCCEEDED, QUEUED, "it is to run again, with all its attempts"),
    Transition("retried", FAILED, QUEUED, "it is to run again, with all its attempts"),
    Transition("retried", CANCELLED, QUEUED, "it is to run again, with all its attempts"),
)


@dataclass(frozen=True)
class Request:
    """What a user may ask of a job in the states `taken_in`. In others it is refused, and `otherwise` says what is right."""

    name: str
    taken_in: tuple[str, ...]
    otherwise: str


# One that asks for what is so already is taken, and changes nothing.
CANCEL = Request("cancel", STATES, "")
PAUSE = Request("pause", (QUEUED, RUNNING, PAUSED), "only a job that has not ended can be paused")
RESUME = Request("resume", (QUEUED, RUNNING, PAUSED), "a job that has ended is run again by a retry")
RETRY = Request("retry", ENDED, "only a job that has ended can be retried")
DELETE = Request("delete", (QUEUED, PAUSED, *ENDED), "cancel or pause it first, and delete it once it has stopped")

REQUESTS = (CANCEL, PAUSE, RESUME, RETRY, DELETE)


def transition(before: str, after: str, name: str | None = None) -> Transition:
    """The allowed move between two states; `name` tells two with the same ends apart. Raises ForbiddenTransition."""
    for row in TRANSITIONS:
        if (row.before, row.after) == (before, after) and name in (None, row.name):
            return row
    raise ForbiddenTransition(before, after)


def ended(state: str) -> bool:
    """Whether a job in this state is over: only a retry lets it run again."""
    return state in ENDED


def one_of(column: str, values: tuple[str, ...]) -> str:
    """The SQL text `column IN ('a', 'b')` for a CHECK constraint."""
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


def checks() -> dict[str, str]:
    """The CHECK constraints of the jobs table, by name: a row that breaks the table above cannot be stored."""
    return {
        "state": one_of("state", STATES),
        "reason": f"failure_reason IS NULL OR {one_of('failure_reason', REASONS)}",
        "failed_has_reason": f"(state = '{FAILED}') = (failure_reason IS NOT NULL)",
        "ended_has_time": f"({one_of('state', ENDED)}) = (finished_at IS NOT NULL)",
        "running_has_attempt": f"state <> '{RUNNING}' OR attempt > 0",
        "attempts": "attempts_spent >= 0 AND attempts_spent <= attempt AND max_attempts > 0",
    }
