"""Plain text in UTF-8, for language models: its bytes, and its characters as indices into the sorted vocabulary."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workers.trainer.formats.prepared import UnreadableFile, Writer

BLOCK_BYTES = 2**20
MAX_VOCABULARY = 65_536
FIRST_CHARACTERS = 200
NOT_TEXT = "not plain text: expected UTF-8 without NUL characters"


def read_text(path: Path, writer: Writer) -> dict[str, Any]:
    """The schema; `bytes` uint8 and `characters` int32 (index into the vocabulary, which is sorted by code point) go to
    `writer`. Raises UnreadableFile.
    """
    found: set[str] = set()
    characters, first = 0, ""
    for text in decoded(path, NOT_TEXT):
        found.update(text)
        characters += len(text)
        first += text[: FIRST_CHARACTERS - len(first)]
    if not characters:
        raise UnreadableFile("the file is empty")
    if "\0" in found:
        raise UnreadableFile(NOT_TEXT)
    if len(found) > MAX_VOCABULARY:
        raise UnreadableFile(f"the text has {len(found):,} different characters; at most {MAX_VOCABULARY:,} are read")
    vocabulary = sorted(found)
    points = np.array([ord(c) for c in vocabulary], dtype=np.uint32)
    for text in decoded(path, NOT_TEXT):
        writer.append("characters", np.searchsorted(points, np.frombuffer(text.encode("utf-32-le"), "<u4")).astype("<i4"))
    for block in _blocks(path):
        writer.append("bytes", np.frombuffer(block, np.uint8))
    size = path.stat().st_size
    return {
        "source": "text",
        "rows": characters,
        "bytes": size,
        "characters": characters,
        "vocabulary": vocabulary,
        "first_characters": first,
    }


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def decoded(path: Path, otherwise: str) -> Iterator[str]:
    """The file's text, block by block. Raises UnreadableFile with the sentence `otherwise` where it is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for block in _blocks(path):
            if text := decoder.decode(block):
                yield text
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise UnreadableFile(otherwise) from error
