"""Reading JSON strictly."""

from __future__ import annotations

import pytest

from app.body import MAX_DEPTH, decode
from app.problems import Problem


def test_ordinary_json_is_decoded_in_order() -> None:
    assert list(decode(b'{"b": 1, "a": [1.5, null, true, "\\u00e9"]}').items()) == [  # type: ignore[attr-defined]
        ("b", 1),
        ("a", [1.5, None, True, "é"]),
    ]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{'a': 1}", b"NaN", b'{"a": -Infinity}', b"\xff\xfe", b"[1,]", b"\xef\xbb\xbf{}", b"{} {}"]
)
def test_what_is_not_json_is_400(body: bytes) -> None:
    with pytest.raises(Problem) as raised:
        decode(body)
    assert raised.value.status == 400


@pytest.mark.parametrize(
    ("body", "status", "pointer", "code"),
    [
        (b'{"a": 1, "a": 2}', 400, "/a", "duplicate_key"),
        (b'{"x": [{"a/b": 1, "c": 2, "a/b": 3}]}', 400, "/x/0/a~1b", "duplicate_key"),
        (b'{"optimizer": {"lr": 1e999}}', 422, "/optimizer/lr", "out_of_range"),
        (b'{"a": -1e999}', 422, "/a", "out_of_range"),
        (b'{"a": ' + b"9" * 400 + b"}", 422, "/a", "out_of_range"),
        (b'{"a": ' + b"9" * 10_000 + b"}", 422, "/a", "out_of_range"),
        (b'{"name": "\\ud800"}', 422, "/name", "not_text"),
        (b'{"name": "a\\u0000"}', 422, "/name", "not_text"),
        (b'{"m": {"\\udc00": 1}}', 422, "/m", "not_text"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), 422, "/0" * MAX_DEPTH, "too_deep"),
        (b"[" * 100_000 + b"]" * 100_000, 422, "", "too_deep"),
        (b"[" + b"1," * 100_000 + b"1]", 422, "", "too_large"),
        (b"[" + b"{}," * 60_000 + b"1]", 422, "", "too_large"),
        (b'{"a": ' + b"-" + b"9" * 2_000_000 + b"}", 422, "/a", "out_of_range"),
    ],
)
def test_json_that_no_spec_can_mean_is_refused_with_its_place(body: bytes, status: int, pointer: str, code: str) -> None:
    with pytest.raises(Problem) as raised:
        decode(body)
    assert raised.value.status == status
    assert [(e["pointer"], e["code"]) for e in raised.value.errors] == [(pointer, code)]


def test_a_long_list_of_problems_is_cut() -> None:
    with pytest.raises(Problem) as raised:
        decode(b"[" + b"1e999," * 5000 + b"1]")
    assert len(raised.value.errors) == 100


@pytest.mark.parametrize(
    "body", [b"[1." + b"9" * 2_000_000 + b"]", b'["' + b"," * 99_000 + b'"]', b"[" + b'"",' * 90_000 + b"1]"]
)
def test_what_is_long_and_harmless_is_read(body: bytes) -> None:
    assert isinstance(decode(body), list)
