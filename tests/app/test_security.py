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
from jobs.settings import Settings
from tests.app.conftest import Server, environment

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


def test_the_own_page_can_post(client: httpx.Client) -> None:
    own = {"Origin": str(client.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert client.post("/v1/jobs", json={}, headers=own).status_code == 422


def test_every_answer_carries_the_security_headers(client: httpx.Client) -> None:
    for path in ("/v1/jobs", "/", "/nowhere", "/health/live"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
