"""A ZIP from a stranger: its entries checked before one byte of them is unpacked. Nothing is ever extracted under a name."""

from __future__ import annotations

import itertools
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from workers.trainer.formats.prepared import UnreadableFile

MAX_ENTRIES = 1_000_000
METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
ENCRYPTED = 1
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)


@contextmanager
def opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """The archive and its files, folders left out, in its own order. Raises UnreadableFile."""
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN as error:
        raise UnreadableFile("the ZIP file is damaged or cut off") from error
    with archive:
        yield archive, _checked(archive.infolist(), path.stat().st_size)


def _checked(entries: list[zipfile.ZipInfo], size: int) -> list[zipfile.ZipInfo]:
    if len(entries) > MAX_ENTRIES:
        raise UnreadableFile(f"the ZIP file has {len(entries):,} entries; at most {MAX_ENTRIES:,} are read")
    names: set[str] = set()
    for entry in entries:
        if (why := _unsafe(entry)) is not None:
            raise UnreadableFile(f"the ZIP file's entry {entry.filename[:80]!r} {why}")
        if entry.filename in names:
            raise UnreadableFile(f"the ZIP file's entry {entry.filename[:80]!r} stands twice")
        names.add(entry.filename)
    in_order = sorted(entries, key=lambda entry: entry.header_offset)
    for entry, following in itertools.pairwise(in_order):
        if entry.header_offset + entry.compress_size > following.header_offset:
            raise UnreadableFile("entries of the ZIP file share their bytes")
    if in_order and in_order[-1].header_offset + in_order[-1].compress_size > size:
        raise UnreadableFile("the ZIP file is damaged or cut off")
    return [entry for entry in entries if not entry.is_dir()]


def _unsafe(entry: zipfile.ZipInfo) -> str | None:
    name, mode = entry.filename, entry.external_attr >> 16
    if not name or name.startswith("/") or "\\" in name or ":" in name or ".." in PurePosixPath(name).parts:
        return "has a name that is no plain relative path"
    if not name.isprintable():
        return "has a name with characters that cannot be shown"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a special file"
    if entry.flag_bits & ENCRYPTED:
        return "is encrypted"
    if entry.compress_type not in METHODS:
        return "is packed by another method than deflate"
    return None


@contextmanager
def reading(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    """An entry's bytes as a stream that ends at its declared size. Raises UnreadableFile when it is not what it says."""
    try:
        with archive.open(entry) as stream:
            yield stream
    except UnreadableFile:
        raise
    except BROKEN as error:
        raise UnreadableFile(f"the ZIP file's entry {entry.filename[:80]!r} is damaged") from error
