"""Damage: bytes anywhere, and lies at the places where a format keeps its sizes, types and offsets."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable

Damage = Callable[[bytearray, random.Random], None]

SIZES = (0, 1, 2, 7, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
TOKENS = (
    b"\0",
    b"\n",
    b"\r",
    b'"',
    b",",
    b"\xff",
    b"\xef\xbb\xbf",
    b"NaN",
    b"1e999",
    b"-1",
    b"(",
    b"[" * 300,
    b"PK\x03\x04",
    b"PAR1",
)
DTYPES = (
    b"'O'",
    b"'|O'",
    b"'<f4'",
    b"'>i8'",
    b"'<U9'",
    b"'|S3'",
    b"'<c8'",
    b"'|V8'",
    b"'<M8[s]'",
    b"'<f16'",
    b"[('a', '<f4')]",
    b"None",
)
SHAPES = (
    b"()",
    b"(0,)",
    b"(-1,)",
    b"(3, 0)",
    b"(1000000000000,)",
    b"(4294967296, 4294967296)",
    b"(2.0,)",
    b"(True,)",
    b"[1]",
    b"1",
)
SHAPE, DESCR = re.compile(rb"\([0-9, ]*\)"), re.compile(rb"'[<>|=][a-zA-Z][0-9]+'")
DIRECTORY, ENTRY, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"
# Where the numbers of 2 and 4 bytes stand behind those marks.
SHORTS = {DIRECTORY: (4, 6, 8, 10, 28, 30, 32, 34, 36), ENTRY: (4, 6, 8, 26, 28), END: (4, 6, 8, 10, 20)}
LONGS = {DIRECTORY: (16, 20, 24, 38, 42), ENTRY: (14, 18, 22), END: (12, 16)}


def flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 1, 1, 4, 32])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def cut(data: bytearray, chance: random.Random) -> None:
    if chance.random() < 0.5:
        del data[chance.randrange(len(data)) :]
    else:
        start = chance.randrange(len(data))
        del data[start : start + chance.choice([1, 2, 8, 64])]


def insert(data: bytearray, chance: random.Random) -> None:
    where = chance.randrange(len(data) + 1)
    data[where:where] = chance.choice(TOKENS) if chance.random() < 0.6 else chance.randbytes(chance.choice([1, 4, 64]))


def double(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    piece = bytes(data[start : start + chance.choice([1, 4, 30, 200])])
    where = chance.randrange(len(data))
    data[where:where] = piece


def number(data: bytearray, chance: random.Random) -> None:
    """Four bytes anywhere become a size that somebody may believe."""
    if len(data) >= 4:
        struct.pack_into("<I", data, chance.randrange(len(data) - 3), chance.choice(SIZES))


def zip_lie(data: bytearray, chance: random.Random) -> None:
    """A number of the directory, of an entry's own header or of the end record."""
    mark = chance.choice([DIRECTORY, DIRECTORY, ENTRY, END])
    places = [match.start() for match in re.finditer(re.escape(mark), bytes(data))]
    if not places:
        return flip(data, chance)
    start, long = chance.choice(places), chance.random() < 0.6
    where = start + chance.choice((LONGS if long else SHORTS)[mark])
    if where + 4 <= len(data):
        value = chance.choice(SIZES)
        struct.pack_into("<I" if long else "<H", data, where, value if long else value % 2**16)
    return None


def npy_lie(data: bytearray, chance: random.Random) -> None:
    """Another type or shape in a header of numpy's, as long as the old one where that can be."""
    pattern, values = chance.choice([(SHAPE, SHAPES), (DESCR, DTYPES)])
    places = list(pattern.finditer(bytes(data)))
    if not places:
        return flip(data, chance)
    found, value = chance.choice(places), chance.choice(values)
    room = found.end() - found.start()
    data[found.start() : found.end()] = value.ljust(room) if len(value) <= room or chance.random() < 0.3 else value[:room]
    return None


def footer_lie(data: bytearray, chance: random.Random) -> None:
    """Parquet keeps all it knows in a footer, in Thrift's compact form: a byte of it is a type, a length or a number."""
    if len(data) < 12:
        return flip(data, chance)
    length = struct.unpack("<I", data[-8:-4])[0]
    if chance.random() < 0.1:
        struct.pack_into("<I", data, len(data) - 8, chance.choice([*SIZES, length - 1, length + 1]) % 2**32)
        return None
    start = max(4, len(data) - 8 - min(length, len(data)))
    for _ in range(chance.choice([1, 1, 2, 5])):
        data[chance.randrange(start, len(data) - 8)] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
    return None


ANYWHERE: tuple[Damage, ...] = (flip, cut, insert, double, number)


def damaged(content: bytes, special: tuple[Damage, ...], chance: random.Random) -> bytes:
    """One to four pieces of damage, half of them at the places that the format is known to have."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 4])):
        if data:
            chance.choice(special if special and chance.random() < 0.5 else ANYWHERE)(data, chance)
    return bytes(data)
