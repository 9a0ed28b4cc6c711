"""Keys over HTTP: what each scope opens, what revoking shuts, and that no key is ever written down."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.main import create_app
from app.openapi import build
from jobs.database import open_engine
from jobs.settings import Settings
from jobs.store import Store
from migrations.schema import upgrade
from tests.app.conftest import Server, environment, good_spec, wait_for
from tests.jobs.queue_of_jobs import open_store

BOOTSTRAP = "pg_the-first-key-of-this-server"
EXPORTED = {"type": "exported", "id": "file_" + "0" * 24}
PYTHON = {"type": "python", "id": "file_" + "0" * 24, "class": "Net"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("keys"), api_key=BOOTSTRAP, host="0.0.0.0", log_level="debug")
    running.wait_until_ready()
    yield running
    running.stop()


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def make(server: Server, *scopes: str) -> dict[str, Any]:
    answer = server.client.post("/v1/keys", json={"name": "test", "scopes": scopes}, headers=bearer(BOOTSTRAP))
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_a_key_is_shown_once_and_stored_as_a_hash(guarded: Server) -> None:
    answer = guarded.client.post("/v1/keys", json={"name": "laptop"}, headers=bearer(BOOTSTRAP))
    made = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert made["secret"].startswith("pg_")
    assert len(made["secret"]) == 3 + 43  # 256 bits in base64
    assert (made["name"], made["scopes"], made["last_used_at"], made["revoked_at"]) == ("laptop", ["read", "write"], None, None)
    listed = guarded.client.get("/v1/keys", headers=bearer(BOOTSTRAP))
    assert made["id"] in [key["id"] for key in listed.json()["data"]]
    assert made["secret"] not in listed.text
    stored = b"".join(path.read_bytes() for path in guarded.folder.glob("postgrad.db*"))
    assert made["secret"].encode() not in stored
    assert made["id"].encode() in stored


REQUESTS: list[tuple[str, str, Any, set[str]]] = [
    ("GET", "/v1/jobs", None, {"read", "admin"}),
    ("GET", "/v1/files", None, {"read", "admin"}),
    ("GET", "/v1/workers", None, {"read", "admin"}),
    ("GET", "/v1/keys", None, {"admin"}),
    ("POST", "/v1/keys", {"name": "more"}, {"admin"}),
    ("POST", "/v1/keys/key_none/revoke", None, {"admin"}),
    ("POST", "/v1/jobs", good_spec(), {"write", "admin"}),
    ("POST", "/v1/files", None, {"write", "admin"}),
    ("POST", "/v1/jobs/job_none/cancel", None, {"write", "admin"}),
    ("DELETE", "/v1/nothing", None, {"write", "admin"}),  # whatever is added later needs write, unless it asks for more
]


@pytest.mark.parametrize("scope", ["read", "write", "code", "admin"])
@pytest.mark.parametrize(("method", "path", "body", "opening"), REQUESTS)
def test_a_scope_opens_what_it_names_and_nothing_else(
    guarded: Server, scope: str, method: str, path: str, body: Any, opening: set[str]
) -> None:
    answer = guarded.client.request(method, path, json=body, headers=bearer(make(guarded, scope)["secret"]))
    assert (answer.status_code == 403) == (scope not in opening), answer.text
    if answer.status_code == 403:
        problem = answer.json()
        (missing,) = {"read", "write", "admin"} & set(problem["detail"].split("needs ")[1].split())
        assert (problem["type"], problem["errors"][0]["code"]) == ("/problems/missing-scope", "missing_scope")
        assert f'scope="{missing}"' in answer.headers["www-authenticate"]
        assert f"has the scope {scope};" in problem["detail"]


@pytest.mark.parametrize("model", [EXPORTED, PYTHON])
def test_a_program_of_ones_own_needs_code_on_top_of_write(guarded: Server, model: dict[str, Any]) -> None:
    spec = good_spec() | {"model": model}
    refused = guarded.client.post("/v1/jobs", json=spec, headers=bearer(make(guarded, "read", "write")["secret"]))
    assert (refused.status_code, "needs code" in refused.json()["detail"]) == (403, True)
    for scopes in (["write", "code"], ["admin"]):
        heard = guarded.client.post("/v1/jobs", json=spec, headers=bearer(make(guarded, *scopes)["secret"]))
        assert heard.status_code == 422  # there is no such file, or Python is off: the scope is no hindrance


def test_a_revoked_key_opens_nothing_from_the_next_request_on(guarded: Server) -> None:
    key = make(guarded, "read")
    assert guarded.client.get("/v1/jobs", headers=bearer(key["secret"])).status_code == 200
    first = guarded.client.post(key["links"]["revoke"], headers=bearer(BOOTSTRAP)).json()
    assert guarded.client.get("/v1/jobs", headers=bearer(key["secret"])).status_code == 401
    assert first["revoked_at"] is not None
    again = guarded.client.post(key["links"]["revoke"], headers=bearer(BOOTSTRAP)).json()
    assert again["revoked_at"] == first["revoked_at"]
    assert guarded.client.post("/v1/keys/key_none/revoke", headers=bearer(BOOTSTRAP)).status_code == 404


def test_the_last_use_is_noted(guarded: Server) -> None:
    key = make(guarded, "read")
    guarded.client.get("/v1/jobs", headers=bearer(key["secret"]))

    def noted() -> bool:
        listed = guarded.client.get("/v1/keys", headers=bearer(BOOTSTRAP)).json()["data"]
        return any(k["id"] == key["id"] and k["last_used_at"] is not None for k in listed)

    wait_for(noted, 5)


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/name"]),
        ({"name": ""}, ["/name"]),
        ({"name": "x" * 201}, ["/name"]),
        ({"name": "a", "scopes": []}, ["/scopes"]),
        ({"name": "a", "scopes": ["root"]}, ["/scopes/0"]),
        ({"name": "a", "scopes": "admin"}, ["/scopes"]),
        ({"name": "a", "key": "pg_mine"}, ["/key"]),
        ([], [""]),
    ],
)
def test_a_key_that_makes_no_sense_is_refused_with_its_place(guarded: Server, body: Any, pointers: list[str]) -> None:
    answer = guarded.client.post("/v1/keys", json=body, headers=bearer(BOOTSTRAP))
    assert answer.status_code == 422
    assert [e["pointer"] for e in answer.json()["errors"]] == pointers
    assert "pg_mine" not in answer.text


def test_no_key_is_ever_logged_or_repeated(guarded: Server) -> None:
    key = make(guarded, "read")
    wrong = "pg_wrong-and-still-nobodys-business"
    answers = [
        guarded.client.get("/v1/jobs", headers=bearer(key["secret"])),
        guarded.client.get("/v1/keys", headers=bearer(key["secret"])),
        guarded.client.get("/v1/jobs", headers=bearer(wrong)),
        guarded.client.post("/v1/jobs", content=b"{", headers=bearer(BOOTSTRAP)),
        guarded.client.get("/v1/nowhere", headers=bearer(BOOTSTRAP)),
    ]
    logged = guarded.log()
    assert "/v1/nowhere" in logged  # the log is the one meant
    for secret in (key["secret"], wrong, BOOTSTRAP):
        assert secret not in logged
        assert not any(secret in answer.text or secret in str(answer.headers) for answer in answers)


def test_an_open_server_still_holds_a_key_that_is_sent_to_its_scopes(client: httpx.Client) -> None:
    made = client.post("/v1/keys", json={"name": "reader", "scopes": ["read"]}).json()
    assert client.get("/v1/jobs", headers=bearer(made["secret"])).status_code == 200
    assert client.post("/v1/jobs", json={}, headers=bearer(made["secret"])).status_code == 403
    assert client.get("/v1/jobs", headers=bearer("pg_wrong")).status_code == 401
    assert client.get("/v1/jobs").status_code == 200


# ---- starting


def test_a_server_with_an_admin_key_in_its_database_needs_no_other(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "postgrad.db")
    upgrade(engine)
    _, secret = Store(engine).add_key("mine", ["admin"])
    running = Server(tmp_path, host="0.0.0.0")
    try:
        assert running.client.get("/v1/jobs").status_code == 401
        assert running.client.get("/v1/jobs", headers=bearer(secret)).status_code == 200
    finally:
        running.stop()


@pytest.mark.parametrize("scopes", [["read", "write", "code"], None])
def test_no_admin_key_is_no_start(tmp_path: Path, scopes: list[str] | None) -> None:
    store = open_store(tmp_path)
    key, _ = store.add_key("mine", scopes or ["admin"])
    if scopes is None:
        store.revoke_key(key.id)
    store.engine.dispose()
    done = subprocess.run(
        [sys.executable, "-m", "app"], env=environment(tmp_path, host="0.0.0.0"), capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, "postgrad keys create" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_a_database_that_cannot_say_who_asks_lets_nobody_in(tmp_path: Path) -> None:
    running = Server(tmp_path, api_key=BOOTSTRAP, host="0.0.0.0")
    try:
        with closing(sqlite3.connect(tmp_path / "postgrad.db")) as connection:
            connection.execute("DROP TABLE keys")
            connection.commit()
        answer = running.client.get("/v1/jobs", headers=bearer("pg_any"))
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert running.client.get("/v1/jobs", headers=bearer(BOOTSTRAP)).status_code == 200
    finally:
        running.stop()


def test_openapi_names_the_scope_of_every_operation() -> None:
    paths = build(create_app(Settings()))["paths"]
    assert paths["/v1/keys"]["post"]["security"] == [{}, {"key": ["admin"]}]
    assert paths["/v1/jobs"]["post"]["security"] == [{}, {"key": ["write"]}]
    assert paths["/v1/jobs/{job_id}/stream"]["get"]["security"] == [{}, {"key": ["read"]}]
    assert paths["/health/live"]["get"]["security"] == []


def test_keys_outlive_a_restart(tmp_path: Path) -> None:
    made, secret = open_store(tmp_path).add_key("kept", ["code", "read", "read"])
    assert made.scopes == ("read", "code")
    assert Store(open_engine(tmp_path / "postgrad.db")).key_of(secret.encode()) == made
