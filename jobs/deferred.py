"""Members of a spec that API.md promises for a later release: refused by name, so that nobody believes they were heard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jobs.arguments import SpecProblem

FIELDS: dict[str, str] = {
    "/priority": "priority is not supported yet; jobs run in the order they came",
    "/compile": "compiled models (compile) are not supported yet",
    "/fused": "fused arithmetic (fused) is not supported yet",
}
VALUES: dict[str, dict[str, str]] = {}


def deferred(spec: dict[str, Any]) -> Iterator[SpecProblem]:
    """One `not_supported` for every member of the spec that belongs to a later release."""
    for pointer, detail in FIELDS.items():
        parent, _, key = pointer.rpartition("/")
        holder = spec.get(parent[1:]) if parent else spec
        if isinstance(holder, dict) and key in holder:
            yield SpecProblem(pointer, "not_supported", detail)
    for pointer, values in VALUES.items():
        *parents, key = pointer.split("/")[1:]
        holder = spec.get(parents[0]) if parents else spec
        value = holder.get(key) if isinstance(holder, dict) else None
        if isinstance(value, str) and value in values:
            yield SpecProblem(pointer, "not_supported", values[value])
