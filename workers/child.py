"""The supervisor's end of one trainer process: its messages, and how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import socket
from collections.abc import Callable

from workers.protocol import Decoder, Message, ProtocolError, Stop, Stored, encode

RECEIVE_BYTES = 2**20
# A child that reads nothing gets no more than this kept for it. It is thousands of our small messages.
MAX_UNSENT_BYTES = 2**18


@dataclasses.dataclass(frozen=True)
class Exit:
    """How a process ended: a status of its own, or the signal that killed it."""

    status: int | None = None
    signal: int | None = None
    note: str = ""

    def sentence(self) -> str:
        """For the job's events and its failure message."""
        if self.signal is None:
            text = f"the trainer process ended with status {self.status} and without a last word"
        else:
            text = f"the trainer process was killed by {signal_name(self.signal)}"
        return f"{text} ({self.note})" if self.note else text


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Child:
    """One running trainer. Nothing here ever waits for it.

    `exit` stays None until the launcher has learned how the process ended; bytes it wrote before may still be unread then.
    """

    def __init__(self, pid: int, sock: socket.socket, kill: Callable[[], None]) -> None:
        sock.setblocking(False)
        self.pid = pid
        self.socket = sock
        self.exit: Exit | None = None
        self.closed = False  # the other end of the channel
        self._kill = kill
        self._decoder = Decoder()
        self._unsent = bytearray()

    def receive(self) -> list[Message]:
        """What has arrived. Sets `closed` at the end of the stream. Raises ProtocolError on anything else than frames."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except ConnectionError:
            data = b""
        self.closed = not data
        return self._decoder.feed(data)

    def drain(self) -> list[Message]:
        """All that has arrived. For a process that has ended: a grandchild may hold the channel open for ever."""
        messages: list[Message] = []
        while received := self.receive():
            messages += received
        return messages

    def send(self, message: Stop | Stored) -> None:
        """Queues the message. Raises ProtocolError when the child has long read nothing."""
        self._unsent += encode(message)
        self.flush()
        if len(self._unsent) > MAX_UNSENT_BYTES:
            raise ProtocolError("the trainer process does not read its messages")

    @property
    def unsent(self) -> int:
        """Bytes that wait for room in the channel."""
        return len(self._unsent)

    def flush(self) -> None:
        """Sends what there is room for."""
        try:
            while self._unsent:
                del self._unsent[: self.socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()  # it is gone; its exit is reported by the launcher

    def kill(self) -> None:
        """SIGKILL to the process and to all that it started."""
        if self.exit is None:
            self._kill()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()
