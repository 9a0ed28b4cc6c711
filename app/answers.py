"""The JSON Schema of every answer, for /openapi.json. Nothing is checked against it when an answer is made; tests do that."""

from __future__ import annotations

from typing import Any

from jobs.keyring import SCOPES
from jobs.states import REASONS, STATES

Schema = dict[str, Any]

REF = "#/components/schemas/{model}"
JSON, TEXT = "application/json", "text/plain"


def _object(**members: Schema) -> Schema:
    return {"type": "object", "properties": members, "required": list(members)}


def _about(text: str, schema: Schema) -> Schema:
    return {**schema, "description": text}


def _sometimes(schema: Schema, *names: str) -> Schema:
    """These members may be missing."""
    return {**schema, "required": [name for name in schema["required"] if name not in names]}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _map(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


def _ref(model: str) -> Schema:
    return {"$ref": REF.format(model=model)}


def _one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def _list_of(model: str) -> Schema:
    ends = {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]}
    page = _object(object={"const": "list"}, data=_array(_ref(model)), first_id=ends, last_id=ends, has_more=BOOLEAN)
    return _about("One page. Give `last_id` as `after` for the next one.", page)


ANY: Schema = {}
STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FREE: Schema = {"type": "object"}
TIME: Schema = {"type": "string", "format": "date-time", "description": "RFC 3339, UTC."}
SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
SAMPLE = _object(step=COUNT, value=_ref("Value"))
LINKS = _map(STRING)

# `spec` is the long form as it is stored, of every version that has run here: JobSpec says what may be sent today.
JOB_MEMBERS: dict[str, Schema] = {
    "object": {"const": "job"},
    "id": STRING,
    "name": _or_null(STRING),
    "status": _one_of(*STATES),
    "failure": _or_null(_sometimes(_object(reason=_one_of(*REASONS), message=STRING, pointer=STRING), "pointer")),
    "progress": _object(
        epoch=COUNT,
        epochs=COUNT,
        iteration=COUNT,
        iterations=_or_null(COUNT),
        samples_per_second=_or_null(NUMBER),
        estimated_finish_at=_or_null(TIME),
    ),
    "attempt": COUNT,
    "max_attempts": COUNT,
    "cancel_requested": BOOLEAN,
    "pause_requested": BOOLEAN,
    "device": _or_null(STRING),
    "environment": _or_null(FREE),
    "spec": FREE,
    "effective_spec": FREE,
    "parameters": _map(COUNT),
    "summary": _map(_object(last=_or_null(SAMPLE), min=_or_null(SAMPLE), max=_or_null(SAMPLE))),
    "created_at": TIME,
    "started_at": _or_null(TIME),
    "finished_at": _or_null(TIME),
    "waiting": _or_null(_about("Why a queued job is not running yet.", STRING)),
    "metadata": _map(STRING),
    "links": LINKS,
}

FILE_MEMBERS: dict[str, Schema] = {
    "object": {"const": "file"},
    "id": STRING,
    "name": STRING,
    "bytes": COUNT,
    "sha256": SHA256,
    "media_type": _or_null(STRING),
    "created_at": TIME,
    "links": LINKS,
}

KEY_MEMBERS: dict[str, Schema] = {
    "object": {"const": "key"},
    "id": STRING,
    "name": STRING,
    "scopes": _array(_one_of(*SCOPES)),
    "created_at": TIME,
    "last_used_at": _or_null(TIME),
    "revoked_at": _or_null(TIME),
    "links": LINKS,
}

ENTRY = _object(
    object={"const": "catalog_entry"},
    section=STRING,
    name=STRING,
    summary=STRING,
    refused=_or_null(_about("Why it cannot be used, if it cannot.", STRING)),
    inputs=_array(COUNT),
    outputs=_array(STRING),
    arguments=_array(_object(name=STRING, required=BOOLEAN, default=ANY, inferred=BOOLEAN, refused=_or_null(STRING))),
    forward=_array(STRING),
    rows=COUNT,
    input_shape=_array(COUNT),
    task=STRING,
    classes=_or_null(COUNT),
    schema=_or_null(_about("JSON Schema of it in a spec.", FREE)),
    example=ANY,
    example_spec=_or_null(FREE),
    example_files=_array(_object(id=STRING, name=STRING, content=STRING)),
)

OF_SOME_ENTRIES = ("summary", "refused", "inputs", "outputs", "arguments", "forward", "rows", "input_shape", "task", "classes")

SERIES = _object(
    name=STRING,
    total=_about("Points kept, whatever was asked for.", COUNT),
    steps=_array(COUNT),
    values=_array(_ref("Value")),
    last=_or_null(SAMPLE),
    min=_or_null(SAMPLE),
    max=_or_null(SAMPLE),
)

METRICS = _object(
    object={"const": "metrics"},
    job_id=STRING,
    status=_one_of(*STATES),
    cursor=STRING,
    revision=COUNT,
    truncate_after=_about("Points after this step, read by an earlier cursor, were dropped.", COUNT),
    series=_array(SERIES),
)

CHECK = _about("With more members where there is more to say.", _object(ok=BOOLEAN, detail=STRING))

SCHEMAS: dict[str, Schema] = {
    "Value": {
        "description": "A float64 in its shortest exact form; what is not finite is a string.",
        "anyOf": [NUMBER, _one_of("NaN", "Infinity", "-Infinity")],
    },
    "Job": _object(**JOB_MEMBERS),
    "Jobs": _list_of("Job"),
    "Preflight": _object(
        object={"const": "preflight"},
        parameters=_map(COUNT),
        layers=_array(FREE),
        memory=_about("Bytes, by what they are for.", _map(COUNT)),
        spec=FREE,
        effective_spec=FREE,
    ),
    "Metrics": _sometimes(METRICS, "truncate_after"),
    "Event": _object(
        object={"const": "event"},
        id=COUNT,
        job_id=STRING,
        attempt=_or_null(COUNT),
        kind=STRING,
        message=STRING,
        detail=FREE,
        at=TIME,
    ),
    "Events": _list_of("Event"),
    "Logs": _object(object={"const": "logs"}, job_id=STRING, attempt=_or_null(COUNT), lines=_array(STRING), truncated=BOOLEAN),
    "Artifact": _object(
        object={"const": "artifact"},
        name=STRING,
        job_id=STRING,
        bytes=COUNT,
        sha256=SHA256,
        media_type=STRING,
        created_at=TIME,
        links=LINKS,
    ),
    "Artifacts": _list_of("Artifact"),
    "FileEntry": _object(**FILE_MEMBERS),
    "File": _object(**FILE_MEMBERS, preview=_about("Format, rows, columns or arrays, and the first rows.", FREE)),
    "Files": _list_of("FileEntry"),
    "Catalog": _object(
        object={"const": "catalog"}, torch=STRING, torchmetrics=STRING, sections=_map(_array(STRING)), links=LINKS
    ),
    "CatalogEntry": _sometimes(ENTRY, *OF_SOME_ENTRIES),
    "CatalogSection": _list_of("CatalogEntry"),
    "Worker": _object(
        object={"const": "worker"},
        id=STRING,
        host=STRING,
        pid=COUNT,
        devices=_array(FREE),
        profiles=_map(_object(layers=_array(STRING), refusal=_or_null(STRING))),
        slots=COUNT,
        free_slots=COUNT,
        running=_array(STRING),
        alive=BOOLEAN,
        started_at=TIME,
        seen_at=TIME,
    ),
    "Workers": _list_of("Worker"),
    "Key": _object(**KEY_MEMBERS),
    "Keys": _list_of("Key"),
    "NewKey": _object(**KEY_MEMBERS, secret=_about("The key itself, shown this once.", STRING)),
    "Prune": _object(
        object={"const": "prune"},
        dry_run=BOOLEAN,
        before=TIME,
        jobs=COUNT,
        files=COUNT,
        weights=COUNT,
        freed_bytes=COUNT,
        has_more=BOOLEAN,
    ),
    "Live": _object(status={"const": "ok"}),
    "Ready": _object(status=_one_of("ready", "degraded", "not ready"), checks=_map(CHECK)),
}


def answer(model: str) -> dict[str, Any]:
    """What an entry of a route's `responses` says of a JSON body that one of SCHEMAS describes."""
    return {"content": {JSON: {"schema": _ref(model)}}}
