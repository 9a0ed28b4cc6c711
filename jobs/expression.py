"""A small arithmetic language of one name, `epoch`, for LambdaLR and MultiplicativeLR: parsed here, never run as Python.

    expression  := comparison ["if" comparison "else" expression]
    comparison  := sum [("<" | "<=" | ">" | ">=" | "==" | "!=") sum]
    sum         := term (("+" | "-") term)*
    term        := factor (("*" | "/" | "//" | "%") factor)*
    factor      := ("+" | "-") factor | power
    power       := atom ["**" factor]
    atom        := number | "epoch" | "pi" | function "(" expression ("," expression)* ")" | "(" expression ")"

Functions are min, max, exp, log, sqrt and cos. Values are Python's numbers and mean what Python means by them; what is no real
number, or too large to be a learning rate's factor, raises ExpressionError.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable

Number = int | float
Value = Callable[[int], Number]  # of the epoch

MAX_CHARACTERS = 500
MAX_DEPTH = 40
MAX_DIGITS = 30  # of a whole number
MAX_BITS = 4096  # of a whole number that is computed

TOKEN = re.compile(
    r"\s*(?:(\d+\.\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\d+)|([A-Za-z_]\w*)|(\*\*|//|[<>=!]=|.))",
    re.ASCII,
)
COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne}
BINARY = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}
ONE = {"exp": math.exp, "log": math.log, "sqrt": math.sqrt, "cos": math.cos}
SEVERAL: dict[str, Callable[..., Number]] = {"min": min, "max": max}
WORDS = ("epoch", "pi", "if", "else", *ONE, *SEVERAL)


class ExpressionError(Exception):
    """The text is no expression, or it has no value at this epoch; the message is a sentence for its writer."""


def compiled(text: str) -> Callable[[int], float]:
    """The function of the epoch that the text means. Raises ExpressionError, and so does the function, with the epoch in it."""
    value = _Parser(text).whole()

    def at(epoch: int) -> float:
        try:
            found = float(value(epoch))
        except (ArithmeticError, ValueError) as error:
            raise ExpressionError(f"{text!r} has no value at epoch {epoch}: {error}") from error
        if not math.isfinite(found):
            raise ExpressionError(f"{text!r} is {found} at epoch {epoch}")
        return found

    return at


class _Parser:
    """Recursive descent; every rule gives a function of the epoch."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_CHARACTERS:
            raise ExpressionError(f"an expression has at most {MAX_CHARACTERS} characters, this one {len(text)}")
        self._words = [match.group(match.lastindex or 0) for match in TOKEN.finditer(text.rstrip())]
        self._at = self._depth = 0

    def whole(self) -> Value:
        value = self._expression()
        if self._peek():
            raise ExpressionError(f"an operator is missing before {self._peek()!r}")
        return value

    def _peek(self) -> str:
        return self._words[self._at] if self._at < len(self._words) else ""

    def _next(self) -> str:
        word = self._peek()
        self._at += 1
        return word

    def _expect(self, word: str) -> None:
        if self._peek() != word:
            raise ExpressionError(f"{word!r} is missing before {self._peek() or 'the end'!r}")
        self._at += 1

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError(f"the expression is nested deeper than {MAX_DEPTH} levels")

    def _expression(self) -> Value:
        self._deeper()
        value = self._comparison()
        if self._peek() == "if":
            self._at += 1
            condition = self._comparison()
            self._expect("else")
            value = _conditional(condition, value, self._expression())
        self._depth -= 1
        return value

    def _comparison(self) -> Value:
        value = self._sum()
        if self._peek() in COMPARISONS:
            value = _applied(COMPARISONS[self._next()], value, self._sum())
            if self._peek() in COMPARISONS:
                raise ExpressionError("comparisons cannot be chained; use min, max or a product")
        return value

    def _sum(self) -> Value:
        value = self._term()
        while self._peek() in {"+", "-"}:
            value = _applied(BINARY[self._next()], value, self._term())
        return value

    def _term(self) -> Value:
        value = self._factor()
        while self._peek() in {"*", "/", "//", "%"}:
            value = _applied(BINARY[self._next()], value, self._factor())
        return value

    def _factor(self) -> Value:
        if self._peek() not in {"+", "-"}:
            return self._power()
        sign = operator.neg if self._next() == "-" else operator.pos
        self._deeper()
        value = self._factor()
        self._depth -= 1
        return lambda epoch: sign(value(epoch))

    def _power(self) -> Value:
        base = self._atom()
        if self._peek() != "**":
            return base
        self._at += 1
        self._deeper()
        exponent = self._factor()
        self._depth -= 1
        return _applied(_raised, base, exponent)

    def _atom(self) -> Value:
        word = self._next()
        if word == "(":
            value = self._expression()
            self._expect(")")
            return value
        if word[:1].isdigit() or (word.startswith(".") and len(word) > 1):
            return _constant(_number(word))
        if word == "epoch":
            return lambda epoch: epoch
        if word == "pi":
            return _constant(math.pi)
        if word in ONE or word in SEVERAL:
            return self._call(word)
        if word[:1].isalpha() or word[:1] == "_":
            raise ExpressionError(f"there is no {word!r}; an expression knows {', '.join(WORDS)}")
        raise ExpressionError(f"a number, epoch or a function is missing before {word or 'the end'!r}")

    def _call(self, name: str) -> Value:
        self._expect("(")
        arguments = [self._expression()]
        while self._peek() == ",":
            self._at += 1
            arguments.append(self._expression())
        self._expect(")")
        if name in SEVERAL:
            if len(arguments) < 2:
                raise ExpressionError(f"{name} takes two numbers or more")
            several = SEVERAL[name]
            return lambda epoch: several(*(argument(epoch) for argument in arguments))
        if len(arguments) > 1:
            raise ExpressionError(f"{name} takes one number, not {len(arguments)}")
        one, argument = ONE[name], arguments[0]
        return lambda epoch: one(argument(epoch))


def _number(word: str) -> Number:
    if not word.isdigit():
        return float(word)
    if len(word) > MAX_DIGITS:
        raise ExpressionError(f"a whole number has at most {MAX_DIGITS} digits")
    return int(word)


def _constant(value: Number) -> Value:
    return lambda _epoch: value


def _conditional(condition: Value, value: Value, other: Value) -> Value:
    return lambda epoch: value(epoch) if condition(epoch) else other(epoch)


def _applied(operation: Callable[[Number, Number], Number], left: Value, right: Value) -> Value:
    return lambda epoch: _small(operation(left(epoch), right(epoch)))


def _small(value: Number) -> Number:
    """Whole numbers grow without end in Python: past MAX_BITS they take time and memory."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise OverflowError("the number is too large")
    return value


def _raised(base: Number, exponent: Number) -> Number:
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and abs(base) > 1 and exponent * int(base).bit_length() > MAX_BITS:
        raise OverflowError("the power is too large")
    found = base**exponent
    if isinstance(found, complex):
        raise ValueError("a fractional power of a negative number is not real")
    return found
