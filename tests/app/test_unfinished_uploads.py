"""Uploads that never came to their end: nothing of them stays, whoever broke them off."""

from __future__ import annotations

import hashlib
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.files import DataFolder
from tests.app.conftest import Server, wait_for

TABLE = b"a,b\n1,2\n3,4\n"
START = b'--x\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n'
END = b"\r\n--x--\r\n"
HEAD = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"


def files(server: Server) -> list[str]:
    return sorted(path.name for path in (server.folder / "files").glob("*"))


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.client.base_url.port or 0), timeout=20)


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


def sent(server: Server, body: bytes) -> bytes:
    """The answer to a chunked body of any length, of which the server may not want to see the rest."""
    with connect(server) as client:
        try:
            client.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(body), 65_536):
                client.sendall(chunked(body[start : start + 65_536]))
            client.sendall(b"0\r\n\r\n")
        except OSError:
            pass
        return client.recv(65_536)


def test_a_client_that_goes_away_leaves_nothing(server: Server) -> None:
    before, listed = files(server), server.client.get("/v1/files").json()
    client = connect(server)
    client.sendall(HEAD + b"Content-Length: 5000\r\n\r\n" + START % b"gone.csv" + TABLE)
    wait_for(lambda: any(name.startswith("incoming-") for name in files(server)), 20)
    client.close()
    wait_for(lambda: files(server) == before, 20)
    assert server.client.get("/v1/files").json() == listed


def test_a_server_that_is_killed_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    first = Server(tmp_path)
    with connect(first) as client:
        client.sendall(HEAD + b"Content-Length: 5000\r\n\r\n" + START % b"half.csv" + TABLE)
        wait_for(lambda: any((tmp_path / "files").glob("incoming-*")), 20)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(20)
    assert any(name.startswith("incoming-") for name in files(first))
    second = Server(tmp_path)
    try:
        assert files(second) == []
        assert second.client.get("/v1/files").json()["data"] == []
        assert "unfinished uploads" in second.log()
    finally:
        second.stop()


LEAVES = """
import os, sys
from pathlib import Path
from jobs.files import DataFolder
with DataFolder(Path(sys.argv[1]), Path()).incoming() as path:
    path.write_bytes(b"half")
    os._exit(9)
"""


def test_a_sweep_knows_what_is_abandoned(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path, tmp_path)
    subprocess.run([sys.executable, "-c", LEAVES, str(tmp_path)])
    kept, lost = hashlib.sha256(b"kept").hexdigest(), hashlib.sha256(b"lost").hexdigest()
    folder.file(kept).write_bytes(b"kept")
    for sha256 in (kept, lost):
        folder.prepared(sha256).mkdir()
        (folder.prepared(sha256) / "schema.json").touch()
    with folder.incoming() as underway:
        (gone,) = folder.sweep()
        assert gone.startswith("incoming-")
        assert underway.exists()
        assert folder.prepared(lost).exists()  # it may be what the upload under way is being read into
    assert folder.sweep() == [folder.prepared(lost).name]
    assert folder.prepared(kept).exists()
    assert folder.sweep() == []


@pytest.mark.parametrize(
    "body",
    [
        b"x" * 10**6,  # no boundary ever
        b"--x\r\nContent-Disposition: form-data; " + b"a" * 10**6,  # a head without end
        b"--x\r\n" + b"X-A: b\r\n" * 10**5,
        START % b"a.csv" + b"a,b\n" + b"1,2\n" * 10**5,
        START % b"a.csv" + TABLE + END + b"\0" * 10**6,  # and something behind the end
    ],
)
def test_what_has_no_end_is_cut_off(server: Server, body: bytes) -> None:
    before = files(server)
    answer = sent(server, body)
    assert answer.split()[1] in (b"400", b"413")
    wait_for(lambda: files(server) == before, 20)


@pytest.mark.parametrize(
    "name", ["a\x1b[2J.csv", "invoice\u202efdp.csv", "a\tb.csv", "..", ".", "x/", "\x7f"], ids=lambda name: repr(name)
)
def test_a_name_that_would_lie_to_whoever_reads_it_is_refused(server: Server, name: str) -> None:
    before = files(server)
    content = START.replace(b"%s", name.encode()) + TABLE + END
    answer = server.client.post("/v1/files", content=content, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-file")
    assert files(server) == before
