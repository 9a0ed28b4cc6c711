"""The uploads that a spec names: found, and of the kind that their place in the spec wants."""

from __future__ import annotations

from dataclasses import dataclass

from app.problems import error, invalid_spec
from app.state import Service
from jobs.model_spec import BROUGHT, ExportedModel, PythonModel
from jobs.spec import BuiltinDataset, FileDataset, JobSpec, PythonDataset
from jobs.store import File, UnknownFile

# What an upload is when its preview has one of these formats, and not data.
NO_DATA = {"exported": "a model that postgrad.export wrote", "python": "a Python source that defines a class"}
NOT_ALLOWED = "{} written in Python are off on this server; its operator turns them on with POSTGRAD_ALLOW_PYTHON=1"


@dataclass(frozen=True)
class Named:
    """What a spec names: the folder of its prepared data or the source of its data set, the file of its model, and the ids of
    the uploads among them."""

    dataset: str | None
    source: str | None
    model: str | None
    files: list[str]


def named(parts: Service, spec: JobSpec) -> Named:
    """Raises Problem with every upload that is not there or is of another kind."""
    problems: list[dict[str, str]] = []
    data = None if isinstance(spec.dataset, BuiltinDataset) else _data(parts, spec.dataset, problems)
    model = _model(parts, spec.model, problems) if isinstance(spec.model, BROUGHT) else None
    if problems:
        raise invalid_spec(problems)
    folder = source = None
    if isinstance(spec.dataset, BuiltinDataset):
        folder = str(parts.folder.builtin(spec.dataset.name))
    elif data is not None and isinstance(spec.dataset, FileDataset):
        folder = str(parts.folder.prepared(data.sha256))
    elif data is not None:
        source = str(parts.folder.file(data.sha256))
    path = None if model is None else str(parts.folder.file(model.sha256))
    return Named(folder, source, path, sorted({file.id for file in (data, model) if file is not None}))


def _data(parts: Service, dataset: FileDataset | PythonDataset, problems: list[dict[str, str]]) -> File | None:
    if isinstance(dataset, PythonDataset):
        return _source(parts, dataset, "/dataset", "data sets", problems)
    file = _found(parts, dataset.id, "/dataset/id", problems)
    if file is not None and (what := NO_DATA.get(file.preview.get("format", ""))) is not None:
        problems.append(error("/dataset/id", "wrong_type", f"this file is {what}, not data"))
    return file


def _model(parts: Service, model: ExportedModel | PythonModel, problems: list[dict[str, str]]) -> File | None:
    if isinstance(model, PythonModel):
        return _source(parts, model, "/model", "models", problems)
    return _of_kind(parts, model, "/model", problems)


def _source(
    parts: Service, named: PythonModel | PythonDataset, pointer: str, what: str, problems: list[dict[str, str]]
) -> File | None:
    if not parts.settings.allow_python:
        problems.append(error(f"{pointer}/type", "not_supported", NOT_ALLOWED.format(what)))
        return None
    return _of_kind(parts, named, pointer, problems)


def _of_kind(
    parts: Service, named: ExportedModel | PythonModel | PythonDataset, pointer: str, problems: list[dict[str, str]]
) -> File | None:
    file = _found(parts, named.id, f"{pointer}/id", problems)
    if file is not None and file.preview.get("format") != named.type:
        problems.append(error(f"{pointer}/id", "wrong_type", f"this file is not {NO_DATA[named.type]}"))
    return file


def _found(parts: Service, file_id: str, pointer: str, problems: list[dict[str, str]]) -> File | None:
    try:
        return parts.store.file(file_id)
    except UnknownFile:
        problems.append(error(pointer, "unknown_file", "no file with this id was uploaded to /v1/files"))
        return None
