"""What a wrong spec is answered: the status, and for every problem where it is and of which kind. None reaches the queue."""

from __future__ import annotations

import copy
import json
from typing import Any

import httpx
import pytest

from tests.app.conftest import good_spec

MISSING = object()  # the member is taken out
Found = set[tuple[str, str]]

# Found by reading the spec alone.
READ: list[tuple[dict[str, Any], Found]] = [
    ({"/loss": MISSING}, {("/loss", "missing")}),
    ({"/loss": MISSING, "/epochs": MISSING}, {("/loss", "missing"), ("/epochs", "missing")}),
    ({"/dataset": MISSING}, {("/dataset", "missing")}),
    ({"/model": MISSING}, {("/model", "missing")}),
    ({"/optimizer": MISSING}, {("/optimizer", "missing")}),
    ({"/epoch": 3}, {("/epoch", "unknown_field")}),
    ({"/batch_size": 0}, {("/batch_size", "out_of_range")}),
    ({"/batch_size": 1.5}, {("/batch_size", "wrong_type")}),
    ({"/batch_size": "32"}, {("/batch_size", "wrong_type")}),
    ({"/batch_size": True}, {("/batch_size", "wrong_type")}),
    ({"/epochs": -1}, {("/epochs", "out_of_range")}),
    ({"/epochs": 10**12}, {("/epochs", "out_of_range")}),
    ({"/seed": -1}, {("/seed", "out_of_range")}),
    ({"/seed": 2**63}, {("/seed", "out_of_range")}),
    ({"/name": 7}, {("/name", "wrong_type")}),
    ({"/name": "x" * 1000}, {("/name", "out_of_range")}),
    ({"/metadata": {"a": 1}}, {("/metadata/a", "wrong_type")}),
    ({"/device": "tpu"}, {("/device", "out_of_range")}),
    ({"/dataset/name": "mnist"}, {("/dataset/name", "unknown_choice")}),
    ({"/dataset/type": "bultin"}, {("/dataset/type", "unknown_type")}),
    ({"/dataset/normalize": "zscore"}, {("/dataset/normalize", "unknown_choice")}),
    ({"/dataset": {"type": "file", "id": "x", "target": "y"}}, {("/dataset/id", "out_of_range")}),
    ({"/dataset": {"type": "file", "id": "file_" + "0" * 24, "target": "y"}}, {("/dataset/id", "unknown_file")}),
    ({"/dataset": {"type": "python", "id": f"file_{'0' * 24}", "class": "D"}}, {("/dataset/type", "not_supported")}),
    ({"/split": {"train": 0.5, "val": 0.6}}, {("/split", "out_of_range")}),
    ({"/split/val": -0.2}, {("/split/val", "out_of_range")}),
    ({"/split/stratify": 1}, {("/split/stratify", "wrong_type")}),
    ({"/model": {"type": "python", "id": f"file_{'0' * 24}", "class": "Net"}}, {("/model/type", "not_supported")}),
    ({"/model/layers": []}, {("/model/layers", "out_of_range")}),
    ({"/model/layers/0/type": "Liner"}, {("/model/layers/0/type", "unknown_type")}),
    ({"/model/layers/0/type": MISSING}, {("/model/layers/0/type", "missing")}),
    ({"/model/layers/0/out_features": MISSING}, {("/model/layers/0/out_features", "missing")}),
    ({"/model/layers/0/out_features": 10**12}, {("/model/layers/0/out_features", "out_of_range")}),
    ({"/model/layers/0/out_feature": 3}, {("/model/layers/0/out_feature", "unknown_field")}),
    ({"/model/layers/0/device": "cuda"}, {("/model/layers/0/device", "not_supported")}),
    ({"/model/layers/1": {"type": "Dropout", "p": 1.5}}, {("/model/layers/1/p", "out_of_range")}),
    ({"/model/layers/1": 7}, {("/model/layers/1", "wrong_type")}),
    ({"/loss": "BCELos"}, {("/loss", "unknown_type")}),
    ({"/loss/reduction": "none"}, {("/loss/reduction", "unknown_choice")}),
    ({"/loss": "TripletMarginLoss"}, {("/loss/inputs/positive", "missing"), ("/loss/inputs/negative", "missing")}),
    ({"/optimizer/lr": -1}, {("/optimizer/lr", "out_of_range")}),
    ({"/optimizer/lr": "fast"}, {("/optimizer/lr", "wrong_type")}),
    ({"/optimizer/lr": None}, {("/optimizer/lr", "wrong_type")}),
    ({"/optimizer/betas": [0.9, 1.5]}, {("/optimizer/betas/1", "out_of_range")}),
    ({"/optimizer/learning_rate": 0.1}, {("/optimizer/learning_rate", "unknown_field")}),
    ({"/optimizer": "LBFGS", "/max_grad_norm": 1.0}, {("/max_grad_norm", "not_supported")}),
    ({"/optimizer": {"type": "SparseAdam"}}, {("/optimizer/rest", "missing")}),
    ({"/optimizer": {"type": "Muon", "rest": {"type": {}}}}, {("/optimizer/rest/type", "wrong_type")}),
    ({"/lr_scheduler": {"type": ["StepLR"]}}, {("/lr_scheduler/type", "wrong_type")}),
    ({"/optimizer/param_groups": [{"params": ["9"]}]}, {("/optimizer/param_groups/0/params/0", "unknown_choice")}),
    ({"/lr_scheduler": {"type": "StepLR"}}, {("/lr_scheduler/step_size", "missing")}),
    ({"/lr_scheduler": {"type": "LambdaLR"}}, {("/lr_scheduler/lr_lambda", "missing")}),
    ({"/lr_scheduler": {"type": "LambdaLR", "lr_lambda": "open(1)"}}, {("/lr_scheduler/lr_lambda", "out_of_range")}),
    ({"/lr_scheduler": {"type": "LRScheduler"}}, {("/lr_scheduler/type", "unknown_type")}),
    ({"/metrics": ["BinaryAccurcy"]}, {("/metrics/0", "unknown_type")}),
    ({"/metrics": "BinaryAccuracy"}, {("/metrics", "wrong_type")}),
    ({"/precision": "bf16-mixed"}, {("/precision", "out_of_range"), ("/loss", "not_supported")}),
    ({"/exact": False}, {("/exact", "not_supported")}),
    ({"/on_nonfinite": "skp"}, {("/on_nonfinite", "unknown_choice")}),
    ({"/on_nonfinite": {"type": "fail", "max_rollbacks": 2}}, {("/on_nonfinite/max_rollbacks", "not_supported")}),
    ({"/early_stopping": {"monitor": "lr"}}, {("/early_stopping/monitor", "unknown_choice")}),
    ({"/priority": 3}, {("/priority", "not_supported")}),
    ({"/max_attempts": 0}, {("/max_attempts", "out_of_range")}),
    ({"/checkpoint": {"keep": 0}}, {("/checkpoint/keep", "out_of_range")}),
    (
        {"/epochs": 0, "/seed": "x", "/optimizer/lr": -1},
        {("/epochs", "out_of_range"), ("/seed", "wrong_type"), ("/optimizer/lr", "out_of_range")},
    ),
]

# Found only by building it: the checker's side.
BUILT: list[tuple[dict[str, Any], Found]] = [
    (
        {"/model/layers/2": {"type": "Linear", "in_features": 9, "out_features": 1}},
        {("/model/layers/2/in_features", "shape_mismatch")},
    ),
    ({"/model/layers/1": {"type": "Conv2d", "out_channels": 4, "kernel_size": 3}}, {("/model/layers/1", "shape_mismatch")}),
    ({"/loss": "CrossEntropyLoss"}, {("/model/layers/2/out_features", "shape_mismatch")}),
    ({"/model/layers/2/out_features": 3}, {("/model/layers/2/out_features", "shape_mismatch")}),
    ({"/model/layers/3": MISSING}, {("/model/layers/2", "out_of_range")}),
    ({"/split": {"train": 0.9999, "val": 0.0001}}, {("/split/val", "out_of_range")}),
]

# Not even a spec.
BODIES: list[tuple[bytes, int, Found]] = [
    (b"", 400, set()),
    (b"{", 400, set()),
    (b'{"seed": NaN}', 400, set()),
    (b'{"seed": 1, "seed": 2}', 400, {("/seed", "duplicate_key")}),
    (b'{"optimizer": {"type": "Adam", "lr": 1e999}}', 422, {("/optimizer/lr", "out_of_range")}),
    (b'{"name": "\\ud800"}', 422, {("/name", "not_text")}),
    (b"[" * 5000, 422, {("", "too_deep")}),
    (b"[" * 50 + b"]" * 50, 422, {("/0" * 32, "too_deep")}),
    (b"[]", 422, {("", "wrong_type")}),
    (b"null", 422, {("", "wrong_type")}),
    (b'"spec"', 422, {("", "wrong_type")}),
]


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The good spec with the members at these pointers set, or taken out."""
    spec = copy.deepcopy(good_spec())
    for pointer, value in changes.items():
        *way, last = [int(key) if key.isdigit() else key for key in pointer.split("/")[1:]]
        holder: Any = spec
        for key in way:
            holder = holder[key]
        if value is MISSING:
            del holder[last]
        else:
            holder[last] = value
    return spec


def problems(answer: httpx.Response, status: int) -> list[dict[str, str]]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["type"].startswith("/problems/")) == (status, True)
    found: list[dict[str, str]] = body["errors"]
    assert all(error["detail"] for error in found)
    return found


def queued(client: httpx.Client) -> Any:
    return client.get("/v1/jobs", params={"limit": 1}).json()["first_id"]


@pytest.mark.parametrize(("changes", "expected"), READ + BUILT, ids=[json.dumps(list(c)) for c, _ in READ + BUILT])
def test_a_bad_spec_is_answered_with_every_problem(client: httpx.Client, changes: dict[str, Any], expected: Found) -> None:
    before = queued(client)
    errors = problems(client.post("/v1/jobs", json=changed(changes)), 422)
    assert {(error["pointer"], error["code"]) for error in errors} == expected
    assert queued(client) == before


@pytest.mark.parametrize(("body", "status", "expected"), BODIES)
def test_a_body_that_is_no_spec(client: httpx.Client, body: bytes, status: int, expected: Found) -> None:
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert {(error["pointer"], error["code"]) for error in problems(answer, status)} == expected


def test_a_wrong_word_comes_with_the_right_one(client: httpx.Client) -> None:
    [error] = problems(client.post("/v1/jobs", json=changed({"/optimizer/type": "Adamm"})), 422)
    assert "Adam" in error["detail"]


def test_an_answer_does_not_repeat_the_body(client: httpx.Client) -> None:
    answer = client.post("/v1/jobs", json=changed({"/metadata": {"token": ["pg_secret_value"]}}))
    assert problems(answer, 422)
    assert "pg_secret_value" not in answer.text
