"""Clients who take their time: none of them is waited for without end, and none costs more than its connection."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from app import body, protocol
from app.body import pieces, read_json
from app.problems import install
from app.protocol import Protocol
from tests.app.conftest import Server, free_port, wait_for

PATIENCE = 1.0  # seconds, in place of each of the house's own
HEAD = b"POST /%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"


def small_app() -> FastAPI:
    app = FastAPI()
    install(app)

    @app.post("/json")
    async def take_json(request: Request) -> None:
        await read_json(request)

    @app.post("/upload")
    async def take_upload(request: Request) -> None:
        async for _ in pieces(request):
            pass

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65_536
                await asyncio.sleep(0)  # else nobody could notice that the client has gone

        return StreamingResponse(chunks())

    @app.get("/short")
    async def short() -> dict[str, str]:
        return {}

    return app


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[uvicorn.Server]:
    """A server with this house's protocol and little patience, and room for ten."""
    for module, names in ((protocol, ("HEAD_SECONDS", "STALLED_SECONDS")), (body, ("BODY_SECONDS", "SILENCE_SECONDS"))):
        for name in names:
            monkeypatch.setattr(module, name, PATIENCE)
    config = uvicorn.Config(small_app(), port=free_port(), http=Protocol, ws="none", log_level="error", limit_concurrency=10)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, 10)
    yield server
    server.should_exit = server.force_exit = True
    thread.join(10)


@pytest.fixture
def port(server: uvicorn.Server) -> int:
    return server.config.port


@contextmanager
def connected(port: int, sent: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(sent)
        yield client


def until_closed(client: socket.socket) -> bytes:
    """All that comes before the server closes the connection; waits 10 s at most for each piece."""
    seen = b""
    try:
        while piece := client.recv(65_536):
            seen += piece
    except ConnectionResetError:
        pass
    return seen


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET /short HTTP/1.1\r\nHost: localhost\r\nX-Long: a"])
def test_half_a_head_is_not_waited_for(port: int, sent: bytes) -> None:
    with connected(port, sent) as client:
        assert until_closed(client) == b""


def trickle_until_closed(client: socket.socket) -> None:
    """Sends a byte every now and then. Fails when the server takes them for longer than it has patience."""
    deadline = time.monotonic() + 10 * PATIENCE
    try:
        while time.monotonic() < deadline:
            client.sendall(b"X")
            time.sleep(PATIENCE / 20)
    except (BrokenPipeError, ConnectionResetError):
        return
    pytest.fail("the connection is still open")


def test_a_head_that_trickles_has_no_more_time(port: int) -> None:
    with connected(port) as client:
        trickle_until_closed(client)


def test_a_trickle_behind_an_answer_ends_as_well(port: int) -> None:
    with connected(port, b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n") as client:
        assert client.recv(65_536).startswith(b"HTTP/1.1 404")
        trickle_until_closed(client)


def test_requests_in_time_are_answered_on_one_connection(port: int) -> None:
    with connected(port) as client:
        for _ in range(4):
            time.sleep(PATIENCE / 3)  # the clock starts anew for each
            client.sendall(b"GET /short HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"{}"):
                answer += client.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", [b"json", b"upload"])
def test_a_body_that_stops_is_408(port: int, path: bytes) -> None:
    with connected(port, HEAD % path + b'{"a": ') as client:
        answer = until_closed(client)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"/problems/too-slow" in answer


def test_a_json_body_has_a_time_and_an_upload_only_has_to_go_on(port: int) -> None:
    def trickled(path: bytes) -> bytes:
        with connected(port, HEAD % path) as client:
            client.settimeout(PATIENCE / 50)
            for _ in range(100):
                client.sendall(b" ")
                with suppress(TimeoutError):
                    return client.recv(65_536)
            client.settimeout(10)
            return client.recv(65_536)

    assert trickled(b"json").startswith(b"HTTP/1.1 408")
    assert trickled(b"upload").startswith(b"HTTP/1.1 200")


def test_an_answer_that_nobody_reads_is_dropped(server: uvicorn.Server, port: int) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: server.server_state.tasks, 10)
        wait_for(lambda: not server.server_state.connections and not server.server_state.tasks, 10 * PATIENCE)


def test_an_answer_that_is_read_is_not(port: int) -> None:
    with connected(port, b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n") as client:
        began, taken = time.monotonic(), 0
        while time.monotonic() < began + 3 * PATIENCE:
            taken += len(client.recv(2**20))
        assert taken > 10 * 2**20


def test_too_many_are_turned_away_and_the_place_is_free_again(port: int) -> None:
    with ExitStack() as crowd:
        clients = [crowd.enter_context(connected(port)) for _ in range(30)]
        assert all(until_closed(client) == b"" for client in clients)  # the last at once, the first after their time
    wait_for(lambda: _answers(port), 5)


def _answers(port: int) -> bool:
    with connected(port, b"GET /short HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") as client:
        return until_closed(client).startswith(b"HTTP/1.1 200")


CROWD = 1000


@pytest.mark.slow
def test_a_crowd_does_not_use_up_the_open_files(tmp_path: Path) -> None:
    server = Server(tmp_path, ["prlimit", "--nofile=600:600"])
    try:
        with ExitStack() as crowd:
            for _ in range(CROWD):
                crowd.enter_context(connected(server.client.base_url.port or 0))
            server.client.close()
        wait_for(lambda: _lives(server), 60)
        assert "Too many open files" not in server.log()
    finally:
        server.stop()


def _lives(server: Server) -> bool:
    with connected(server.client.base_url.port or 0, b"GET /health/live HTTP/1.0\r\nHost: localhost\r\n\r\n") as client:
        return until_closed(client).startswith(b"HTTP/1.1 200")
