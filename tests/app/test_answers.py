"""Every answer has a schema in the OpenAPI document, and has the members that it says and no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest

from tests.app.conftest import good_spec

JSON = "application/json"


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


@pytest.fixture(scope="module")
def paths(client: httpx.Client) -> dict[str, str]:
    """For each of these endpoints a path to something that is there."""
    job = client.post("/v1/jobs", json=good_spec() | {"metadata": {"a": "b"}}).json()["id"]
    file = client.post("/v1/files", files={"file": ("a.csv", b"a,y\n1,2\n3,4\n")}).json()["id"]
    found = {
        f"/v1/jobs/{{job_id}}{part}": f"/v1/jobs/{job}{part}" for part in ("", "/metrics", "/events", "/logs", "/artifacts")
    }
    found |= {path: path for path in ("/v1/jobs", "/v1/files", "/v1/catalog", "/v1/workers", "/health/live", "/health/ready")}
    found |= {f"/v1/catalog/{{section}}{' ' * n}": f"/v1/catalog/{s}" for n, s in enumerate(("layers", "datasets", "losses"))}
    return found | {"/v1/files/{file_id}": f"/v1/files/{file}"}


def test_every_json_answer_has_a_schema(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, told in operation["responses"].items():
                content = told.get("content", {})
                assert content or status in ("204", "304"), (method, path, status)
                assert content.get(JSON, {"schema": {"$ref": ""}}).get("schema") or path.endswith("{name}"), (method, path)


def test_answers_have_the_members_that_are_documented_and_no_others(
    client: httpx.Client, document: dict[str, Any], paths: dict[str, str]
) -> None:
    for path, real in paths.items():
        schema = document["paths"][path.strip()]["get"]["responses"]["200"]["content"][JSON]["schema"]
        answer = client.get(real).json()
        validator = jsonschema.Draft202012Validator({**schema, "components": document["components"]})
        assert [error.message for error in validator.iter_errors(answer)] == [], real
        assert list(undocumented(answer, schema, document)) == [], real


def test_a_dry_run_is_documented_too(client: httpx.Client, document: dict[str, Any]) -> None:
    answer = client.post("/v1/jobs?validate_only=true", json=good_spec()).json()
    assert list(undocumented(answer, {"$ref": "#/components/schemas/Preflight"}, document)) == []


def test_a_number_that_is_not_finite_has_a_place_in_the_schema(document: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(document["components"]["schemas"]["Value"])
    assert all(validator.is_valid(value) for value in (0.5, "NaN", "-Infinity"))
    assert not any(validator.is_valid(value) for value in (None, "nan", [1]))


def undocumented(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    """Members of objects that have a list of members which they are not in."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for alternative in schema.get("anyOf", []):
        yield from undocumented(value, alternative, document)
    if isinstance(value, list):
        for item in value:
            yield from undocumented(item, schema.get("items", {}), document)
    elif isinstance(value, dict) and "properties" in schema:
        for name, member in value.items():
            if name in schema["properties"]:
                yield from undocumented(member, schema["properties"][name], document)
            else:
                yield name
