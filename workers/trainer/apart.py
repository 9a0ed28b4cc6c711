"""The checker's answer about what a user brought, from a child under profile `strict` that is gone afterwards.

The warm checker serves everyone: neither a line of a user's Python nor a graph that native code may stumble over runs in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.model_spec import PythonModel
from jobs.profiles import PYTHON
from jobs.spec import JobSpec, PythonDataset, SpecProblem, offer_for
from workers.sandbox import Disposed, Limits, SandboxError, in_disposable_child

Answer = dict[str, Any]


@dataclass(frozen=True)
class _Terms:
    """What the child may take, and how its end is told."""

    what: str
    code: str
    seconds: float  # the API waits for 5, its other questions included
    memory_bytes: int  # of address space, beyond Python and torch


_PYTHON = _Terms("the user's code", "invalid_source", 3.0, 2**30)
# Its graph is JSON of up to 16 MiB, its weights are mapped and take address space only (docs/exported.md has the limits).
_EXPORTED = _Terms("the exported program", "invalid_program", 4.5, 4 * 2**30)


def apart(spec: JobSpec, answered: Callable[[], Answer], readable: Iterable[Path]) -> Answer:
    """The answer that `answered` gives in the child, or one that says why there is none; `readable` are the files it needs."""
    terms = _PYTHON if offer_for(spec) == PYTHON else _EXPORTED
    limits = Limits(memory_bytes=terms.memory_bytes, file_bytes=0, cpu_seconds=math.ceil(terms.seconds))
    try:
        found = in_disposable_child(answered, limits=limits, seconds=terms.seconds, readable=readable, what=terms.what)
        return _plausible(found, terms)
    except SandboxError as error:
        return _problem(f"{_brought(spec)[0]}/type", "not_supported", error)
    except Disposed as error:
        return _problem(_blamed(spec), terms.code, error)


def _brought(spec: JobSpec) -> list[str]:
    """The parts of the spec that the child is for: those in Python, else the exported model."""
    parts = {"/dataset": isinstance(spec.dataset, PythonDataset), "/model": isinstance(spec.model, PythonModel)}
    return [pointer for pointer, python in parts.items() if python] or ["/model"]


def _blamed(spec: JobSpec) -> str:
    """The upload at which it ended, as far as that can be told: the whole spec where two may be to blame."""
    two = isinstance(spec.dataset, PythonDataset) and isinstance(spec.model, PythonModel) and spec.dataset.id != spec.model.id
    return "" if two else f"{_brought(spec)[0]}/id"


def _problem(pointer: str, code: str, error: Exception) -> Answer:
    return {"problems": [{"pointer": pointer, "code": code, "detail": str(error)}]}


def _plausible(answer: Any, terms: _Terms) -> Answer:
    """It is a stranger's word, so its shape is looked at. Raises Disposed when this is not an answer of ours."""
    problem = {"pointer": str, "code": str, "detail": str}
    refusal = Disposed(f"{terms.what} gave another answer than was asked for")
    try:
        found = [
            SpecProblem(**{key: kind(one[key])[:1000] for key, kind in problem.items()}) for one in answer["problems"][:100]
        ]
        if found:
            return {"problems": [{"pointer": p.pointer, "code": p.code, "detail": p.detail} for p in found]}
        numbers = {name: int(answer["parameters"][name]) for name in ("total", "trainable")}
        shown = {name: answer[name] for name in ("effective_spec", "preflight")}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise refusal from error
    if not isinstance(shown["effective_spec"], dict) or not isinstance(shown["preflight"], dict | None):
        raise refusal
    return {"problems": [], "parameters": numbers, **shown}
