"""The reference page is the catalog's."""

from __future__ import annotations

from jobs import reference
from jobs.catalog import Argument, catalog


def test_the_stored_page_has_not_drifted() -> None:
    assert reference.PATH.read_text(encoding="utf-8") == reference.text(), "run `python -m jobs.reference`"


def test_every_class_stands_in_it_and_every_refusal_with_its_sentence() -> None:
    page = reference.text()
    for entries in catalog().sections.values():
        for entry in entries.values():
            assert (f"### {entry.name}\n" in page) == (entry.refused is None) or entry.name == "CosineSimilarity"
            assert entry.refused is None or entry.refused in page


def test_an_argument_tells_forms_bounds_and_default() -> None:
    found = reference.described(
        Argument("betas", ("null", "numbers"), default=[0.9, 1], minimum=0, below=1, maximum=None, length=2)
    )
    assert found == "null or a list of 2 numbers from 0 below 1; default `[0.9, 1]`"
    assert reference.described(Argument("mode", ("string",), required=True, choices=("a", "b"))) == '"a" or "b"'
    assert reference.described(Argument("size", ("integer",), inferred=True, maximum=65_536)).endswith("to 65,536; *inferred*")
