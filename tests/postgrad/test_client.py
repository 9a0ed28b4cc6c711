"""The client sends a change again when it does not know whether the server has heard it, and only then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from postgrad import client as module
from postgrad.client import Client, ServerError

Answer = httpx.Response | type[httpx.TransportError]
DONE = httpx.Response(201, json={"id": "it"})
IN_USE = httpx.Response(409, json={"type": "/problems/idempotency-key-in-use", "title": "t", "detail": "d"})


class Script(httpx.BaseTransport):
    """A server that answers as told, and keeps what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.asked = list(answers), list[tuple[str, bytes]]()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.headers["idempotency-key"], request.read()))
        answer = self.answers.pop(0)
        if isinstance(answer, httpx.Response):
            return answer
        raise answer("the line is dead", request=request)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.0, 0.0, 0.0))


def submit(client: Client, folder: Path) -> str:
    return str(client.submit({"epochs": 1})["id"])


def upload(client: Client, folder: Path) -> str:
    (folder / "t.csv").write_bytes(b"a,b\n1,2\n")
    return str(client.upload(folder / "t.csv")["id"])


@pytest.mark.parametrize("call", [submit, upload])
@pytest.mark.parametrize(
    "before",
    [[], [httpx.ReadError], [httpx.ReadTimeout, httpx.ConnectError, IN_USE], [httpx.RemoteProtocolError, IN_USE, IN_USE]],
)
def test_a_lost_answer_is_asked_for_under_the_same_key(
    call: Callable[[Client, Path], str], before: list[Answer], tmp_path: Path
) -> None:
    script = Script(*before, DONE)
    assert call(Client("http://server", transport=script), tmp_path) == "it"
    assert len(script.asked) == len(before) + 1
    assert len({key for key, _ in script.asked}) == 1
    assert all(body for _, body in script.asked)  # a file is sent whole again


def test_another_call_has_another_key(tmp_path: Path) -> None:
    script = Script(DONE, DONE)
    client = Client("http://server", transport=script)
    client.submit({})
    client.submit({})
    assert len({key for key, _ in script.asked}) == 2


@pytest.mark.parametrize(
    ("answers", "tries"),
    [
        ([httpx.ConnectError], 1),  # nobody was there
        ([httpx.Response(422, json={"detail": "no"})], 1),
        ([httpx.ReadError, httpx.Response(503, text="busy")], 2),
        ([httpx.ReadError] * 4, 4),
    ],
)
def test_it_gives_up_when_it_knows_or_has_tried_enough(answers: list[Answer], tries: int) -> None:
    script = Script(*answers)
    with pytest.raises(ServerError):
        Client("http://server", transport=script).submit({})
    assert len(script.asked) == tries
