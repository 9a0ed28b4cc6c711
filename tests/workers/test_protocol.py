"""Frames survive any way of being cut up, and nothing but a frame passes."""

from __future__ import annotations

import json
import math
import socket
from typing import Any

import numpy as np
import pytest

from workers.child import MAX_UNSENT_BYTES, Child
from workers.protocol import (
    HEADER,
    MAX_BINARY_BYTES,
    Channel,
    Checkpointed,
    Decoder,
    Ended,
    Incident,
    Message,
    Points,
    ProtocolError,
    Started,
    Stop,
    Stored,
    encode,
)
from workers.watch import joined

MESSAGES: list[Message] = [
    Started({"torch": "2"}, {"loss": {}}, {"total": 3, "trainable": 3}, 10, 320, 0, ["a note"]),
    Checkpointed(5, 1),
    Incident("rolled_back", "back to iteration 3", 7, [12, 4], back_to=3),
    Ended("failed", "error", "naïve \udc80".encode("utf-8", "replace").decode(), "/model"),
    Stop("cancel"),
    Stored(7),
]


def points(**series: tuple[list[int], list[float]]) -> Points:
    arrays = {name: (np.array(s, np.int64), np.array(v, np.float64)) for name, (s, v) in series.items()}
    return Points(arrays, epoch=1, iteration=9, samples_per_second=None)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_messages_arrive_however_the_bytes_are_cut(size: int) -> None:
    data = b"".join(encode(m) for m in MESSAGES)
    decoder = Decoder()
    received = [m for i in range(0, len(data), size) for m in decoder.feed(data[i : i + size])]
    assert received == MESSAGES


def test_values_keep_every_bit() -> None:
    values = [0.1, -0.0, 5e-324, math.inf, -math.inf, math.nan]
    (received,) = Decoder().feed(encode(points(loss=([1, 2, 3, 4, 5, 2**62], values), lr=([1], [1e-4]))))
    assert isinstance(received, Points)
    steps, got = received.series["loss"]
    assert got.tobytes() == np.array(values).tobytes()
    assert steps.tolist() == [1, 2, 3, 4, 5, 2**62]
    assert received.series["lr"][1].tolist() == [1e-4]


def frame(fields: Any, binary: bytes = b"") -> bytes:
    text = json.dumps(fields).encode()
    return HEADER.pack(len(text), len(binary)) + text + binary


@pytest.mark.parametrize(
    "data",
    [
        HEADER.pack(0, 0),
        HEADER.pack(10, MAX_BINARY_BYTES + 1),
        frame([]),
        frame("stop"),
        frame({"kind": "unknown"}),
        frame({"kind": ["stop"]}),
        frame({"kind": "stop"}),
        frame({"kind": "stop", "why": "x", "more": 1}),
        frame({"kind": "points", "series": {"a": 5}, "epoch": 1, "iteration": 1, "samples_per_second": None}, b"short"),
        frame({"kind": "points", "series": [1], "epoch": 1, "iteration": 1, "samples_per_second": None}),
        HEADER.pack(2, 0) + b"\xff\xfe",
    ],
)
def test_anything_else_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Decoder().feed(data)


@pytest.mark.parametrize(
    "incident",
    [
        Incident("told", "x", 1),
        Incident("skipped", "x", -1),
        Incident("skipped", "x", 2**63),
        Incident("skipped", "x", 1.5),  # type: ignore[arg-type]
        Incident("skipped", 7, 1),  # type: ignore[arg-type]
        Incident("skipped", "x", 1, ["a"]),  # type: ignore[list-item]
        Incident("skipped", "x", 1, {"a": 1}),  # type: ignore[arg-type]
        Incident("skipped", "x", 1, list(range(11))),
        Incident("skipped", "x", 1, back_to=0),
        Incident("rolled_back", "x", 1),
        Incident("rolled_back", "x", 1, back_to=True),
        Incident(["rolled_back"], "x", 1),  # type: ignore[arg-type]
    ],
)
def test_an_incident_is_not_believed_as_it_comes(incident: Incident) -> None:
    with pytest.raises(ProtocolError):
        incident.check()


def test_neighbouring_points_become_one_series_each() -> None:
    series = joined([points(a=([1], [1.0])), points(a=([2, 3], [2.0, 3.0]), b=([3], [0.5]))])
    assert {name: (s.tolist(), v.tolist()) for name, (s, v) in series.items()} == {
        "a": ([1, 2, 3], [1.0, 2.0, 3.0]),
        "b": ([3], [0.5]),
    }


def test_a_child_that_reads_nothing_cannot_fill_our_memory() -> None:
    ours, theirs = socket.socketpair()
    child = Child(0, ours, lambda: None)
    for iteration in range(100_000):
        if child.unsent > MAX_UNSENT_BYTES - 100:
            break
        child.send(Stored(iteration))
    with pytest.raises(ProtocolError):
        child.send(Stop("x" * 100))
    theirs.close()
    assert child.unsent < 2 * MAX_UNSENT_BYTES
    child.close()


def test_a_channel_that_was_closed_says_so() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(theirs)
    assert channel.poll() == []
    ours.send(encode(Stop("cancel")))
    assert channel.wait() == [Stop("cancel")]
    ours.close()
    with pytest.raises(EOFError):
        channel.poll()
    theirs.close()
