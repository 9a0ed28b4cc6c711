"""The trainer's side of the talk with its supervisor: what leaves, what must have been stored, and when to stop."""

from __future__ import annotations

import time
from collections.abc import Iterable

from workers.protocol import Channel, Incident, Message, Points, Stop, Stored

POLL_SECONDS = 0.02


class SupervisorGone(Exception):
    """The channel is closed: this attempt is nobody's, and nothing more may be changed."""


class Control:
    """Sends messages, remembers what came back, and knows the job's deadline."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._deadline: float | None = None  # by time.monotonic()
        self._why: str | None = None
        self._sent = self._stored = 0  # iterations
        self._polled_at = 0.0

    def stop_after(self, seconds: float) -> None:
        """From `seconds` on (counted from now), `should_stop` answers "timeout"."""
        self._deadline = time.monotonic() + seconds

    def send(self, message: Message) -> None:
        """Raises SupervisorGone."""
        try:
            self._channel.send(message)
        except OSError as error:
            raise SupervisorGone(str(error)) from error
        if isinstance(message, Points):
            self._sent = message.iteration

    def went_back(self, incident: Incident) -> None:
        """Tells of a rollback; the points behind it are to come again. Call `settle` first. Raises SupervisorGone."""
        assert incident.back_to is not None
        self.send(incident)
        self._sent = self._stored = incident.back_to

    def should_stop(self) -> str | None:
        """None, "cancel", "pause", "give_back" or "timeout"; looks at the channel every POLL_SECONDS. Raises SupervisorGone."""
        now = time.monotonic()
        if now - self._polled_at >= POLL_SECONDS:
            self._polled_at = now
            self._receive(wait=False)
        if self._why is None and self._deadline is not None and now >= self._deadline:
            return "timeout"
        return self._why

    def settle(self) -> None:
        """Blocks until every point that was sent is stored. Raises SupervisorGone."""
        while self._stored < self._sent:
            self._receive(wait=True)

    def _receive(self, *, wait: bool) -> None:
        try:
            messages: Iterable[Message] = self._channel.wait() if wait else self._channel.poll()
        except (EOFError, OSError) as error:
            raise SupervisorGone(str(error)) from error
        for message in messages:
            if isinstance(message, Stored):
                self._stored = max(self._stored, message.iteration)
            elif isinstance(message, Stop) and self._why != "cancel":  # a cancel is not taken back by another stop
                self._why = message.why
