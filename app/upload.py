"""Receiving a multipart upload: straight to disk and hashed on the way, never whole in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.body import is_text, pieces
from app.problems import Problem, error, not_understood, too_large, wrong_media_type
from jobs.names import NOT_PLAIN, is_plain_name

PART = "file"
NOT_TAKEN = "The file cannot be taken"
MAX_NAME_CHARACTERS = 255
FRAMING_BYTES = 64 * 1024  # what boundaries and part headers may add to a file of the greatest size


@dataclass(frozen=True)
class Upload:
    """A whole file on disk under a temporary name."""

    path: Path
    sha256: str
    size_bytes: int
    name: str
    media_type: str | None


class _Receiver:
    """The parser's callbacks: one part named `file` goes to disk, any other part is an error."""

    def __init__(self, target: BinaryIO, limit: int) -> None:
        self._target, self.limit = target, limit
        self.digest, self.size = hashlib.sha256(), 0
        self.name, self.media_type, self.complete = "", None, False
        self._header, self._value = bytearray(), bytearray()
        self._headers: dict[str, str] = {}

    media_type: str | None

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._headers.clear,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_ended,
            "on_headers_finished": self._part_starts,
            "on_part_data": self._part_data,
            "on_end": self._ended,
        }

    def _header_ended(self) -> None:
        # latin-1 keeps every byte: parse_options_header gives them back, to be read as UTF-8.
        self._headers[self._header.decode("latin-1").lower()] = self._value.decode("latin-1")
        self._header.clear()
        self._value.clear()

    def _part_starts(self) -> None:
        disposition, options = parse_options_header(self._headers.get("content-disposition", ""))
        part = options.get(b"name", b"").decode("utf-8", "replace")
        if disposition != b"form-data" or part != PART or b"filename" not in options or self.name:
            detail = f"send exactly one file, as the part named {PART!r}"
            raise Problem(422, "invalid-file", NOT_TAKEN, detail, [error("", "unknown_part", detail)])
        self.name = _plain_name(options[b"filename"].decode("utf-8", "replace"))
        self.media_type = self._headers.get("content-type")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self.size += end - start
        if self.size > self.limit:
            raise too_large(self.limit)
        piece = data[start:end]
        self.digest.update(piece)
        self._target.write(piece)

    def _ended(self) -> None:
        self.complete = True


async def receive(request: Request, path: Path, limit: int) -> Upload:
    """Writes the upload to `path`. Raises Problem: 400, 413, 415 or 422; the caller removes the file then."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise wrong_media_type("multipart/form-data")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit + FRAMING_BYTES:
        raise too_large(limit)
    with path.open("wb") as target:
        receiver = _Receiver(target, limit)
        await _parse(request, options[b"boundary"], receiver)
    if not receiver.complete or not receiver.name:
        raise not_understood(f"the upload ends before its part {PART!r} does")
    return Upload(path, receiver.digest.hexdigest(), receiver.size, receiver.name, receiver.media_type)


async def _parse(request: Request, boundary: bytes, receiver: _Receiver) -> None:
    try:
        parser = MultipartParser(boundary, receiver.callbacks())  # type: ignore[arg-type]
        received = 0
        async for chunk in pieces(request):
            received += len(chunk)
            if received > receiver.limit + FRAMING_BYTES:  # parts and endings without end are no part's data
                raise too_large(receiver.limit)
            await run_in_threadpool(parser.write, chunk)  # hashes and writes: not on the event loop
    except FormParserError as problem:
        raise not_understood("the body is not multipart/form-data") from problem


def _plain_name(sent: str) -> str:
    """The file's own name without the folders that some clients send; it is shown, never used as a path."""
    name = sent.replace("\\", "/").rpartition("/")[2][:MAX_NAME_CHARACTERS]
    if name in ("", ".", "..") or not is_text(name):
        raise Problem(422, "invalid-file", NOT_TAKEN, "the file has no usable name")
    if not is_plain_name(name):
        raise Problem(422, "invalid-file", NOT_TAKEN, NOT_PLAIN, [error("", "not_plain", NOT_PLAIN)])
    return name
