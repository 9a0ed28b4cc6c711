"""/v1/files, through a real server and its real ingest child."""

from __future__ import annotations

import hashlib

import httpx
import numpy as np
import pytest

from tests.app.conftest import Server, good_spec
from tests.trainer.test_formats import image, npz, packed, table

TABLE = b"height,colour,target\n1.5,red,0\n2.5,blue,1\n3.5,red,0\n"


def post(client: httpx.Client, content: bytes, name: str = "table.csv") -> httpx.Response:
    return client.post("/v1/files", files={"file": (name, content, "text/csv")})


def test_an_upload_is_stored_read_and_shown(client: httpx.Client, server: Server) -> None:
    answer = post(client, TABLE)
    assert answer.status_code == 201
    body = answer.json()
    sha256 = hashlib.sha256(TABLE).hexdigest()
    assert body["id"] == f"file_{sha256[:24]}"
    assert (body["sha256"], body["bytes"], body["name"]) == (sha256, len(TABLE), "table.csv")
    assert body["preview"]["rows"] == 3
    assert [(c["name"], c["type"]) for c in body["preview"]["columns"]] == [
        ("height", "numeric"),
        ("colour", "text"),
        ("target", "numeric"),
    ]
    assert (server.folder / "files" / sha256).read_bytes() == TABLE
    assert client.get(answer.headers["location"]).json() == body


def test_the_same_bytes_are_the_same_file(client: httpx.Client) -> None:
    content = b"a,b\n1,2\n"
    first, second = post(client, content), post(client, content, "other.csv")
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()


def test_the_list_holds_it_without_preview(client: httpx.Client) -> None:
    file_id = post(client, b"a,b\n3,4\n").json()["id"]
    page = client.get("/v1/files", params={"limit": 1}).json()
    assert (page["object"], page["first_id"], page["last_id"]) == ("list", file_id, file_id)
    assert "preview" not in page["data"][0]


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2,3\n", b"a,a\n1,2\n", b"a,b\n", b"\xff\xfe\x00\x01", b"a,b\n1\n"])
def test_a_file_that_is_no_table_is_refused_and_leaves_nothing(client: httpx.Client, server: Server, content: bytes) -> None:
    answer = post(client, content)
    assert answer.status_code == 422
    assert [e["code"] for e in answer.json()["errors"]] == ["invalid_data"]
    assert not (server.folder / "files" / hashlib.sha256(content).hexdigest()).exists()
    assert not list((server.folder / "files").glob("incoming-*"))


def test_a_file_over_the_limit_is_413(client: httpx.Client, server: Server) -> None:
    answer = post(client, b"a,b\n" + b"1,2\n" * 30_000)
    assert answer.status_code == 413
    assert not list((server.folder / "files").glob("incoming-*"))


def test_names_lose_their_folders(client: httpx.Client) -> None:
    assert post(client, b"a,b\n5,6\n", "..\\..\\etc/passwd.csv").json()["name"] == "passwd.csv"


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"", 415),
        ("multipart/form-data; boundary=x", b"nothing of the kind", 400),
        ("multipart/form-data; boundary=x", b"", 400),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n1', 400),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\n1\r\n--x--\r\n', 422),
        ("multipart/form-data; boundary=" + "x" * 999, b"", 400),
    ],
)
def test_what_is_no_upload_is_refused(client: httpx.Client, content_type: str, body: bytes, status: int) -> None:
    answer = client.post("/v1/files", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_unknown_file_is_404(client: httpx.Client) -> None:
    assert client.get("/v1/files/file_nothing").status_code == 404


def test_a_target_given_as_one_word_is_pointed_to_as_it_stands(client: httpx.Client) -> None:
    file_id = post(client, b"a,b\n1,x\n2,y\n3,x\n").json()["id"]
    spec = good_spec() | {"dataset": {"type": "file", "id": file_id, "target": "cost"}}
    answer = client.post("/v1/jobs", json=spec)
    assert answer.status_code == 422
    assert "/dataset/target" in [e["pointer"] for e in answer.json()["errors"]]


@pytest.mark.parametrize("name", ["✓.csv", "日本.csv", "é.csv"])
def test_a_name_in_any_script_is_kept(client: httpx.Client, name: str) -> None:
    head = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = head.encode() + b"a,b\n1,2\n3,4\n" + f"{len(name)},{ord(name[0])}\n".encode() + b"\r\n--x--\r\n"
    answer = client.post("/v1/files", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert (answer.status_code, answer.json()["name"]) == (201, name)


def test_every_format_has_a_preview(client: httpx.Client) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    x[1, 0] = np.nan
    arrays = post(client, npz(x=x, y=np.array([0, 1, 1, 1])), "a.npz").json()["preview"]
    assert (arrays["format"], arrays["rows"], arrays["arrays"]["x"]["shape"]) == ("npz", 4, [4, 3])
    assert (arrays["arrays"]["x"]["missing"], arrays["arrays"]["x"]["max"]) == (1, 11.0)
    assert arrays["arrays"]["y"]["class_counts"] == {"0": 1, "1": 3}
    assert arrays["arrays"]["x"]["first_rows"][1] == [None, 4.0, 5.0]
    columns = post(client, table(size=[1.5, None], kind=["a", "b"], words=[[1], [2, 3]]), "b.csv").json()["preview"]
    assert (columns["format"], [c["type"] for c in columns["columns"]]) == ("parquet", ["numeric", "text", "list"])
    assert columns["columns"][1]["class_counts"] == {"a": 1, "b": 1}
    pictures = {f"{kind}/1.png": image(np.zeros((4, 6), dtype=np.uint8)) for kind in ("cat", "dog")}
    images = post(client, packed(pictures)).json()["preview"]
    assert (images["format"], images["rows"], images["channels"], images["width"]) == ("images", 2, 1, [6, 6])
    assert images["columns"][0]["class_counts"] == {"cat": 1, "dog": 1}
    text = post(client, b"To be,\nor not\n to be: that is the question").json()
    assert text["errors"][0]["code"] == "invalid_data"  # the first line could be a heading


def test_what_only_its_writer_knows_can_be_said(client: httpx.Client) -> None:
    content = b"To be,\nor not\n to be: that is the question"
    answer = client.post("/v1/files", files={"file": ("hamlet", content)}, params={"format": "text"})
    preview = answer.json()["preview"]
    assert (preview["format"], preview["characters"]) == ("text", len(content))
    assert preview["first_characters"].startswith("To be,")
    assert preview["vocabulary_size"] == len(set(content))
    assert client.post("/v1/files", files={"file": ("x", b"a")}, params={"format": "pickle"}).status_code == 422
    assert post(client, content).status_code == 200
    again = client.post("/v1/files", files={"file": ("hamlet", content)}, params={"format": "csv"})
    assert (again.status_code, "read as text" in again.json()["detail"]) == (409, True)


def test_a_python_source_is_parsed_and_jobs_of_it_are_off(client: httpx.Client) -> None:
    source = b"import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x): return x\n\nraise SystemExit('it ran')\n"
    file = post(client, source, "net.py").json()
    assert file["preview"] == {"format": "python", "classes": [{"name": "Net", "bases": ["torch.nn.Module"]}]}
    answer = client.post("/v1/jobs", json=good_spec() | {"model": {"type": "python", "id": file["id"], "class": "Net"}})
    assert answer.status_code == 422
    (problem,) = answer.json()["errors"]
    assert (problem["pointer"], problem["code"]) == ("/model/type", "not_supported")
    assert "POSTGRAD_ALLOW_PYTHON=1" in problem["detail"]
