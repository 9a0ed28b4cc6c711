"""What the service says of itself: the catalog, OpenAPI, health, the page."""

from __future__ import annotations

import json

import httpx
import pytest
from jsonschema import Draft202012Validator

from jobs.spec import parse

SECTIONS = ("losses", "optimizers", "lr_schedulers", "layers", "operations", "initializers", "metrics", "datasets", "models")


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_lists_entries_with_a_schema(client: httpx.Client, section: str) -> None:
    entries = client.get(f"/v1/catalog/{section}").json()["data"]
    assert entries
    usable = [entry for entry in entries if not entry.get("refused")]
    for entry in usable:
        assert entry["schema"]["type"] == "object"
        assert entry["schema"]["additionalProperties"] is False
    assert [entry["name"] for entry in usable] == client.get("/v1/catalog").json()["sections"][section]


def test_adam_is_as_torch_has_it(client: httpx.Client) -> None:
    entries = client.get("/v1/catalog/optimizers").json()["data"]
    [adam] = [entry for entry in entries if entry["name"] == "Adam"]
    assert adam["schema"]["properties"]["eps"]["default"] == 1e-8
    losses = client.get("/v1/catalog/losses").json()["data"]
    [old] = [entry for entry in losses if entry["name"] == "NLLLoss2d"]
    assert "deprecated" in old["refused"]
    [triplet] = [entry for entry in losses if entry["name"] == "TripletMarginLoss"]
    assert triplet["forward"] == ["anchor", "positive", "negative"]


def test_an_example_is_accepted_with_the_file_that_comes_with_it(client: httpx.Client) -> None:
    for section, name in (("losses", "CTCLoss"), ("lr_schedulers", "SequentialLR"), ("datasets", "digits")):
        [entry] = [e for e in client.get(f"/v1/catalog/{section}").json()["data"] if e["name"] == name]
        for file in entry["example_files"]:
            sent = client.post("/v1/files", files={"file": (file["name"], file["content"])})
            assert sent.json()["id"] == file["id"]
        answer = client.post("/v1/jobs", json=entry["example_spec"])
        assert answer.status_code == 201, answer.text
        assert json.dumps(entry["example"]) in json.dumps(entry["example_spec"])
    assert len(entry["example_files"]) == 0


def test_layers_and_operations_say_what_they_take_and_give(client: httpx.Client) -> None:
    found = {e["name"]: e for s in ("layers", "operations") for e in client.get(f"/v1/catalog/{s}").json()["data"]}
    assert (found["LSTM"]["inputs"], found["LSTM"]["outputs"]) == ([1, 3], ["hidden", "cell"])
    assert found["LSTM"]["schema"]["properties"]["output"]["enum"] == ["all", "last"]
    assert (found["add"]["inputs"], found["add"]["outputs"]) == ([1, 16], [])


def test_an_unknown_section_is_a_problem(client: httpx.Client) -> None:
    answer = client.get("/v1/catalog/nothing")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_openapi_lists_what_exists_and_only_that(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/jobs",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/cancel",
        "/v1/jobs/{job_id}/pause",
        "/v1/jobs/{job_id}/resume",
        "/v1/jobs/{job_id}/retry",
        "/v1/jobs/{job_id}/metrics",
        "/v1/jobs/{job_id}/stream",
        "/v1/jobs/{job_id}/events",
        "/v1/jobs/{job_id}/logs",
        "/v1/jobs/{job_id}/artifacts",
        "/v1/jobs/{job_id}/artifacts/{name}",
        "/v1/files",
        "/v1/files/{file_id}",
        "/v1/catalog",
        "/v1/catalog/{section}",
        "/v1/workers",
        "/v1/keys",
        "/v1/keys/{key_id}/revoke",
        "/health/live",
        "/v1/prune",
        "/health/ready",
    }
    assert "priority" not in json.dumps(document)


def test_openapi_says_when_a_request_is_refused(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path, method, statuses in (
        ("/v1/jobs/{job_id}/cancel", "post", {"200", "202", "412"}),
        ("/v1/jobs/{job_id}/pause", "post", {"200", "202", "409", "412"}),
        ("/v1/jobs/{job_id}/resume", "post", {"200", "409", "412"}),
        ("/v1/jobs/{job_id}/retry", "post", {"200", "409", "412"}),
        ("/v1/jobs/{job_id}", "delete", {"204", "409", "412"}),
        ("/v1/files/{file_id}", "delete", {"204", "409"}),
    ):
        responses = paths[path][method]["responses"]
        assert set(responses) - {"default"} == statuses, path
        assert all("application/problem+json" in responses[s]["content"] for s in statuses & {"409", "412"})
    body = paths["/v1/jobs/{job_id}/retry"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"]["properties"]["from"]["enum"] == ["start", "checkpoint"]


def test_openapi_holds_the_spec_and_every_reference_resolves(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    text = json.dumps(document)
    wanted = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert wanted <= set(document["components"]["schemas"])
    spec = document["components"]["schemas"]["JobSpec"]
    assert {"dataset", "model", "loss", "optimizer", "batch_size", "epochs"} <= set(spec["required"])


def test_the_examples_in_openapi_are_accepted(client: httpx.Client) -> None:
    body = client.get("/openapi.json").json()["paths"]["/v1/jobs"]["post"]["requestBody"]
    examples = body["content"]["application/json"]["examples"]
    uploaded = {name: examples.pop(name) for name in ("model-exported", "model-python")}
    for example in examples.values():
        answer = client.post("/v1/jobs", json=example["value"])
        assert answer.status_code == 201, answer.text
    for example in uploaded.values():  # but for their file they are whole
        parse(example["value"])
        errors = client.post("/v1/jobs", json=example["value"]).json()["errors"]
        assert {error["pointer"].removesuffix("/id").removesuffix("/type") for error in errors} == {"/model"}


def test_a_model_of_the_catalog_says_where_an_upload_goes(client: httpx.Client) -> None:
    found = {entry["name"]: entry for entry in client.get("/v1/catalog/models").json()["data"]}
    assert list(found) == ["Sequential", "Graph", "exported", "python"]
    for entry in found.values():
        parse(entry["example_spec"])
        assert entry["example_spec"]["model"] == entry["example"]
        Draft202012Validator(entry["schema"]).validate(entry["example"])
    for name in ("Sequential", "Graph"):
        assert client.post("/v1/jobs", json=found[name]["example_spec"]).status_code == 201
    assert found["exported"]["placeholders"] == ["/model/id"]
    assert set(found["exported"]["example"]["id"].removeprefix("file_")) == {"0"}
    [source] = found["python"]["example_files"]
    sent = client.post("/v1/files?format=python", files={"file": (source["name"], source["content"])})
    assert sent.json()["id"] == source["id"] == found["python"]["example"]["id"]
    assert "class Net" in source["content"]


def test_ready_says_what_it_checked(client: httpx.Client) -> None:
    body = client.get("/health/ready").json()
    assert body["status"] == "ready"
    assert set(body["checks"]) == {"schema", "checker", "torch", "sqlite", "disk"}
    assert body["checks"]["checker"]["torch"].startswith("2.")
    assert body["checks"]["sqlite"]["version"].startswith("3.")


def test_the_docs_page_is_there(client: httpx.Client) -> None:
    assert client.get("/docs").status_code == 200
