"""The zip around a program: which records it may hold, how large they may be, and their bytes.

Every record must be stored uncompressed and listed once, and all of them together must fit into the file: then nothing in
it can become larger than what was uploaded. Nothing is ever extracted, so a record's name is never a path.
"""

from __future__ import annotations

import codecs
import json
import re
import struct
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from workers.trainer.exported.problem import UnreadableProgram

MAX_FILE = 2 * 1024**3  # bytes
MAX_RECORDS = 10_000
MAX_DIRECTORY = 2 * 1024**2  # bytes of the zip's list of records
MAX_JSON = 16 * 1024**2  # bytes of one JSON record

# The zip's last records: signature, disks, how many records, bytes and offset of their list, length of the comment.
END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR_BYTES = 20  # between the two
ENCRYPTED = 0x1

GRAPHS = ("train", "eval")
RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/(train|eval)\.json"
    r"|data/weights/(weight_\d{1,6}|(train|eval)_weights_config\.json)"
    r"|data/constants/(tensor_\d{1,6}|(train|eval)_constants_config\.json)|data/sample_inputs/(train|eval)\.pt"
)
EMPTY = "data/sample_inputs/"  # torch pickles example inputs into these; postgrad.export leaves them empty
NEVER_READ = (
    ("data/constants/", "pickled or opaque constants"),
    ("data/aotinductor/", "compiled code"),
)

codecs.lookup("cp437")  # zipfile decodes old names with it; loaded here, so that reading a file imports nothing


class Archive:
    """A .pt2 file, open for reading. A context manager."""

    def __init__(self, path: Path) -> None:
        """Raises UnreadableProgram, and OSError when there is no such file."""
        self._file: BinaryIO = path.open("rb")
        try:
            _check_end(self._file)
            self._zip = zipfile.ZipFile(self._file)
            self._names = _checked(self._zip, self._size())
        except UnreadableProgram:
            self._file.close()
            raise
        except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, UnicodeError) as error:
            self._file.close()
            raise UnreadableProgram(f"this is no .pt2 file: {str(error)[:200]}") from error

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def _size(self) -> int:
        return self._file.seek(0, 2)

    def size(self, name: str) -> int:
        """Bytes of a record. Raises UnreadableProgram when there is none of this name."""
        return self._info(name).file_size

    def bytes(self, name: str) -> bytes:
        """A record's bytes. Raises UnreadableProgram when there is none of this name or it is damaged."""
        try:
            return self._zip.read(self._info(name))
        except (
            zipfile.BadZipFile,
            ValueError,
            EOFError,
            struct.error,
            NotImplementedError,
            UnicodeError,
            RuntimeError,
        ) as error:
            raise UnreadableProgram(f"the record {name} is damaged: {str(error)[:200]}") from error

    def json(self, name: str) -> Any:
        """A JSON record. Raises UnreadableProgram when it is missing, too large, or not JSON in the strict sense."""
        if self.size(name) > MAX_JSON:
            raise UnreadableProgram(f"the record {name} is over {MAX_JSON >> 20} MiB")
        try:
            return json.loads(self.bytes(name).decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
        except (ValueError, RecursionError) as error:
            raise UnreadableProgram(f"the record {name} is not JSON: {str(error)[:200]}") from error

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name not in self._names:
            raise UnreadableProgram(f"the file has no record {name}; make it with postgrad.export")
        return self._names[name]


def _check_end(file: BinaryIO) -> None:
    """Looks at the zip's end before zipfile reads the list of records into memory. Raises UnreadableProgram."""
    size = file.seek(0, 2)
    if size > MAX_FILE:
        raise UnreadableProgram(f"the file is over {MAX_FILE >> 30} GiB")
    file.seek(max(0, size - END.size - LOCATOR_BYTES - END64.size))
    tail = file.read()
    if len(tail) < END.size or tail[-END.size : -END.size + 4] != b"PK\x05\x06":
        raise UnreadableProgram("this is no .pt2 file: it does not end as a zip file does")
    _, _, _, _, records, directory, _, _ = END.unpack(tail[-END.size :])
    if tail[-END.size - LOCATOR_BYTES :].startswith(b"PK\x06\x07") and len(tail) == END.size + LOCATOR_BYTES + END64.size:
        # torch's writer always adds this, and zipfile then believes it instead.
        _, _, _, _, _, _, _, records, directory, _ = END64.unpack(tail[: END64.size])
    if records > MAX_RECORDS or directory > MAX_DIRECTORY:
        raise UnreadableProgram(f"the file holds more than {MAX_RECORDS:,} records")


def _checked(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The records by their names without the folder that holds them all. Raises UnreadableProgram."""
    found: dict[str, zipfile.ZipInfo] = {}
    roots = set()
    for info in archive.infolist():
        root, _, name = info.orig_filename.partition("/")
        roots.add(root)
        _check(info, name)
        if name in found:
            raise UnreadableProgram(f"the file lists the record {name} twice")
        found[name] = info
    if len(roots) != 1:
        raise UnreadableProgram("the file's records are not all in one folder")
    if sum(info.file_size for info in found.values()) > size:
        raise UnreadableProgram("the file's records claim to be larger than the file")
    return found


def _check(info: zipfile.ZipInfo, name: str) -> None:
    if not RECORDS.fullmatch(name):
        what = next((what for prefix, what in NEVER_READ if name.startswith(prefix)), None)
        detail = f"{what}, which are never read here" if what else "which has no place in it"
        raise UnreadableProgram(f"the file holds {info.orig_filename[:100]!a}: {detail}; make it with postgrad.export")
    if name.startswith(EMPTY) and info.file_size:
        raise UnreadableProgram("the file holds pickled sample inputs, which are never read here; make it with postgrad.export")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & ENCRYPTED:
        raise UnreadableProgram(f"the record {name} is compressed or encrypted; a .pt2 file stores its records as they are")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object names a member twice")
    return found


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")
