"""Reading a JSON body strictly. What Python's decoder lets pass is refused here, with a pointer to it.

NaN literals and doubled keys are not JSON (400); a number beyond float64, text that is not Unicode and nesting without end are
JSON that no spec can mean (422). Each of these would otherwise surface later, as a 500 or as a silently changed document.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from app.problems import Problem, error, invalid_spec, not_understood, too_large, too_slow, wrong_media_type
from jobs.arguments import escape

MAX_BODY_BYTES = 2 * 2**20
BODY_SECONDS = 30.0  # for a whole JSON body
SILENCE_SECONDS = 60.0  # between two pieces of an upload, which may take as long as it needs
MAX_DEPTH = 32
MAX_VALUES = 100_000  # two megabytes of brackets are a second's work, and seconds more for the spec's reader
MAX_INTEGER_DIGITS = 40  # a longer one is read as a float: Python refuses to parse 4,300 digits and is slow before that
MAX_ERRORS = 100
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


class _Doubled(dict[str, Any]):
    """An object in which a key stands twice."""

    key = ""


async def read_json(request: Request) -> object:
    """The decoded body of a request. Raises Problem: 400, 413, 415 or 422."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (media_type.startswith("application/") and media_type.endswith("+json")):
        raise wrong_media_type("application/json")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            data = await read_bytes(request, MAX_BODY_BYTES)
    except TimeoutError as late:
        raise too_slow(f"the body did not come within {BODY_SECONDS:g} seconds") from late
    return await run_in_threadpool(decode, data)  # streams go on meanwhile


async def read_bytes(request: Request, limit: int) -> bytes:
    """The body, or 413 as soon as more than `limit` bytes are announced or sent."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
        raise too_large(limit)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


async def pieces(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes. Raises Problem 408 when nothing comes for SILENCE_SECONDS."""
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as late:
            raise too_slow(f"nothing came for {SILENCE_SECONDS:g} seconds") from late
        yield piece


def decode(data: bytes) -> object:
    """JSON text to Python values, refusing what the module's text names. Raises Problem."""
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:  # never less than there are values, but for one
        raise invalid_spec([error("", "too_large", f"the document holds more than {MAX_VALUES} values")])
    try:
        value: object = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_not_a_number, parse_int=_integer
        )
    except UnicodeDecodeError as problem:
        raise not_understood("the body is not UTF-8 text") from problem
    except json.JSONDecodeError as problem:
        where = f"line {problem.lineno}, column {problem.colno}"
        raise not_understood(f"the body is not JSON: {problem.msg} at {where}") from problem
    except RecursionError as problem:
        raise invalid_spec([_too_deep("")]) from problem
    _refuse(list(_odd(value, "", 1)))
    return value


def _refuse(found: list[dict[str, str]]) -> None:
    if not found:
        return
    if any(e["code"] == "duplicate_key" for e in found):
        raise not_understood("a key stands twice in one object", found[:MAX_ERRORS])
    raise invalid_spec(found[:MAX_ERRORS])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    doubled = _Doubled(found)
    seen: set[str] = set()
    doubled.key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return doubled


def _not_a_number(literal: str) -> NoReturn:
    raise Problem(400, "malformed-body", "The body could not be read", f"the body is not JSON: {literal} is not a JSON number")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_INTEGER_DIGITS else float(digits)


def _odd(value: object, pointer: str, depth: int) -> Iterator[dict[str, str]]:
    """Every member that must not be there, each with its pointer."""
    if depth > MAX_DEPTH:
        yield _too_deep(pointer)
    elif isinstance(value, dict):
        yield from _odd_members(value, pointer, depth)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _odd(item, f"{pointer}/{index}", depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        yield error(pointer, "out_of_range", "this number is too large for a 64-bit float")
    elif isinstance(value, str) and not is_text(value):
        yield error(pointer, "not_text", "this text holds a NUL or half of a surrogate pair, so it is not Unicode text")


def _odd_members(value: dict[str, Any], pointer: str, depth: int) -> Iterator[dict[str, str]]:
    if isinstance(value, _Doubled) and is_text(value.key):
        yield error(f"{pointer}/{escape(value.key)}", "duplicate_key", "this key stands twice in its object")
    for key, member in value.items():
        if is_text(key):
            yield from _odd(member, f"{pointer}/{escape(key)}", depth + 1)
        else:
            yield error(pointer, "not_text", "a key of this object is not Unicode text")


def is_text(value: str) -> bool:
    """False for text that cannot be written as UTF-8, or that PostgreSQL cannot hold."""
    return _NO_TEXT.search(value) is None


def _too_deep(pointer: str) -> dict[str, str]:
    return error(pointer, "too_deep", f"the document is nested deeper than {MAX_DEPTH} levels")
