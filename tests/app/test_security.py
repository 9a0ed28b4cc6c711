"""Who may ask."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from app.security import ServerRefuses, check_settings, is_loopback
from jobs.database import data_version, open_engine
from jobs.settings import Settings
from tests.app.conftest import Server, environment, good_spec

KEY = "pg_test"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("guarded"), api_key=KEY, host="0.0.0.0")
    yield running
    running.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST", "a.localhost"])
def test_loopback_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "example.org", "localhost.example.org", "127.0.0.1.example.org"])
def test_other_names(host: str) -> None:
    assert not is_loopback(host)


def test_strangers_are_not_served_without_a_key() -> None:
    with pytest.raises(ServerRefuses, match="POSTGRAD_API_KEY"):
        check_settings(Settings(host="0.0.0.0"))
    check_settings(Settings(host="0.0.0.0", insecure=True))
    check_settings(Settings(host="0.0.0.0", api_key=SecretStr(KEY)))
    check_settings(Settings(host="127.0.0.1"))


def test_the_process_refuses_to_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app"], env=environment(tmp_path, host="0.0.0.0"), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert "POSTGRAD_API_KEY" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("header", [None, "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer", "Bearer \xe9"])
def test_no_key_or_a_wrong_one_is_401(guarded: Server, header: str | None) -> None:
    headers = {} if header is None else {b"Authorization": header.encode("latin-1")}
    answer = guarded.client.get("/v1/jobs", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_key_opens_and_health_needs_none(guarded: Server) -> None:
    assert guarded.client.get("/v1/jobs", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert guarded.client.get("/health/live").status_code == 200
    assert guarded.client.get("/openapi.json").status_code == 200


def test_a_rebound_name_is_refused(client: httpx.Client) -> None:
    answer = client.get("/v1/jobs", headers={"Host": "evil.example"})
    assert answer.status_code == 403
    assert client.get("/v1/jobs", headers={"Host": "localhost:1234"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}],
)
def test_another_sites_page_cannot_post(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.post("/v1/jobs", json={}, headers=headers)
    assert answer.status_code == 403
    assert client.get("/v1/jobs", headers=headers).status_code == 200


FORMS = {
    "text/plain": b'{"dataset": "',
    "application/x-www-form-urlencoded": b"a=b",
    "multipart/form-data; boundary=x": (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\na,b\n1,2\n\r\n--x--\r\n'
    ),
}


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/files", "/v1/keys", "/v1/jobs/job_none/cancel"])
def test_a_form_of_another_site_cannot_post(client: httpx.Client, kind: str, path: str) -> None:
    """What a page can send without asking first: a browser adds Origin to it, newer ones Sec-Fetch-Site too."""
    for source in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = client.post(path, content=FORMS[kind], headers={"Content-Type": kind, **source})
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")


def test_no_other_site_is_told_that_it_may_read(client: httpx.Client) -> None:
    asking = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answers = [
        client.options("/v1/jobs", headers=asking),
        client.get("/v1/jobs", headers=asking),
        client.get("/", headers=asking),
    ]
    assert not [name for answer in answers for name in answer.headers if name.startswith("access-control")]
    assert answers[0].status_code == 405
    assert all(answer.headers["cross-origin-resource-policy"] == "same-origin" for answer in answers)


def test_no_get_changes_anything(server: Server) -> None:
    client, job = server.client, server.client.post("/v1/jobs", json=good_spec()).json()["id"]
    file = client.post("/v1/files", files={"file": ("get.csv", b"a,b\n7,7\n8,8\n")}).json()["id"]
    values = {"job_id": job, "file_id": file, "section": "losses", "name": "model.safetensors"}
    paths = [path for path, methods in client.get("/openapi.json").json()["paths"].items() if "get" in methods]
    assert len(paths) > 10
    connection = open_engine(server.folder / "postgrad.db").connect()
    before, folder = data_version(connection), sorted(server.folder.rglob("*"))
    for path in paths:
        with client.stream("GET", path.format(**values)) as answer:  # a stream of a queued job has no end
            assert answer.status_code in (200, 404), path
    assert (data_version(connection), sorted(server.folder.rglob("*"))) == (before, folder)
    client.post(f"/v1/jobs/{job}/cancel")
    assert data_version(connection) != before


def test_the_own_page_can_post(client: httpx.Client) -> None:
    own = {"Origin": str(client.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert client.post("/v1/jobs", json={}, headers=own).status_code == 422


def test_every_answer_carries_the_security_headers(client: httpx.Client) -> None:
    for path in ("/v1/jobs", "/", "/nowhere", "/health/live"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
