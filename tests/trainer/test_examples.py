"""Every example of the catalog is a job that the checker takes, on data that is there. Training them: tests/e2e."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from jobs.catalog import DATASETS, SECTIONS, catalog
from jobs.examples import Example, example
from workers.trainer import check, ingest

NAMES = [(s, n) for s in SECTIONS for n, e in catalog().section(s).items() if e.refused is None]
NAMES += [("datasets", name) for name in DATASETS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, (schema, arrays) in ingest.builtins().items():
        ingest.write(folder / name, schema, arrays)
    return folder


def prepared(made: Example, folder: Path) -> Path:
    """Where the example's data lies, its file read in as an upload is."""
    for file_id, (name, content) in made.files.items():
        if not (folder / file_id).exists():
            (folder / name).write_bytes(content)
            ingest.read(folder / name, folder / file_id)
    dataset = made.spec["dataset"]
    return folder / str(dataset.get("id") or dataset["name"])


@pytest.mark.parametrize(("section", "name"), NAMES)
def test_the_checker_takes_it(section: str, name: str, folder: Path) -> None:
    made = example(section, name)
    assert made is not None
    answer = check.respond({"spec": copy.deepcopy(made.spec), "dataset": str(prepared(made, folder))})
    assert answer.get("problems") == [], answer
    assert answer["parameters"]["total"] < 200_000


def test_what_may_not_be_used_has_none() -> None:
    assert example("losses", "NLLLoss2d") is None
    with pytest.raises(KeyError):
        example("losses", "Loss")
