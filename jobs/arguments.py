"""Checks `{"type": T, ...}` against the catalog: every problem at once, each with its pointer."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jobs import supplement
from jobs.catalog import Argument, Entry, catalog

MAX_LIST = 1000
MAX_INTEGER = 2**53

SINGULAR = {
    "losses": "loss",
    "optimizers": "optimizer",
    "lr_schedulers": "scheduler",
    "layers": "layer",
    "metrics": "metric",
}


@dataclass(frozen=True)
class SpecProblem:
    """One thing wrong with a spec. `pointer` is an RFC 6901 pointer into the posted body, or to the member that is missing."""

    pointer: str
    code: str
    detail: str


def escape(member: object) -> str:
    """A member's name as RFC 6901 writes it."""
    text = str(member).encode("utf-8", "backslashreplace").decode()  # a lone surrogate can be in no answer
    return text.replace("~", "~0").replace("/", "~1")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` for the nearest of the known names, or nothing."""
    names = list(known)
    lowered = {n.lower(): n for n in names}
    near = difflib.get_close_matches(word.lower(), lowered, 1, 0.6)
    return f'; did you mean "{lowered[near[0]]}"?' if near else ""


def shown(value: object) -> str:
    """A user's word in an error, cut to a readable length."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no integer of over 4300 digits, and no list in too many lists
        return f"{type(value).__name__} that is too long to show"
    return text if len(text) <= 60 else text[:57] + "..."


def check_component(section: str, body: Any, pointer: str, own: frozenset[str] = frozenset()) -> Iterator[SpecProblem]:
    """Every problem of one long-form component; members in `own` are postgrad's and checked elsewhere."""
    if not isinstance(body, Mapping):
        yield SpecProblem(pointer, "wrong_type", f'expected a name or {{"type": ...}}, got {shown(body)}')
        return
    name = body.get("type")
    if "type" not in body:
        yield SpecProblem(f"{pointer}/type", "missing", f"which {SINGULAR[section]}? Give `type`, a class name of torch's")
        return
    entries = catalog().section(section)
    if not isinstance(name, str) or name not in entries:
        hint = did_you_mean(name, entries) if isinstance(name, str) else ""
        yield SpecProblem(f"{pointer}/type", "unknown_type", f"there is no {SINGULAR[section]} {shown(name)}{hint}")
        return
    entry = entries[name]
    if entry.refused is not None:
        yield SpecProblem(f"{pointer}/type", "not_supported", f"{name} cannot be used: {entry.refused}")
        return
    given = {k: v for k, v in body.items() if k != "type" and k not in own}
    yield from _check_arguments(entry, given, pointer)


def _check_arguments(entry: Entry, given: Mapping[str, Any], pointer: str) -> Iterator[SpecProblem]:
    for name, value in given.items():
        where = f"{pointer}/{escape(name)}"
        argument = entry.arguments.get(name)
        if argument is None:
            usable = [n for n, a in entry.arguments.items() if a.refused is None]
            hint = did_you_mean(name, usable) or f"; it has {', '.join(usable) or 'none'}"
            yield SpecProblem(where, "unknown_field", f"{entry.name} has no argument {shown(name)}{hint}")
        elif argument.refused is not None:
            yield SpecProblem(where, "not_supported", f"{entry.name}'s {name} cannot be given: {argument.refused}")
        else:
            yield from check_value(entry, argument, value, where)
    for name, argument in entry.arguments.items():
        if argument.required and not argument.inferred and argument.refused is None and name not in given:
            yield SpecProblem(f"{pointer}/{name}", "missing", f"{entry.name} needs {name}")


def check_value(entry: Entry, argument: Argument, value: Any, where: str) -> Iterator[SpecProblem]:
    """Type, choices and bounds of one argument's value."""
    form = next((f for f in argument.forms if _fits(f, value)), None)
    name = f"{entry.name}'s {argument.name}"
    if form is None:
        wanted = " or ".join(_WORDS[f] for f in argument.forms)
        yield SpecProblem(where, "wrong_type", f"{name} wants {wanted}, got {shown(value)}")
    elif form == "string":
        if argument.choices and value not in argument.choices:
            hint = did_you_mean(value, argument.choices)
            detail = f"{name} is one of {', '.join(argument.choices)}, not {shown(value)}{hint}"
            yield SpecProblem(where, "unknown_choice", detail)
    elif form in {"integers", "numbers", "tensor"}:
        wanted_length = _length(entry, argument)
        if wanted_length is not None and len(value) != wanted_length:
            yield SpecProblem(where, "out_of_range", f"{name} has {wanted_length} members, not {len(value)}")
        elif len(value) > MAX_LIST:
            yield SpecProblem(where, "out_of_range", f"{name} has {len(value)} members; at most {MAX_LIST} are taken")
        for index, member in enumerate(value[:MAX_LIST]):
            yield from _check_number(entry, argument, member, f"{where}/{index}")
    elif form in {"integer", "number"}:
        yield from _check_number(entry, argument, value, where)


def _length(entry: Entry, argument: Argument) -> int | None:
    """Members that a list has by the class's name: `Conv2d` wants two, `ZeroPad2d` one for each side; None is any number.

    On the meta device torch takes any, and fails at the first batch.
    """
    if argument.name in supplement.BELOW_ONE | {"etas", "step_sizes", "fpr_range"}:
        return 2
    dimensions = 2 if entry.name in {"Fold", "Unfold"} else int(entry.name[-2]) if entry.name[-2:] in _DIMENSIONS else 0
    if entry.section != "layers" or not dimensions:
        return None
    return 2 * dimensions if "Pad" in entry.name else dimensions


_DIMENSIONS = frozenset({"1d", "2d", "3d"})


def _check_number(entry: Entry, argument: Argument, value: float, where: str) -> Iterator[SpecProblem]:
    low, high = argument.minimum, argument.maximum
    name = f"{entry.name}'s {argument.name}"
    if entry.section == "layers" and isinstance(value, int):
        high = supplement.MAX_SIZE if high is None else high
        low = -supplement.MAX_SIZE if low is None else low
    if argument.name in supplement.BELOW_ONE and not 0 <= value < 1:
        yield SpecProblem(where, "out_of_range", f"{name} must be at least 0 and below 1, got {value!r}")
    elif low is not None and value < low:
        yield SpecProblem(where, "out_of_range", f"{name} must be at least {low:g}, got {shown(value)}")
    elif high is not None and value > high:
        yield SpecProblem(where, "out_of_range", f"{name} must be at most {high:g}, got {shown(value)}")


_WORDS = {
    "null": "null",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "a string",
    "integers": "a list of whole numbers",
    "numbers": "a list of numbers",
    "tensor": "a list of numbers",
}


def _fits(form: str, value: Any) -> bool:
    if form in {"integers", "numbers", "tensor"}:
        member = _is_integer if form == "integers" else _is_number
        return isinstance(value, list) and all(member(v) for v in value)
    return _FITS[form](value)


def _is_integer(value: Any) -> bool:
    # In Python True is an int; in a spec it is not.
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INTEGER


def _is_number(value: Any) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


_FITS: dict[str, Callable[[Any], bool]] = {
    "null": lambda v: v is None,
    "boolean": lambda v: isinstance(v, bool),
    "integer": _is_integer,
    "number": _is_number,
    "string": lambda v: isinstance(v, str),
}
