"""Checks `{"type": T, ...}` against the catalog: every problem at once, each with its pointer."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jobs import supplement
from jobs.catalog import LISTS, MAX_LAYERS, MAX_LIST, Argument, Entry, catalog
from jobs.expression import ExpressionError, compiled

MAX_INTEGER = 2**53  # beyond it a JSON reader may round
MAX_SHOWN = 60  # characters of a user's own value in a message

SINGULAR = {
    "losses": "loss",
    "optimizers": "optimizer",
    "lr_schedulers": "scheduler",
    "layers": "layer",
    "operations": "operation",
    "initializers": "initialiser",
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
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lowered, 1, 0.6)
    return f'; did you mean "{lowered[near[0]]}"?' if near else ""


def shown(value: object) -> str:
    """A user's value in a message, in JSON's words: a scalar cut to a readable length, never the inside of an object."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    if isinstance(value, int) and abs(value) > MAX_INTEGER:  # Python refuses to write thousands of digits
        return "a number of that size"
    text = json.dumps(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def check_component(section: str, body: Any, pointer: str, own: frozenset[str] = frozenset()) -> Iterator[SpecProblem]:
    """Every problem of one long-form component; members in `own` are postgrad's and checked elsewhere."""
    kind = SINGULAR[section]
    if not isinstance(body, Mapping):
        yield SpecProblem(pointer, "wrong_type", f'a {kind} is a name or {{"type": ...}}, not {shown(body)}')
        return
    if "type" not in body:
        yield SpecProblem(f"{pointer}/type", "missing", f"which {kind}? Give `type`, the name of a class")
        return
    name, entries = body["type"], catalog().section(section)
    if not isinstance(name, str):
        yield SpecProblem(f"{pointer}/type", "wrong_type", f"a {kind}'s type is the name of a class, not {shown(name)}")
    elif name not in entries:
        usable = [n for n, entry in entries.items() if entry.refused is None]
        hint = did_you_mean(name, usable) or did_you_mean(name, entries)
        yield SpecProblem(f"{pointer}/type", "unknown_type", f"there is no {kind} {shown(name)}{hint}")
    elif (reason := entries[name].refused) is not None:
        yield SpecProblem(f"{pointer}/type", "not_supported", f"{name} cannot be used: {reason}")
    else:
        given = {key: value for key, value in body.items() if key != "type" and key not in own}
        yield from check_arguments(entries[name], given, pointer)


def check_arguments(entry: Entry, given: Mapping[str, Any], pointer: str, *, whole: bool = True) -> Iterator[SpecProblem]:
    """Every problem of a class's keyword arguments; those that it needs may be elsewhere unless they are the `whole`."""
    for name, value in given.items():
        where = f"{pointer}/{escape(name)}"
        argument = entry.arguments.get(name)
        if argument is None:
            hint = did_you_mean(name, entry.usable()) or f"; it has {', '.join(entry.usable()) or 'none'}"
            yield SpecProblem(where, "unknown_field", f"{entry.name} has no argument {shown(name)}{hint}")
        elif argument.refused is not None:
            yield SpecProblem(where, "not_supported", f"{entry.name}'s {name} cannot be given: {argument.refused}")
        else:
            yield from check_value(entry, argument, value, where)
    for name in entry.missing(given) if whole else ():
        yield SpecProblem(f"{pointer}/{name}", "missing", f"{entry.name} needs {name}")


def check_value(entry: Entry, argument: Argument, value: Any, where: str) -> Iterator[SpecProblem]:
    """Type, choices and bounds of one argument's value."""
    form = next((f for f in argument.forms if _fits(f, value, argument)), None)
    name = f"{entry.name}'s {argument.name}"
    if form is None:
        yield from _misfit(name, argument, value, where)
    elif form == "string" and argument.choices and value not in argument.choices:
        detail = f"{name} is one of {', '.join(argument.choices)}, not {shown(value)}{did_you_mean(value, argument.choices)}"
        yield SpecProblem(where, "unknown_choice", detail)
    elif form in LISTS:
        yield from _check_list(entry, argument, value, where)
    elif form in {"expression", "expressions"}:
        yield from _check_expressions(value, where)
    elif form in {"integer", "number"}:
        yield from _check_number(entry, argument, value, where)
    elif form == "layers":
        yield from check_layers(value, where)
    elif form == "layer":
        yield from check_component("layers", value, where)
        if argument.choices and value.get("type") not in argument.choices:
            yield SpecProblem(f"{where}/type", "unknown_choice", f"{name} is one of {', '.join(argument.choices)}")


def check_layers(layers: list[Any], pointer: str) -> Iterator[SpecProblem]:
    """Every problem of a Sequential's layers: each takes one input, what the layer before it gives."""
    if not 1 <= len(layers) <= MAX_LAYERS:
        yield SpecProblem(pointer, "out_of_range", f"a Sequential has 1 to {MAX_LAYERS} layers, not {len(layers)}")
    entries = catalog().section("layers")
    for index, layer in enumerate(layers[:MAX_LAYERS]):
        yield from check_component("layers", layer, f"{pointer}/{index}")
        kind = layer.get("type") if isinstance(layer, Mapping) else None
        if isinstance(kind, str) and kind in entries and entries[kind].refused is None and entries[kind].inputs[0] > 1:
            detail = f"{kind} takes {entries[kind].inputs[0]} inputs; make it a node of a Graph, where inputs have names"
            yield SpecProblem(f"{pointer}/{index}/type", "not_supported", detail)


def _misfit(name: str, argument: Argument, value: Any, where: str) -> Iterator[SpecProblem]:
    """A wrong type; when the list is right and only members are wrong, each of those."""
    lists = [form for form in argument.forms if form in LISTS]
    if not isinstance(value, list) or not lists or len(value) > MAX_LIST:
        wanted = " or ".join(WORDS[form] for form in argument.forms)
        yield SpecProblem(where, "wrong_type", f"{name} wants {wanted}, got {shown(value)}")
        return
    for index, member in enumerate(value):
        if not _is_member(lists[0], member, argument):
            detail = f"{name} wants {WORDS[lists[0]]}, got {shown(member)} in it"
            yield SpecProblem(f"{where}/{index}", "wrong_type", detail)


def _check_expressions(value: str | list[str], where: str) -> Iterator[SpecProblem]:
    texts = [(where, value)] if isinstance(value, str) else [(f"{where}/{i}", text) for i, text in enumerate(value)]
    for pointer, text in texts:
        try:
            compiled(text)
        except ExpressionError as error:
            yield SpecProblem(pointer, "out_of_range", str(error))


def _check_list(entry: Entry, argument: Argument, value: list[Any], where: str) -> Iterator[SpecProblem]:
    name = f"{entry.name}'s {argument.name}"
    if argument.length is not None and len(value) != argument.length:
        detail = f"{name} has {argument.length} members, not {len(value)}"
        yield SpecProblem(where, "out_of_range", detail)
    elif not 1 <= len(value) <= MAX_LIST:
        yield SpecProblem(where, "out_of_range", f"{name} has 1 to {MAX_LIST} members, not {len(value)}")
    for index, member in enumerate(value[:MAX_LIST]):
        if member is not None:
            yield from _check_number(entry, argument, member, f"{where}/{index}")


def _check_number(entry: Entry, argument: Argument, value: float, where: str) -> Iterator[SpecProblem]:
    low, high = argument.minimum, argument.maximum
    if entry.section == "layers" and isinstance(value, int):
        low = -supplement.MAX_SIZE if low is None else low
        high = supplement.MAX_SIZE if high is None else high
    if not math.isfinite(value) if isinstance(value, float) else abs(value) > MAX_INTEGER:
        problem = "must be a finite number, and a whole one at most 2^53 in size"
    elif low is not None and value < low:
        problem = f"must be at least {low:g}"
    elif high is not None and value > high:
        problem = f"must be at most {high:g}"
    elif argument.above is not None and value <= argument.above:
        problem = f"must be greater than {argument.above:g}"
    elif argument.below is not None and value >= argument.below:
        problem = f"must be less than {argument.below:g}"
    else:
        return
    yield SpecProblem(where, "out_of_range", f"{entry.name}'s {argument.name} {problem}, got {_number_shown(value)}")


def _number_shown(value: float) -> str:
    return shown(value) if isinstance(value, int) or math.isfinite(value) else repr(value)


WORDS = {
    "null": "null",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "a string",
    "integers": "a list of whole numbers",
    "numbers": "a list of numbers",
    "tensor": "a list of numbers",
    "expression": 'an expression of epoch, such as "0.95 ** epoch"',
    "expressions": "a list of them, one for each parameter group",
    "schedulers": "a list of schedulers",
    "layer": 'a layer, {"type": ...}',
    "layers": "a list of layers",
}


def _fits(form: str, value: Any, argument: Argument) -> bool:
    if form in LISTS:
        return isinstance(value, list) and all(_is_member(form, member, argument) for member in value)
    return _FITS[form](value)


def _is_member(form: str, member: Any, argument: Argument) -> bool:
    if member is None:
        return argument.null_members
    return _is_integer(member) if form == "integers" else _is_number(member)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= MAX_LIST


def _is_integer(value: Any) -> bool:
    # In Python True is an int; in a spec it is not.
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_integer(value) or isinstance(value, float)


_FITS: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": _is_integer,
    "number": _is_number,
    "string": lambda value: isinstance(value, str),
    "expression": lambda value: isinstance(value, str),
    "expressions": lambda value: _is_list(value) and all(isinstance(text, str) for text in value),
    "schedulers": lambda value: _is_list(value),
    "layer": lambda value: isinstance(value, Mapping),
    "layers": lambda value: isinstance(value, list),
}
