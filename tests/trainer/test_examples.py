"""Every example of the catalog is a job that the checker takes, on data that is there. Training them: tests/e2e."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from jobs.catalog import DATASETS, SECTIONS, catalog
from jobs.examples import Example, example
from jobs.model_examples import EXAMPLES as MODELS
from jobs.model_examples import SOURCE
from jobs.spec import parse
from workers.trainer import check, ingest
from workers.trainer.data import describe

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


@pytest.mark.parametrize("name", ["Sequential", "Graph"])
def test_the_checker_takes_a_form_of_model(name: str, folder: Path) -> None:
    spec = parse(MODELS[name].spec)
    assert check.answer(spec, describe(spec, folder / "breast_cancer"))["problems"] == []


def test_the_source_of_the_example_is_the_docs() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "python.md"
    assert f"```python\n{SOURCE}```" in page.read_text(encoding="utf-8")


def test_what_may_not_be_used_has_none() -> None:
    assert example("losses", "NLLLoss2d") is None
    with pytest.raises(KeyError):
        example("losses", "Loss")
