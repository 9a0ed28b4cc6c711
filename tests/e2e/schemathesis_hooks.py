"""What schemathesis cannot know of this service: which jobs and files there are, and which answers never end.

Loaded by `schemathesis run` itself (SCHEMATHESIS_HOOKS). POSTGRAD_TEST_JOBS and POSTGRAD_TEST_FILE name what is there.
"""

from __future__ import annotations

import json
import os
import random
import uuid
import zlib
from typing import Any

import schemathesis
from schemathesis.generation import GenerationMode

JOBS = os.environ["POSTGRAD_TEST_JOBS"].split(",")  # ended ones
FILE = os.environ["POSTGRAD_TEST_FILE"]
SHOWN_CLASSES = 20  # of one kind. Schemathesis builds no values for a schema of many more alternatives
JOB_SECONDS = 1.0
LONGEST_QUERY = 16_000  # characters, of which one may take four in a URL


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Where POSTGRAD_TEST_CLASSES is set, only some of torch's classes are left in it, others for each value of it."""
    chosen = os.environ.get("POSTGRAD_TEST_CLASSES")
    if chosen is not None:
        _thin(raw_schema["components"]["schemas"], random.Random(chosen))


def _thin(node: Any, chance: random.Random) -> None:
    alternatives = node.get("anyOf", []) if isinstance(node, dict) else []
    if len(alternatives) > SHOWN_CLASSES:
        node["anyOf"] = alternatives[:1] + chance.sample(alternatives[1:], SHOWN_CLASSES)
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _thin(inner, chance)


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """Half of the ids are real."""
    for name, real in (("job_id", JOBS), ("file_id", [FILE]), ("name", ["spec.json", "model.safetensors"])):
        sent = (path_parameters or {}).get(name)
        if isinstance(sent, str) and (number := zlib.crc32(sent.encode(errors="replace"))) % 2:
            path_parameters[name] = real[number // 2 % len(real)]
    return path_parameters


@schemathesis.hook
def filter_query(context: Any, query: Any) -> bool:
    """Leaves out what is wrong as a value and right in a URL, where a list of one is its member and a name is any text; and
    what is longer than the web server reads (64 KiB): it answers in words of its own before the service sees anything."""
    sent: dict[str, Any] = query or {}
    repeatable = {"name"} if context.operation.path.endswith("/metrics") else set()
    alone = [isinstance(value, list) and len(value) == 1 for name, value in sent.items() if name not in repeatable]
    told = not any(alone) and all(isinstance(sent[name], list) for name in repeatable & set(sent))
    return told and len(json.dumps(sent)) < LONGEST_QUERY


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """The stream of a job that has not ended does not end either, a job that was made up may run for years, and a client gives
    every request an idempotency key of its own."""
    if case.operation.path.endswith("/stream") and str(case.path_parameters.get("job_id")).startswith("job_"):
        case.path_parameters["job_id"] = JOBS[0]
    positive = case.meta.generation.mode == GenerationMode.POSITIVE
    if positive and "idempotency-key" in (case.headers or {}):
        case.headers["idempotency-key"] = str(uuid.uuid4())
    made_up = case.operation.label == "POST /v1/jobs" and positive
    if made_up and isinstance(case.body, dict):
        case.body = json.loads(json.dumps(case.body)) | {"timeout_seconds": JOB_SECONDS}
