"""GET /v1/jobs/{id}/stream, by a real server and a real client."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import callers, streams
from tests.app.curve_server import LOSS, CurveServer, Event, steps_of, until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CurveServer]:
    running = CurveServer(tmp_path)
    yield running
    running.close()


def test_an_ended_job_is_replayed_whole_and_the_stream_closes(server: CurveServer) -> None:
    job = server.running_job()
    server.append(job, 1, 5001)
    server.append(job, 5000, 5001, name="val/loss")
    server.write_log(job, 1, "epoch 1\nepoch 2")
    server.store.finish(job, 1, "succeeded")
    with server.stream(job) as stream:
        seen = list(stream)
    assert steps_of(seen) == list(range(1, 5001))
    assert steps_of(seen, "val/loss") == [5000]
    assert [event.data["status"] for event in seen if event.name == "status"] == ["succeeded"]
    assert [line for event in seen if event.name == "log" for line in event.data["lines"]] == ["epoch 1", "epoch 2"]
    assert (seen[-1].name, seen[-1].data) == ("end", {"status": "succeeded"})
    ids = [event.id for event in seen if event.id]
    assert ids[-1] == server.client.get(f"/v1/jobs/{job}/metrics").json()["cursor"]


def test_new_points_status_and_lines_arrive_as_they_are_written(server: CurveServer) -> None:
    job = server.running_job()
    with server.stream(job) as stream:
        assert until(stream, "status")[-1].data["status"] == "running"
        server.append(job, 1, 3)
        metrics = until(stream, "metrics")[-1].data
        assert metrics["series"][0]["values"] == [1.0, 0.5]
        assert metrics["series"][0]["last"] == {"step": 2, "value": 0.5}
        server.write_log(job, 1, "half a li")
        server.append(job, 3, 4)
        until(stream, "metrics")
        server.write_log(job, 1, "ne\r\nrest")
        assert until(stream, "log")[-1].data == {"lines": ["half a line"]}
        server.store.progressed(job, 1, epoch=1, iteration=3)
        assert until(stream, "status")[-1].data["progress"]["iteration"] == 3
        server.append(job, 4, 6)
        server.store.finish(job, 1, "cancelled")
        last = until(stream, "end")
        assert [event.name for event in last if event.name != "log"] == ["metrics", "status", "end"]
        assert steps_of(last) == [4, 5]
        assert list(stream) == []


def test_a_listener_goes_on_behind_its_last_event_id_even_after_a_restart(server: CurveServer) -> None:
    job = server.running_job()
    server.append(job, 1, 11)
    server.write_log(job, 1, "old\n")
    with server.stream(job) as stream:
        seen = until(stream, "metrics")
    server.stop()
    server.client.close()
    server.append(job, 11, 21)
    server.start()
    assert seen[-1].id is not None
    with server.stream(job, Last_Event_ID=seen[-1].id) as stream:
        again = until(stream, "metrics")
        server.write_log(job, 1, "new\n")
        assert until(stream, "log")[-1].data == {"lines": ["new"]}
    assert steps_of(again) == list(range(11, 21))


def test_a_resumed_attempt_resets_those_who_watch_and_those_who_come_back(server: CurveServer) -> None:
    job = server.running_job()
    server.append(job, 1, 11)
    with server.stream(job) as stream:
        seen = until(stream, "metrics")
        old = seen[-1].id or ""
        server.curves.truncate(job, 1, 6)
        seen += until(stream, "reset")
        assert seen[-1].data == {"truncate_after": 6, "revision": 1}
        server.append(job, 7, 10)
        seen += until(stream, "metrics")
    assert steps_of(seen) == list(range(1, 10))
    with server.stream(job, Last_Event_ID=old) as stream:
        back = until(stream, "metrics")
    assert [event.name for event in back if event.name != "status"] == ["reset", "metrics"]
    assert steps_of(back) == [7, 8, 9]


def test_the_log_of_the_next_attempt_follows(server: CurveServer) -> None:
    job = server.running_job()
    server.write_log(job, 1, "first")
    with server.stream(job) as stream:
        until(stream, "status")
        server.store.give_back(job, 1)
        claim = server.store.claim("worker", ["cpu"], lease_seconds=60)
        assert claim is not None
        server.write_log(job, claim.attempt, "second\n")
        lines: list[str] = []
        while len(lines) < 2:
            lines += until(stream, "log")[-1].data["lines"]
    assert lines == ["first", "second"]


def test_listeners_that_join_at_any_time_see_the_same_curve(server: CurveServer) -> None:
    job = server.running_job()
    heard: dict[int, list[Event]] = {}

    def listen(number: int) -> None:
        with server.stream(job) as stream:
            heard[number] = until(stream, "end")

    listeners = [threading.Thread(target=listen, args=(number,)) for number in range(8)]
    for at, listener in enumerate(listeners):
        listener.start()
        server.append(job, at * 500 + 1, at * 500 + 501)
    server.store.finish(job, 1, "succeeded")
    for listener in listeners:
        listener.join(20)
    assert [steps_of(heard[number]) for number in range(8)] == [list(range(1, 4001))] * 8


def test_what_can_be_refused_is_refused_before_the_stream_begins(server: CurveServer) -> None:
    unknown = server.client.get("/v1/jobs/job_none/stream")
    assert (unknown.status_code, unknown.headers["content-type"]) == (404, "application/problem+json")
    path = f"/v1/jobs/{server.running_job()}/stream"
    for headers, parameters, named in (
        ({"Last-Event-ID": "nonsense"}, {}, "Last-Event-ID"),
        ({"Last-Event-ID": "7.1"}, {}, "Last-Event-ID"),
        ({}, {"cursor": "nonsense"}, "cursor"),
    ):
        refused = server.client.get(path, headers=headers, params=parameters)
        assert (refused.status_code, refused.json()["errors"][0]["parameter"]) == (422, named)


def test_a_quiet_stream_sends_heartbeats(server: CurveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.05)
    with server.client.stream("GET", f"/v1/jobs/{server.running_job()}/stream") as response:
        beats = (line for line in response.iter_lines() if line.startswith(":"))
        assert [next(beats) for _ in range(3)] == [": still here"] * 3


def test_progress_alone_is_told_at_most_once_a_second_but_never_forgotten(server: CurveServer) -> None:
    job = server.running_job()
    told: list[int] = []
    with server.stream(job) as stream:
        until(stream, "status")
        for iteration in range(1, 31):
            server.store.progressed(job, 1, epoch=1, iteration=iteration)
        while not told or told[-1] != 30:
            told.append(until(stream, "status")[-1].data["progress"]["iteration"])
    assert len(told) <= 3


def test_open_streams_do_not_hold_up_a_shutdown(server: CurveServer) -> None:
    job = server.running_job()
    server.append(job, 1, 3)
    with server.stream(job) as stream:
        until(stream, "metrics")
        assert server.stop() < 2
        assert [event.name for event in stream if event.name == "end"] == []


def test_nothing_is_watched_once_the_listeners_have_gone(server: CurveServer) -> None:
    job = server.running_job()
    for _ in range(3):
        with server.stream(job) as stream:
            until(stream, "status")
    server.append(job, 1, 2, name=LOSS)
    with server.stream(job) as stream:
        assert steps_of(until(stream, "metrics")) == [1]


def test_a_stream_ends_when_its_key_is_revoked(server: CurveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(callers, "LOOK_SECONDS", 0.0)
    job = server.running_job()
    key, secret = server.store.add_key("watcher", ["read"])
    with server.stream(job, Authorization=f"Bearer {secret}") as stream:
        until(stream, "status")
        server.store.revoke_key(key.id)
        server.append(job, 1, 3)
        assert "end" not in [event.name for event in stream]  # it is over, and the job is not
    with server.client.stream("GET", f"/v1/jobs/{job}/stream", headers={"Authorization": f"Bearer {secret}"}) as again:
        assert again.status_code == 401


def test_a_client_that_reads_nothing_costs_a_bounded_buffer(server: CurveServer) -> None:
    job = server.running_job()
    server.append(job, 1, 500_001)  # some 20 MB of events
    with socket.socket() as idle:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        idle.connect(("127.0.0.1", server.client.base_url.port))
        idle.sendall(f"GET /v1/jobs/{job}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        while server.unsent() == 0:  # until the system takes no more
            time.sleep(0.01)
        for at in range(500_001, 500_021):  # news does not pile up either
            cursor = server.client.get(f"/v1/jobs/{job}/metrics").json()["cursor"]
            server.append(job, at, at + 1)
            with server.stream(job, Last_Event_ID=cursor) as other:
                assert steps_of(until(other, "metrics")) == [at]
            assert server.unsent() < 1_000_000
