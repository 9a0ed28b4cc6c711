"""POST with init_from: the artifact is found, checked and pinned, and nothing is left behind when it does not fit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

from jobs.files import DataFolder
from tests.app.conftest import Server, good_spec

SHAPES = {"0.weight": (8, 30), "0.bias": (8,), "2.weight": (1, 8), "2.bias": (1,)}


@pytest.fixture(scope="module")
def source(server: Server, client: httpx.Client) -> tuple[str, Path]:
    """A job and its last weights."""
    found: str = client.post("/v1/jobs", json=good_spec()).json()["id"]
    folder = DataFolder(server.folder, server.folder).make_job(found) / "artifacts"
    save_file({name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}, folder / "model.safetensors")
    return found, folder / "model.safetensors"


def start(client: httpx.Client, out_features: int = 8, **init_from: Any) -> httpx.Response:
    body = good_spec()
    body["model"]["layers"][0]["out_features"] = out_features
    body["model"]["init_from"] = init_from
    return client.post("/v1/jobs", json=body)


def test_the_artifact_is_pinned_by_its_digest(server: Server, client: httpx.Client, source: tuple[str, Path]) -> None:
    job_id, path = source
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    answer = start(client, job=job_id)
    assert answer.status_code == 201, answer.text
    assert answer.json()["spec"]["model"]["init_from"] == {"job": job_id, "sha256": digest}
    pinned = DataFolder(server.folder, server.folder).weights(digest)
    assert pinned.read_bytes() == content
    assert start(client, job=job_id, sha256=digest).status_code == 201
    assert not list((server.folder / "files").glob("incoming-*"))


@pytest.mark.parametrize(
    ("members", "pointer", "code"),
    [
        ({"job": "job_" + "0" * 26}, "/model/init_from/job", "unknown_job"),
        ({"job": "../../etc"}, "/model/init_from/job", "out_of_range"),
        ({"artifact": "model.best.safetensors"}, "/model/init_from/artifact", "unknown_artifact"),
        ({"artifact": "spec.json"}, "/model/init_from/artifact", "unknown_choice"),
        ({"sha256": "0" * 64}, "/model/init_from/sha256", "digest_mismatch"),
        ({"out_features": 9}, "/model/init_from", "shape_mismatch"),
        ({"params": "nothing.*"}, "/model/init_from/params", "unknown_parameter"),
        ({"paths": "x"}, "/model/init_from/paths", "unknown_field"),
    ],
)
def test_it_is_refused_and_nothing_is_left(
    server: Server, client: httpx.Client, source: tuple[str, Path], members: dict[str, Any], pointer: str, code: str
) -> None:
    before = sorted((server.folder / "weights").glob("*"))
    answer = start(client, **{"job": source[0], **members})
    assert answer.status_code == 422
    assert (pointer, code) in [(e["pointer"], e["code"]) for e in answer.json()["errors"]]
    assert sorted((server.folder / "weights").glob("*")) == before
    assert not list((server.folder / "files").glob("incoming-*"))
