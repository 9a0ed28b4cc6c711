"""Zips that attack their reader, each with the sentence that it meets."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.trainer.exported.attacks import PICKLED, Payload
from tests.trainer.exported.forging import Records, write

FILES: dict[str, tuple[Callable[[Path, Records], None], str]] = {}


def zipped(name: str, sentence: str) -> Callable[[Callable[[Path, Records], None]], None]:
    def enter(make: Callable[[Path, Records], None]) -> None:
        FILES[name] = make, sentence

    return enter


@zipped("a zip bomb", "is compressed or encrypted")
def _(path: Path, good: Records) -> None:
    write(path, {**good, "data/weights/weight_0": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)


@zipped("records that lie about their size", "claim to be larger than the file|is damaged")
def _(path: Path, good: Records) -> None:
    write(path, good)
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 20 : place + 28] = struct.pack("<LL", 2**31 - 1, 2**31 - 1)
    path.write_bytes(data)


@zipped("many records at one place", "claim to be larger than the file")
def _(path: Path, good: Records) -> None:
    write(
        path, {**good, **{f"data/weights/weight_{i}": b"" for i in range(1000, 1500)}, "data/weights/weight_999": bytes(10_000)}
    )
    with zipfile.ZipFile(path, "a") as archive:
        large = archive.getinfo("m/data/weights/weight_999")
        for info in archive.infolist():
            if info.file_size == 0 and "weight" in info.filename:
                info.file_size = info.compress_size = large.file_size
                info.header_offset, info.CRC = large.header_offset, large.CRC
        archive._didModify = True  # type: ignore[attr-defined]


@zipped("a record outside of its folder", "which has no place in it")
def _(path: Path, good: Records) -> None:
    write(path, {**good, "../../../tmp/executed": b"x"})


@zipped("an absolute record", "which has no place in it|not all in one folder")
def _(path: Path, good: Records) -> None:
    write(path, good)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("/etc/executed", b"x")


@zipped("a backslash", "which has no place in it")
def _(path: Path, good: Records) -> None:
    write(path, {**good, "data\\weights\\..\\executed": b"x"})


@zipped("a record listed twice", "twice")
def _(path: Path, good: Records) -> None:
    write(path, good)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("m/archive_format", b"pt2")


@zipped("too many records", "more than 10,000 records")
def _(path: Path, good: Records) -> None:
    write(path, {f"data/weights/weight_{i}": b"" for i in range(10_001)})


@zipped("cut off", "is no .pt2 file")
def _(path: Path, good: Records) -> None:
    write(path, good)
    path.write_bytes(path.read_bytes()[:-100])


@zipped("empty", "is no .pt2 file")
def _(path: Path, good: Records) -> None:
    path.write_bytes(b"")


@zipped("a pickle", "is no .pt2 file")
def _(path: Path, good: Records) -> None:
    path.write_bytes(PICKLED)


@zipped("what torch.save writes", "which has no place in it")
def _(path: Path, good: Records) -> None:
    torch.save({"model": Payload()}, path)


@zipped("another byte order", "its byteorder is not little")
def _(path: Path, good: Records) -> None:
    write(path, {**good, "byteorder": b"big"})


@zipped("a flipped bit", "is damaged")
def _(path: Path, good: Records) -> None:
    write(path, good)
    data = bytearray(path.read_bytes())
    place = data.index(b"weight_0") + len("weight_0")
    data[place + 3] ^= 1
    path.write_bytes(data)
