"""Downloads: digests, ranges and what they must not become."""

from __future__ import annotations

import base64
import hashlib
import os

import httpx
import pytest

from jobs.files import DataFolder
from tests.app.conftest import Server, good_spec

CONTENT = bytes(range(256)) * 40
NAME = "model.safetensors"


@pytest.fixture(scope="module")
def job_id(server: Server, client: httpx.Client) -> str:
    found: str = client.post("/v1/jobs", json=good_spec()).json()["id"]
    folder = DataFolder(server.folder, server.folder).make_job(found) / "artifacts"
    (folder / NAME).write_bytes(CONTENT)
    (folder / "spec.json").write_text('{"a": "<script>"}')
    (folder / "model.best.safetensors.tmp").write_bytes(b"half")
    os.symlink("/etc/passwd", folder / "passwd")
    return found


def path(job_id: str, name: str = NAME) -> str:
    return f"/v1/jobs/{job_id}/artifacts/{name}"


def test_the_list_holds_what_is_finished(client: httpx.Client, job_id: str) -> None:
    body = client.get(f"/v1/jobs/{job_id}/artifacts").json()
    assert [a["name"] for a in body["data"]] == [NAME, "spec.json"]
    assert body["data"][0]["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert body["data"][0]["bytes"] == len(CONTENT)
    assert (body["first_id"], body["last_id"]) == (NAME, "spec.json")


def test_a_download_carries_its_digest(client: httpx.Client, job_id: str) -> None:
    answer = client.get(path(job_id))
    digest = hashlib.sha256(CONTENT).digest()
    assert answer.content == CONTENT
    assert answer.headers["etag"] == f'"{digest.hex()}"'
    assert answer.headers["content-digest"] == f"sha-256=:{base64.b64encode(digest).decode()}:"
    assert answer.headers["repr-digest"] == answer.headers["content-digest"]
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    again = client.get(path(job_id), headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_head_tells_size_and_digest_without_the_bytes(client: httpx.Client, job_id: str) -> None:
    answer = client.head(path(job_id))
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["etag"] == client.get(path(job_id)).headers["etag"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("bytes=0-9", CONTENT[:10]),
        ("bytes=10000-", CONTENT[10000:]),
        ("bytes=-7", CONTENT[-7:]),
        ("bytes=5-99999", CONTENT[5:]),
    ],
)
def test_one_range_is_given(client: httpx.Client, job_id: str, wanted: str, expected: bytes) -> None:
    answer = client.get(path(job_id), headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (206, expected)
    assert "content-digest" not in answer.headers
    assert "repr-digest" in answer.headers


@pytest.mark.parametrize("wanted", ["bytes=9-2", "bytes=0-1,5-6", "rows=1-2", "bytes=", "nonsense"])
def test_a_range_to_be_ignored_gives_the_whole(client: httpx.Client, job_id: str, wanted: str) -> None:
    answer = client.get(path(job_id), headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (200, CONTENT)


@pytest.mark.parametrize("wanted", ["bytes=10240-", "bytes=-0", "bytes=99999999999999999999-"])
def test_a_range_past_the_end_is_416(client: httpx.Client, job_id: str, wanted: str) -> None:
    answer = client.get(path(job_id), headers={"Range": wanted})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(CONTENT)}")
    assert answer.headers["content-type"] == "application/problem+json"


def test_if_range_of_another_version_gives_the_whole(client: httpx.Client, job_id: str) -> None:
    answer = client.get(path(job_id), headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (answer.status_code, answer.content) == (200, CONTENT)


@pytest.mark.parametrize("name", ["nothing", "passwd", "model.best.safetensors.tmp", "%2e%2e%2fspec.json", ".hidden", "a%00b"])
def test_what_is_no_artifact_is_404(client: httpx.Client, job_id: str, name: str) -> None:
    assert client.get(path(job_id, name)).status_code == 404
