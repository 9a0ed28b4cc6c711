"""/v1/catalog: what a spec may name, with the JSON Schema of each."""

from __future__ import annotations

import functools
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from app.answers import answer
from app.lists import envelope
from jobs.catalog import DATASETS, SECTIONS, Argument, Entry, catalog
from jobs.entry_schemas import dataset_schema, entry_schema
from jobs.examples import Example, example
from jobs.model_examples import EXAMPLES as MODELS
from jobs.model_examples import ModelExample, described

router = APIRouter(tags=["catalog"])

Section = Literal[
    "losses", "optimizers", "lr_schedulers", "layers", "operations", "initializers", "metrics", "datasets", "models"
]
# It changes with the installed torch only, so with a restart.
HEADERS = {"Cache-Control": "max-age=300"}


@router.get("/v1/catalog", summary="What a spec may name", responses={200: answer("Catalog")})
def read_catalog() -> JSONResponse:
    """The names in every section; a section of its own has the arguments and schemas."""
    found = catalog()
    names: dict[str, Any] = {section: _usable(section) for section in SECTIONS}
    names |= {"datasets": list(DATASETS), "models": list(MODELS)}
    versions = {"torch": found.torch_version, "torchmetrics": found.torchmetrics_version}
    links = {section: f"/v1/catalog/{section}" for section in names}
    return JSONResponse({"object": "catalog", **versions, "sections": names, "links": links}, headers=HEADERS)


def _usable(section: str) -> list[str]:
    return [name for name, entry in catalog().section(section).items() if entry.refused is None]


@router.get("/v1/catalog/{section}", summary="One section of the catalog", responses={200: answer("CatalogSection")})
def read_section(section: Section) -> JSONResponse:
    """Every entry; one that cannot be used says why in `refused`.

    `schema` is the JSON Schema of the class as it stands in a spec. `example` is the class in a spec, and `example_spec` a job
    around it that runs in a moment. Where that names an upload, `example_files` has its name and content: post it to /v1/files
    as it is, and it gets the id that stands in the spec. `placeholders` of a model are pointers to where the id of an upload of
    your own goes in it.
    """
    return JSONResponse(_section(section), headers=HEADERS)


@functools.cache
def _section(section: str) -> dict[str, Any]:
    if section == "datasets":
        return envelope((_dataset(name, row) for name, row in DATASETS.items()), key="name")
    if section == "models":
        return envelope((_model(name) for name in MODELS), key="name")
    return envelope((_entry(entry) for entry in catalog().section(section).values()), key="name")


def _dataset(name: str, row: dict[str, Any]) -> dict[str, Any]:
    entry = {"object": "catalog_entry", "section": "datasets", "name": name}
    return {**entry, **row, "schema": dataset_schema(name), **_example("datasets", name)}


def _model(name: str) -> dict[str, Any]:
    entry = {"object": "catalog_entry", "section": "models", "name": name, **described(name)}
    return {**entry, **_shown(MODELS[name]), "placeholders": list(MODELS[name].placeholders)}


def _example(section: str, name: str) -> dict[str, Any]:
    found = example(section, name)
    return _shown(found) if found is not None else {"example": None, "example_spec": None, "example_files": []}


def _shown(found: Example | ModelExample) -> dict[str, Any]:
    files = [{"id": file_id, "name": file, "content": text.decode()} for file_id, (file, text) in found.files.items()]
    return {"example": found.component, "example_spec": found.spec, "example_files": files}


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "object": "catalog_entry",
        "section": entry.section,
        "name": entry.name,
        "summary": entry.summary,
        "refused": entry.refused,
        **({"inputs": list(entry.inputs), "outputs": list(entry.outputs)} if entry.section in {"layers", "operations"} else {}),
        "arguments": [_argument(argument) for argument in entry.arguments.values()],
        # What a loss's `inputs` may name; of other classes nothing.
        "forward": list(entry.forward),
        # What is refused has arguments that no JSON can hold, such as a function.
        "schema": entry_schema(entry) if entry.refused is None else None,
        **_example(entry.section, entry.name),
    }


def _argument(argument: Argument) -> dict[str, Any]:
    return {
        "name": argument.name,
        "required": argument.required and not argument.inferred,
        "default": argument.default,
        "inferred": argument.inferred,
        "refused": argument.refused,
    }
