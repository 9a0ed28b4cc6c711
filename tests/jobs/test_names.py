"""Names on one line, in the order they are written; every script is welcome."""

from __future__ import annotations

import json
import re

import pytest

from jobs.names import PLAIN_NAME_PATTERN, is_plain_name
from jobs.spec import InvalidSpec, parse
from postgrad.render import UNSEEN, plain
from tests.app.conftest import good_spec

GOOD = ["a", "a b.csv", "日本", "é", "עברית", "می‌خواهم", "👩‍💻", "<img src=x onerror=alert(1)>", "../x", '"', "\xa0"]
BAD = ["a\n", "\x1b]0;owned\x07", "a\tb", "\x7f", "\x9b31m", "invoice\u202efdp.exe", "\u2066a\u2069", "a\u2028b", "\u200fa"]


@pytest.mark.parametrize("name", GOOD)
def test_what_is_taken(name: str) -> None:
    assert is_plain_name(name)
    assert parse(good_spec() | {"name": name}).name == name
    assert plain(name) == name


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name: str) -> None:
    assert not is_plain_name(name)
    with pytest.raises(InvalidSpec) as raised:
        parse(good_spec() | {"name": name})
    (problem,) = raised.value.problems
    assert (problem.pointer, problem.code) == ("/name", "not_plain")
    assert "one line of text" in problem.detail
    shown = plain(name)
    assert is_plain_name(shown)
    assert json.loads(f'"{shown}"') == name


def test_the_schema_and_the_command_line_mean_the_same_characters() -> None:
    schema = re.compile(PLAIN_NAME_PATTERN)
    for code in range(0x3000):
        assert (schema.fullmatch(chr(code)) is None) == (UNSEEN.search(chr(code)) is not None)
