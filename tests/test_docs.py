"""Every test that a page of the docs names as its proof is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`")


@pytest.mark.parametrize("page", ["faults.md", "operating.md", "promises.md"])
def test_the_tests_that_a_page_names_exist(page: str) -> None:
    """`tests/x.py::name`, `tests/x.py`, or `::name` for one of the file that was named last."""
    found, file = 0, ""
    for match in NAMED.finditer((ROOT / "docs" / page).read_text(encoding="utf-8")):
        if not (match[1] or match[2]):
            continue
        file = match[1] or file
        text = (ROOT / file).read_text(encoding="utf-8")
        assert match[2] is None or f"def {match[2]}(" in text, f"{file} has no {match[2]}"
        found += 1
    assert found
