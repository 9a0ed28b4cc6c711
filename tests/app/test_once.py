"""Idempotency-Key: what is sent twice is done once, and answered the same."""

from __future__ import annotations

import signal
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.database import open_engine
from jobs.store import Store
from tests.app.conftest import Server, good_spec, wait_for

TABLE = b"a,b\n1,x\n2,y\n"


def fresh() -> str:
    return str(uuid.uuid4())


def post(client: httpx.Client, key: str, path: str = "/v1/jobs", **changes: Any) -> httpx.Response:
    return client.post(path, json=good_spec() | changes, headers={"Idempotency-Key": key})


def upload(client: httpx.Client, key: str, content: bytes = TABLE, name: str = "t.csv", **query: str) -> httpx.Response:
    files = {"file": (name, content, "text/csv")}
    return client.post("/v1/files", files=files, params=query, headers={"Idempotency-Key": key})


def same(first: httpx.Response, second: httpx.Response) -> bool:
    kept = ("location", "etag", "content-type")
    return (first.status_code, first.content, [first.headers.get(n) for n in kept]) == (
        second.status_code,
        second.content,
        [second.headers.get(n) for n in kept],
    )


def count(client: httpx.Client, name: str) -> int:
    return len(client.get("/v1/jobs", params={"name": name, "limit": 100}).json()["data"])


def test_a_repeated_post_is_one_job_and_one_answer(client: httpx.Client) -> None:
    key, name = fresh(), fresh()
    first, second = post(client, key, name=name), post(client, key, name=name)
    assert first.status_code == 201
    assert same(first, second)
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert second.headers["x-content-type-options"] == "nosniff"
    assert count(client, name) == 1
    client.post(f"{first.headers['location']}/cancel")
    assert same(first, post(client, key, name=name))  # what was answered then, not what is true now


def test_without_a_key_each_post_is_a_job(client: httpx.Client) -> None:
    name = fresh()
    for _ in range(2):
        assert client.post("/v1/jobs", json=good_spec() | {"name": name}).status_code == 201
    assert count(client, name) == 2


def test_the_same_key_with_another_request_is_422(client: httpx.Client) -> None:
    key = fresh()
    assert post(client, key).status_code == 201
    for other in (post(client, key, epochs=3), upload(client, key)):
        assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert post(client, key).headers["idempotency-replayed"] == "true"


def test_a_refused_request_leaves_the_key_free(client: httpx.Client) -> None:
    key = fresh()
    assert post(client, key, epochs=0).status_code == 422
    assert post(client, key).status_code == 201
    other = fresh()
    assert post(client, other, path="/v1/jobs?validate_only=true").status_code == 200
    assert post(client, other, epochs=4).status_code == 201


def test_layout_of_the_json_is_no_difference_and_order_is(client: httpx.Client) -> None:
    key, spec = fresh(), good_spec()
    first = post(client, key)
    assert post(client, key).content == first.content
    turned = dict(reversed(spec.items()))  # a stored spec keeps its order, so this is another document
    assert client.post("/v1/jobs", json=turned, headers={"Idempotency-Key": key}).status_code == 422


def test_a_repeated_upload_is_answered_the_same(client: httpx.Client) -> None:
    key, content = fresh(), f"a,b\n1,{fresh()}\n".encode()
    first, second = upload(client, key, content), upload(client, key, content)
    assert first.status_code == 201  # without a key the second would be 200
    assert same(first, second)
    assert second.headers["idempotency-replayed"] == "true"
    for other in (
        upload(client, key, TABLE),
        upload(client, key, content, name="u.csv"),
        upload(client, key, content, format="csv"),
    ):
        assert other.status_code == 422
    known = fresh()
    assert [upload(client, known, content).status_code for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("key", ["", '""', '"open', 'a "b"', "two words", '"a"; b=c', "\x7f", "x" * 256, f'"{"x" * 256}"'])
def test_a_key_that_is_none_is_400(client: httpx.Client, key: str) -> None:
    answer = post(client, key)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-idempotency-key")
    assert answer.json()["errors"][0]["parameter"] == "Idempotency-Key"


def test_two_keys_are_none(client: httpx.Client) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert client.post("/v1/jobs", json=good_spec(), headers=headers).status_code == 400


def test_a_key_may_be_written_as_the_draft_has_it(client: httpx.Client) -> None:
    key = fresh()
    assert same(post(client, key), post(client, f'"{key}"'))
    assert post(client, '"a \\"quoted\\" key with spaces"').status_code == 201


@pytest.fixture
def unfinished(server: Server) -> Iterator[tuple[socket.socket, str]]:
    """An upload under a key that the server has begun to receive."""
    key = fresh()
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: {key}\r\nContent-Length: 5000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n1'
    )
    with socket.create_connection(("127.0.0.1", server.client.base_url.port or 0)) as sender:
        sender.sendall(head.encode())
        wait_for(lambda: list((server.folder / "files").glob("incoming-*")), 10)
        yield sender, key


def test_a_repeat_while_the_first_is_running_is_409(client: httpx.Client, unfinished: tuple[socket.socket, str]) -> None:
    sender, key = unfinished
    answer = upload(client, key)
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/idempotency-key-in-use")
    assert int(answer.headers["retry-after"]) > 0
    sender.close()
    wait_for(lambda: upload(client, key).status_code != 409, 10)  # a first request that was cut off holds nothing


@pytest.mark.slow
def test_two_servers_and_many_hands_make_one_job(tmp_path: Path) -> None:
    servers = [Server(tmp_path) for _ in range(2)]
    try:
        for server in servers:
            server.wait_until_ready()
        key, answers = fresh(), []

        def ask(client: httpx.Client) -> None:
            answers.append(post(client, key))

        threads = [threading.Thread(target=ask, args=(servers[n % 2].client,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) <= {201, 409}
        assert statuses[201] >= 1
        assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
        assert count(servers[0].client, "mlp") == 1
        assert all(post(server.client, key).headers["idempotency-replayed"] == "true" for server in servers)
    finally:
        for server in servers:
            server.stop()


@pytest.mark.slow
def test_a_kill_before_the_answer_is_no_second_job(tmp_path: Path) -> None:
    store = Store(open_engine(tmp_path / "postgrad.db"))
    key = fresh()
    body = httpx.Request("POST", "http://localhost/v1/jobs", json=good_spec()).content
    for _ in range(3):  # each server is killed as soon as the job can be seen, with the answer hardly on its way
        server = Server(tmp_path)
        server.wait_until_ready()
        head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection(("127.0.0.1", server.client.base_url.port or 0)) as sender:
            sender.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            wait_for(lambda: store.jobs().data, 20)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait(10)
    server = Server(tmp_path)
    try:
        server.wait_until_ready()
        answer = post(server.client, key)
        (job,) = store.jobs().data
        assert (answer.status_code, answer.json()["id"]) == (201, job.id)
        assert answer.headers["idempotency-replayed"] == "true"
    finally:
        server.stop()


def test_a_key_belongs_to_whoever_sent_it(client: httpx.Client) -> None:
    secrets = [client.post("/v1/keys", json={"name": "one", "scopes": ["write"]}).json()["secret"] for _ in range(2)]
    headers = [{"Idempotency-Key": "mine", "Authorization": f"Bearer {secret}"} for secret in secrets]
    answers = [client.post("/v1/jobs", json=good_spec(), headers=each) for each in headers * 2]
    assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, None, "true", "true"]
    assert len({answer.json()["id"] for answer in answers}) == 2


def test_openapi_says_so(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path in ("/v1/jobs", "/v1/files"):
        named = {parameter["name"].lower(): parameter for parameter in paths[path]["post"]["parameters"]}
        assert named["idempotency-key"]["in"] == "header"
        assert not named["idempotency-key"].get("required", False)
    assert "idempotency" not in str(paths["/v1/keys"]).lower()


def test_a_repeated_retry_is_one_retry_and_one_answer(client: httpx.Client) -> None:
    key, job = {"Idempotency-Key": fresh()}, post(client, fresh()).headers["location"]
    assert client.post(f"{job}/cancel").json()["status"] == "cancelled"
    first, second = (client.post(f"{job}/retry", json={"from": "start"}, headers=key) for _ in range(2))
    assert (first.status_code, first.json()["status"]) == (200, "queued")
    assert same(first, second)
    assert second.headers["idempotency-replayed"] == "true"
    kinds = [event["kind"] for event in client.get(f"{job}/events").json()["data"]]
    assert kinds.count("retried") == 1
    other = client.post(f"{job}/retry", json={"from": "checkpoint"}, headers=key)
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
