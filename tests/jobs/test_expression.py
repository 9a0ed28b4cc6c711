"""The expression language says what Python says, and nothing else."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.expression import ExpressionError, compiled

NAMES: dict[str, Any] = {"__builtins__": {}, "pi": math.pi, "min": min, "max": max}
NAMES |= {name: getattr(math, name) for name in ("exp", "log", "sqrt", "cos")}


def numbers() -> st.SearchStrategy[str]:
    whole = st.integers(0, 50).map(str)
    return st.one_of(
        whole, st.floats(0, 1e6, allow_subnormal=False).map(repr), st.sampled_from(["epoch", "pi", ".5", "3.", "1e-3"])
    )


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    space = st.sampled_from(["", " ", "  "])
    binary = st.tuples(inner, space, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), space, inner).map("".join)
    bracketed = inner.map("({})".format)
    call = st.tuples(st.sampled_from(["exp", "log", "sqrt", "cos"]), inner).map("{0[0]}({0[1]})".format)
    several = st.tuples(st.sampled_from(["min", "max"]), inner, inner).map("{0[0]}({0[1]}, {0[2]})".format)
    comparison = st.tuples(inner, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), inner).map(
        "(({0[0]}) {0[1]} ({0[2]}))".format
    )
    conditional = st.tuples(inner, comparison, inner).map("({0[0]} if {0[1]} else {0[2]})".format)
    return st.one_of(
        binary, binary, bracketed, st.tuples(st.sampled_from("+-"), inner).map("".join), call, several, conditional
    )


EXPRESSIONS = st.recursive(numbers(), larger, max_leaves=10).filter(lambda text: text.count("**") < 3 and len(text) < 400)


@settings(max_examples=600, deadline=None)
@given(text=EXPRESSIONS, epoch=st.integers(0, 60))
def test_it_is_what_python_says(text: str, epoch: int) -> None:
    try:
        expected = eval(text, NAMES, {"epoch": epoch})
        expected = None if isinstance(expected, complex) else float(expected)
    except (ArithmeticError, ValueError, TypeError):  # TypeError: a complex number in a comparison or a floor division
        expected = None
    try:
        found = compiled(text)(epoch)
    except ExpressionError:
        # A power over 4096 bits is refused where Python goes on; by then it is no float any more, or its inverse is 0.
        assert expected is None or not math.isfinite(expected) or "too large" in _why(text, epoch)
        return
    assert found == expected


def _why(text: str, epoch: int) -> str:
    with pytest.raises(ExpressionError) as raised:
        compiled(text)(epoch)
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "epoch", "value"),
    [
        ("0.95 ** epoch", 3, 0.95**3),
        ("-2 ** 2", 0, -4.0),
        ("2 ** -1", 0, 0.5),
        ("2 ** 3 ** 2", 0, 512.0),
        ("10 - 4 - 3", 0, 3.0),
        ("-7 // 2", 0, -4.0),
        ("epoch / 5 if epoch < 5 else 0.5 * (1 + cos(pi * (epoch - 5) / 15))", 2, 0.4),
        ("epoch / 5 if epoch < 5 else 0.5 * (1 + cos(pi * (epoch - 5) / 15))", 5, 1.0),
        ("1 if epoch < 2 else 2 if epoch < 4 else 3", 3, 2.0),
        ("min(1, epoch, 3)", 2, 1.0),
        ("(epoch > 3) * 2", 4, 2.0),
    ],
)
def test_schedules_people_write(text: str, epoch: int, value: float) -> None:
    assert compiled(text)(epoch) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the end"),
        ("epoch +", "the end"),
        ("2 epoch", "operator is missing"),
        ("epoch)", "operator is missing"),
        ("(epoch", "')' is missing"),
        ("step * 2", "no 'step'"),
        ("__import__('os')", "no '__import__'"),
        ("epoch.__class__", "operator is missing"),
        ("open(1)", "no 'open'"),
        ("(lambda: 1)()", "no 'lambda'"),
        ("[1][0]", "before '['"),
        ("exp(1, 2)", "one number"),
        ("min(1)", "two numbers"),
        ("exp", "'(' is missing"),
        ("1 < 2 < 3", "chained"),
        ("1 if epoch", "'else' is missing"),
        ("epoch = 3", "operator is missing"),
        ("1 @ 2", "operator is missing"),
        ("é", "no 'é'"),
        ("$", "before"),
        ("(" * 100 + "1" + ")" * 100, "nested deeper"),
        ("-" * 100 + "1", "nested deeper"),
        ("2" + "**2" * 100, "nested deeper"),
        ("1" * 100, "digits"),
        ("1+" * 400 + "1", "characters"),
    ],
)
def test_what_is_no_expression_is_refused(text: str, words: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        compiled(text)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    "text",
    ["1 / epoch", "1 % epoch", "log(epoch)", "sqrt(epoch - 1)", "(epoch - 2) ** 0.5", "exp(1000)", "1e308 * 10", "9 ** 9 ** 9"],
)
def test_what_has_no_value_says_so_with_the_epoch(text: str) -> None:
    with pytest.raises(ExpressionError, match="at epoch 0"):
        compiled(text)(0)


def test_no_expression_takes_long() -> None:
    started = time.monotonic()
    for text in ("9 ** 9 ** 9 ** 9", "(9**999)" + "*(9**999)" * 50, "epoch ** epoch ** epoch", "2 ** (2 ** (2 ** (2 ** 99)))"):
        with pytest.raises(ExpressionError, match="too large"):
            compiled(text)(100_000)
    assert time.monotonic() - started < 1
