"""What the supervisor and a trainer child say to each other: frames over one socket pair.

A frame is an 8-byte little-endian header (two uint32: length of the JSON part, length of the binary part), the JSON part and
the binary part. Curve points travel as raw little-endian arrays, so that no loss value is ever turned into text and back.
Nothing here is pickled: the child may be hostile (its model file was a stranger's).
"""

from __future__ import annotations

import dataclasses
import json
import socket
import struct
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from jobs.profiles import PLAIN

HEADER = struct.Struct("<II")
MAX_JSON_BYTES = 16 * 2**20
MAX_BINARY_BYTES = 64 * 2**20

Steps = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
Series = Mapping[str, tuple[Steps, Values]]


MAX_INCIDENT_ROWS = 10
INCIDENTS = ("skipped", "rolled_back", "exploding", "checkpoint_failed")


class ProtocolError(Exception):
    """The other side sent something that is not a frame of this protocol."""


@dataclasses.dataclass(frozen=True)
class Assignment:
    """One attempt at one job: everything a trainer child is told. Paths are chosen by the supervisor, never by the spec."""

    job_id: str
    attempt: int
    spec: str  # the stored long-form JSON text
    device: str  # "cpu" or "cuda:<index>"
    threads: int  # for torch.set_num_threads
    dataset: str  # folder that holds schema.json and the arrays (workers/trainer/formats/prepared.py), or will from source_file
    job_folder: str  # holds checkpoints/ and artifacts/; the path is gone once another attempt has the job
    profile: str = PLAIN  # the sandbox it trains under, "plain" or "strict"
    model_file: str | None = None  # an upload that holds the model, where the spec names one
    source_file: str | None = None  # an upload that holds the data set as Python
    memory_bytes: int = 0  # of address space and of disk, bounds under strict
    disk_bytes: int = 0
    init_from: str | None = None  # file of the weights to start from, pinned when the job was made
    environment: dict[str, Any] | None = None  # as recorded by the first attempt; None at the first


@dataclasses.dataclass(frozen=True)
class Started:
    """The four steps are built and the first iteration is next."""

    kind: ClassVar[str] = "started"
    environment: dict[str, Any]
    effective_spec: dict[str, Any]
    parameters: dict[str, int]  # {"total", "trainable"}
    iterations: int  # of the whole run
    samples: int  # rows that the whole run trains on, each as often as it is used
    resumed_from: int  # iteration of the checkpoint, 0 for a fresh start: points after it are to be dropped
    notes: list[str]  # sentences for the job's events, such as a changed environment


@dataclasses.dataclass(frozen=True)
class Points:
    """New points of the curve, and where the run stands after them."""

    kind: ClassVar[str] = "points"
    series: Series
    epoch: int
    iteration: int
    samples_per_second: float | None


@dataclasses.dataclass(frozen=True)
class Checkpointed:
    """A checkpoint is on disk under its final name."""

    kind: ClassVar[str] = "checkpointed"
    iteration: int
    epoch: int


@dataclasses.dataclass(frozen=True)
class Incident:
    """Something that happened at `iteration`: to the numbers, "skipped", "rolled_back" or "exploding"; or "checkpoint_failed".

    `rows` are the first of the batch's rows, counted from 1. With `back_to` the run goes on after that iteration: the points
    after it are to be dropped, all of which have been stored.
    """

    kind: ClassVar[str] = "incident"
    event: str
    text: str
    iteration: int
    rows: list[int] = dataclasses.field(default_factory=list)
    back_to: int | None = None

    def check(self) -> None:
        """Raises ProtocolError unless every field is what it should be: the child may be hostile."""
        numbers = (self.iteration, *(self.rows if isinstance(self.rows, list) else ["not a list"]), self.back_to or 0)
        whole = all(type(n) is int and 0 <= n < 2**63 for n in numbers)
        goes_back = (self.back_to is not None) == (self.event == "rolled_back")
        if self.event not in INCIDENTS or not isinstance(self.text, str) or not (whole and goes_back):
            raise ProtocolError(f"not an incident: {repr(self)[:200]}")
        if len(self.rows) > MAX_INCIDENT_ROWS:
            raise ProtocolError(f"an incident of {len(self.rows)} rows; at most {MAX_INCIDENT_ROWS} are named")


@dataclasses.dataclass(frozen=True)
class Ended:
    """The trainer's last word. `state` is succeeded, failed, cancelled or, once its place is saved, paused after Stop("pause")
    and given_back after Stop("give_back").

    `reason` is of the closed list in jobs/states.py.
    """

    kind: ClassVar[str] = "ended"
    state: str
    reason: str | None = None
    message: str | None = None
    pointer: str | None = None


@dataclasses.dataclass(frozen=True)
class Stop:
    """Supervisor to child: stop at the next iteration. why: "cancel"; "pause" or "give_back": checkpoint first."""

    kind: ClassVar[str] = "stop"
    why: str


@dataclasses.dataclass(frozen=True)
class Stored:
    """Supervisor to child: every point up to and with this iteration is in the database.

    The child renames a checkpoint into place only after this, so that no checkpoint is ever ahead of its curve.
    """

    kind: ClassVar[str] = "stored"
    iteration: int


Message = Started | Points | Checkpointed | Incident | Ended | Stop | Stored
KINDS: dict[str, type[Any]] = {m.kind: m for m in (Started, Points, Checkpointed, Incident, Ended, Stop, Stored)}


def suspect_of(spec: str) -> str:
    """What a user may try first when the memory was not enough, from the spec's stored text."""
    return f"batch_size {json.loads(spec).get('batch_size')} is the first suspect: try a smaller one"


def encode(message: Message) -> bytes:
    """One frame. Raises TypeError when a field is not JSON."""
    fields = {f.name: getattr(message, f.name) for f in dataclasses.fields(message)}
    binary = b""
    if isinstance(message, Points):
        fields["series"] = {name: len(steps) for name, (steps, _) in message.series.items()}
        binary = b"".join(
            steps.astype("<i8").tobytes() + values.astype("<f8").tobytes() for steps, values in message.series.values()
        )
    text = json.dumps({"kind": message.kind, **fields}, allow_nan=False).encode()
    return HEADER.pack(len(text), len(binary)) + text + binary


class Decoder:
    """Collects bytes as they come and gives whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that these bytes complete. Raises ProtocolError on a frame that is too large or malformed."""
        self._buffer += data
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    def _next(self) -> Message | None:
        if len(self._buffer) < HEADER.size:
            return None
        text_size, binary_size = HEADER.unpack_from(self._buffer)
        if text_size > MAX_JSON_BYTES or binary_size > MAX_BINARY_BYTES:
            raise ProtocolError(f"a frame of {text_size} + {binary_size} bytes is over the limit")
        end = HEADER.size + text_size + binary_size
        if len(self._buffer) < end:
            return None
        text = bytes(self._buffer[HEADER.size : HEADER.size + text_size])
        binary = bytes(self._buffer[HEADER.size + text_size : end])
        del self._buffer[:end]
        return _decode(text, binary)


def _decode(text: bytes, binary: bytes) -> Message:
    try:
        fields = json.loads(text)
        kind = KINDS[fields.pop("kind")]
        if kind is Points:
            fields["series"] = _series(fields["series"], binary)
        message: Message = kind(**fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"not a message of this protocol: {error}") from error
    return message


def _series(lengths: dict[str, int], binary: bytes) -> Series:
    series: dict[str, tuple[Steps, Values]] = {}
    offset = 0
    for name, length in lengths.items():
        steps = np.frombuffer(binary, "<i8", length, offset).astype(np.int64)
        values = np.frombuffer(binary, "<f8", length, offset + 8 * length).astype(np.float64)
        offset += 16 * length
        series[name] = (steps, values)
    return series


class Channel:
    """The child's end of the socket pair: blocking sends, polled receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._decoder = Decoder()

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        return cls(socket.socket(fileno=fd))

    def send(self, message: Message) -> None:
        """Raises OSError when the supervisor is gone."""
        self._socket.sendall(encode(message))

    def poll(self) -> list[Message]:
        """What has arrived, without waiting. Raises EOFError when the supervisor is gone."""
        try:
            data = self._socket.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        return self._received(data)

    def wait(self) -> list[Message]:
        """Blocks until something arrives. Raises EOFError when the supervisor is gone."""
        return self._received(self._socket.recv(65536))

    def _received(self, data: bytes) -> list[Message]:
        if not data:
            raise EOFError("the supervisor closed the channel")
        return self._decoder.feed(data)
