"""From where pydantic found a problem to where its writer finds it: RFC 6901 pointers into the body that was posted."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from jobs.arguments import SpecProblem, did_you_mean, escape, shown
from jobs.transforms import NAMES

MAX_DEPTH = 32
MAX_KEY = 1000  # characters
# The forms of a member that has several: its `type` says which.
TAGS: Mapping[str, tuple[str, ...]] = {
    "dataset": ("builtin", "file", "python"),
    "model": ("Sequential", "Graph", "exported", "python"),
    "transform": NAMES,
}
LISTED, NAMED = "listed", "named"  # forms of a node's inputs
# pydantic's words for what went wrong, in ours. Anything else is a value of the right type out of its range.
CODES = {
    "missing": "missing",
    "extra_forbidden": "unknown_field",
    "union_tag_invalid": "unknown_type",
    "union_tag_not_found": "missing",
    "literal_error": "unknown_choice",
    "duplicate": "duplicate",
    "not_plain": "not_plain",
    "int_from_float": "wrong_type",
}


def posted(problem: SpecProblem, body: object) -> SpecProblem:
    """The problem with its pointer cut back to what is in `body`, where a short form ("BCELoss", "column") may stand.

    A missing member keeps its own pointer: that is where it belongs.
    """
    if problem.code == "missing":
        return problem
    kept, at = "", body
    for step in problem.pointer.split("/")[1:]:
        if not isinstance(at, dict | list):
            return SpecProblem(kept, problem.code, problem.detail)
        at = _member(at, step.replace("~1", "/").replace("~0", "~"))
        kept += f"/{step}"
    return problem


def _member(holder: object, key: str) -> object:
    if isinstance(holder, list):
        return holder[int(key)] if key.isdigit() and int(key) < len(holder) else None
    # An absent member counts as an empty object, so that a pointer through it is left alone.
    return holder.get(key, {}) if isinstance(holder, dict) else None


def unreadable(body: object) -> Iterator[SpecProblem]:
    """Text that is not Unicode, and nesting without end: nothing that follows could even say what is wrong with them."""
    waiting: list[tuple[str, object, int]] = [("", body, 0)]
    while waiting:
        pointer, value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            yield SpecProblem(pointer, "too_deep", f"the spec is nested deeper than {MAX_DEPTH} levels")
        elif isinstance(value, str) and not _is_text(value):
            yield SpecProblem(pointer, "not_text", "this text holds a NUL or half of a surrogate pair")
        elif isinstance(value, list):
            waiting += ((f"{pointer}/{i}", member, depth + 1) for i, member in enumerate(value))
        elif isinstance(value, dict):
            if any(len(str(key)) > MAX_KEY for key in value):
                yield SpecProblem(pointer, "out_of_range", f"a key of this object has more than {MAX_KEY} characters")
            elif not all(isinstance(key, str) and _is_text(key) for key in value):
                yield SpecProblem(pointer, "not_text", "a key of this object holds a NUL or half of a surrogate pair")
            else:
                waiting += ((f"{pointer}/{escape(key)}", member, depth + 1) for key, member in value.items())


def _is_text(value: str) -> bool:
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def explained(error: ValidationError, models: Mapping[str, Sequence[type[BaseModel]]]) -> Iterator[SpecProblem]:
    """pydantic's errors as problems. `models` says which fields the object at a pointer may have, for "did you mean"."""
    for found in error.errors(include_url=False):
        steps = _without_tags(found["loc"])
        pointer = "".join(f"/{escape(step)}" for step in steps)
        kind, last = found["type"], str(steps[-1]) if steps else ""
        code = CODES.get(kind) or ("wrong_type" if kind.endswith("_type") and not _is_huge(found["input"]) else "out_of_range")
        if kind.startswith("union_tag"):
            pointer += "/type"
            detail = _tag("transform" if "transforms" in steps else str(steps[0]), found["input"])
        elif kind == "extra_forbidden":
            known = (model.model_fields for model in models.get(pointer.rpartition("/")[0], ()))
            fields = [field.alias or name for found in known for name, field in found.items()]
            detail = f"there is no field {shown(last)}{did_you_mean(last, fields)}"
        elif kind == "missing":
            detail = f"{last} is required"
        else:
            detail = _sentence(found, echo=steps[:1] != ["metadata"])
        yield SpecProblem(pointer, code, detail)


def _is_huge(value: object) -> bool:
    """A whole number that no float holds: pydantic calls its type wrong, where it is the size."""
    return isinstance(value, int) and abs(value) > sys.float_info.max


def _without_tags(loc: tuple[int | str, ...]) -> list[int | str]:
    """`loc` without what is in no body: the union's tag after "dataset" or "model", a transform's index or a node's inputs, and
    the mark of a dictionary's key.
    """
    steps = [step for step in loc if step != "[key]"]
    if len(steps) > 1 and steps[1] in TAGS.get(str(steps[0]), ()):
        del steps[1]
    if len(steps) > 3 and steps[:2] == ["dataset", "transforms"]:
        del steps[3]
    if len(steps) > 4 and steps[:2] == ["model", "nodes"] and steps[3] == "inputs" and steps[4] in (LISTED, NAMED):
        del steps[4]
    return steps


def _tag(member: str, value: object) -> str:
    given, tags = value.get("type") if isinstance(value, dict) else None, TAGS[member]
    known = ", ".join(f'"{tag}"' for tag in tags[:-1]) + f' or "{tags[-1]}"'
    if given is None:
        return f"a {member}'s type is required: {known}"
    return f"a {member} is of type {known}, not {shown(given)}{did_you_mean(str(given), tags)}"


def _sentence(found: Any, echo: bool) -> str:
    """pydantic's words, and the value they are about unless it is the user's own matter (metadata may hold a secret)."""
    message = (found["msg"][:1].lower() + found["msg"][1:]).replace(" after validation", "")
    given = found["input"]
    if not echo or not isinstance(given, str | int | float | None):
        return str(message)
    expected = found.get("ctx", {}).get("expected", "")
    choices = str(expected).replace(" or ", ", ").replace("'", "").split(", ") if found["type"] == "literal_error" else ()
    shown_given = repr(given) if isinstance(given, float) else shown(given)  # NaN and infinity have no JSON
    return f"{message}, got {shown_given}" + (did_you_mean(given, choices) if isinstance(given, str) else "")
