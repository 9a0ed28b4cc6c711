"""/openapi.json: what FastAPI derives, and what it cannot know: the job spec, the problem document, and the key."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from app.answers import REF, SCHEMAS
from app.key_routes import KeyWanted
from app.prune_routes import PruneWanted
from app.security import PROTECTED, asks_for_a_key
from jobs.keyring import ADMIN, READ, WRITE
from jobs.model_examples import EXAMPLES as MODELS
from jobs.spec import JobSpec

BODIES: dict[str, type[BaseModel]] = {"/v1/keys": KeyWanted, "/v1/prune": PruneWanted}

EXAMPLES: dict[str, Any] = {
    "breast-cancer-mlp": {
        "summary": "A classifier for a built-in table",
        "value": {
            "name": "breast-cancer-mlp",
            "dataset": {"type": "builtin", "name": "breast_cancer", "normalize": "standard"},
            "split": {"train": 0.8, "val": 0.2},
            "model": {
                "type": "Sequential",
                "layers": [
                    {"type": "Linear", "out_features": 64},
                    {"type": "ReLU"},
                    {"type": "Linear", "out_features": 1},
                    {"type": "Sigmoid"},
                ],
            },
            "loss": {"type": "BCELoss", "reduction": "sum"},
            "optimizer": {"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0, "amsgrad": False},
            "lr_scheduler": {"type": "CosineAnnealingLR", "T_max": 20},
            "metrics": ["BinaryAccuracy"],
            "batch_size": 32,
            "epochs": 20,
            "seed": 0,
        },
    },
    "residual-graph": {
        "summary": "A graph of named nodes: images through a residual block",
        "value": {
            "dataset": {"type": "builtin", "name": "digits"},
            "model": {
                "type": "Graph",
                "inputs": ["x"],
                "nodes": {
                    "stem": {"type": "Conv2d", "out_channels": 8, "kernel_size": 3, "padding": 1, "inputs": ["x"]},
                    "act": {"type": "ReLU", "inputs": ["stem"]},
                    "conv": {"type": "Conv2d", "out_channels": 8, "kernel_size": 3, "padding": 1, "inputs": ["act"]},
                    "sum": {"type": "add", "inputs": ["stem", "conv"]},
                    "pool": {"type": "mean", "dim": [2, 3], "inputs": ["sum"]},
                    "head": {"type": "Linear", "out_features": 10, "inputs": ["pool"]},
                },
                "outputs": ["head"],
                "initializers": [{"params": "head.weight", "type": "xavier_uniform_"}],
            },
            "loss": "CrossEntropyLoss",
            "optimizer": "AdamW",
            "batch_size": 64,
            "epochs": 5,
        },
    },
    "shortest": {
        "summary": "Only what is required, short forms",
        "value": {
            "dataset": {"type": "builtin", "name": "iris"},
            "model": {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 3}]},
            "loss": "CrossEntropyLoss",
            "optimizer": {"type": "SGD", "lr": 0.1},
            "batch_size": 16,
            "epochs": 5,
        },
    },
    **{f"model-{name}": {"summary": MODELS[name].summary, "value": MODELS[name].spec} for name in ("exported", "python")},
}

PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "An error, as RFC 9457 has it.",
    "required": ["type", "title", "status", "detail", "errors"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {
                    "pointer": {"type": "string", "description": "JSON pointer into the body that was sent."},
                    "parameter": {"type": "string", "description": "The query or path parameter, where one is at fault."},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}

PROBLEM_ANSWER: dict[str, Any] = {
    "description": "A problem document",
    "content": {"application/problem+json": {"schema": {"$ref": REF.format(model="Problem")}}},
}


KEYS = (
    "`pg_...`, made by POST /v1/keys. A server on a loopback address needs none. Scopes: read for every GET, write for what "
    "changes something, code for jobs of exported or Python models on top of write, admin for everything and for keys."
)


def install(app: FastAPI) -> None:
    """Replaces the app's own generator; the document is made at the first request for it."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def build(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
    spec = JobSpec.model_json_schema(ref_template=REF)
    schemas.update(spec.pop("$defs", {}))
    schemas.update(SCHEMAS | {"JobSpec": spec, "Problem": PROBLEM})
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own shape, which this API never answers with
        schemas.pop(unused, None)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": KEYS}}
    optional: list[dict[str, list[str]]] = [] if asks_for_a_key(app.state.settings) else [{}]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["security"] = [*optional, {"key": [_scope(path, method)]}] if path.startswith(PROTECTED) else []
            for parameter in operation.get("parameters", []):
                parameter["schema"] = _sent(parameter["schema"])
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = PROBLEM_ANSWER
            for status, told in operation["responses"].items():
                if status.startswith(("4", "5")):
                    told.setdefault("content", PROBLEM_ANSWER["content"])
    document["paths"]["/v1/jobs"]["post"]["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": REF.format(model="JobSpec")}, "examples": EXAMPLES}},
    }
    for path, model in BODIES.items():
        schemas[model.__name__] = model.model_json_schema(ref_template=REF)
        document["paths"][path]["post"]["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}},
        }
    return document


def _scope(path: str, method: str) -> str:
    """Which of a key's scopes the operation takes."""
    if path.startswith(("/v1/keys", "/v1/prune")):
        return ADMIN
    return READ if method == "get" else WRITE


def _sent(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter without null, which is there for the default and which no URL and no header can hold."""
    kinds: list[dict[str, Any]] = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {name: value for name, value in schema.items() if name != "anyOf"} | kinds[0]
