"""No file makes a reader crash, hang, or accept what it then describes falsely. `python -m tests.fuzz` goes on for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.readers import READERS, makers
from tests.fuzz.reading import fuzz

QUICK, LONG = range(60), range(10_000, 11_500)


def check(name: str, folder: Path, numbers: range) -> None:
    make, asked = makers([name], folder)[name]
    found = fuzz(make, folder, numbers, asked)
    print(found.line(name))
    assert not found.crashes + found.hangs, found
    assert (found.cases, found.refused > 0) == (len(numbers), True)


@pytest.mark.parametrize("name", READERS)
def test_made_up_files(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", READERS)
def test_many_made_up_files(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, LONG)
