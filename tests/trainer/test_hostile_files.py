"""Files made to break their reader: each is refused with a sentence, and leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.trainer.test_formats import image, npz, packed, table
from workers.trainer import ingest
from workers.trainer.formats.prepared import MAX_OUTPUT_BYTES, UnreadableFile


class Bang:
    """Unpickled, it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def grey(size: int = 2) -> bytes:
    return image(np.zeros((size, size), dtype=np.uint8))


def entry(name: str, mode: int = 0, content: bytes = b"") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, content or grey())
    return file.getvalue()


def twice() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/1.png", grey())
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a/1.png", grey())
    return file.getvalue()


def overlapping() -> bytes:
    """Two directory entries over the same bytes, as the bombs without recursion do it."""
    whole = entry("a/1.png")
    start = struct.unpack("<I", whole[-6:-2])[0]
    record = whole[start:-22]
    other = record.replace(b"a/1.png", b"a/2.png")
    end = bytearray(whole[-22:])
    struct.pack_into("<HHI", end, 8, 2, 2, len(record) + len(other))
    return whole[:start] + record + other + bytes(end)


def png_of(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


HEADER = "{'descr': '%s', 'fortran_order': False, 'shape': %s}"
HOSTILE: dict[str, tuple[Any, str]] = {
    "a number array longer than its entry": (
        lambda: packed({"x.npy": npy(HEADER % ("<f4", "(1, 1000000000)"))}),
        "not as long",
    ),
    "a product that overflows": (lambda: packed({"x.npy": npy(HEADER % ("<f8", f"({2**47}, {2**47})"))}), "not as long"),
    "a negative size": (lambda: packed({"x.npy": npy(HEADER % ("<f4", "(-1, 4)"))}), "header"),
    "an endless integer": (lambda: packed({"x.npy": npy(HEADER % ("<f4", "(" + "9" * 9000 + ",)"))}), "header"),
    "a header that is code": (lambda: packed({"x.npy": npy("__import__('os').mkdir('x')")}), "header"),
    "a header of brackets": (lambda: packed({"x.npy": npy("(" * 9000)}), "header"),
    "a header without end": (lambda: packed({"x.npy": b"\x93NUMPY\x02\x00" + b"\xff" * 9}), "header"),
    "no npy at all": (lambda: packed({"x.npy": b"hello there"}), "no .npy"),
    "objects": (lambda: npz(x=np.array([{"a": 1}], dtype=object)), "Python objects"),
    "texts": (lambda: npz(x=np.array(["a", "b"])), "type"),
    "records": (lambda: npz(x=np.zeros(3, dtype=[("a", "f4")])), "type"),
    "complex numbers": (lambda: npz(x=np.zeros(3, dtype=np.complex64)), "type"),
    "a bomb of an array": (lambda: npz(x=np.zeros(2**27 + 1, dtype=np.float32)), "unpacks to more"),
    "a cut-off npz": (lambda: npz(x=np.arange(9999))[:-400], "damaged"),
    "one flipped byte": (lambda: flipped(npz(x=np.random.default_rng(0).normal(size=999))), "damaged"),
    "an empty array": (lambda: npz(x=np.zeros((0, 3))), "no row"),
    "rows of nothing": (lambda: npz(x=np.zeros((3, 0))), "rows without a number"),
    "an empty zip": (lambda: packed({}), "no image"),
    "a name that climbs": (lambda: entry("../../etc/1.png"), "plain relative path"),
    "an absolute name": (lambda: entry("/etc/1.png"), "plain relative path"),
    "a drive": (lambda: entry("C:/1.png"), "plain relative path"),
    "a symbolic link": (lambda: entry("a/1.png", stat.S_IFLNK | 0o777, b"/etc/passwd"), "a link"),
    "a device": (lambda: entry("a/1.png", stat.S_IFCHR | 0o600), "a link"),
    "an entry twice": (twice, "stands twice"),
    "entries over one another": (overlapping, "share their bytes"),
    "another kind of file": (lambda: packed({"a/1.png": grey(), "a/run.py": b"print()"}), "run.py"),
    "an image outside": (lambda: packed({"a/1.png": grey(), "2.png": grey()}), "outside the class folders"),
    "an image that is none": (lambda: packed({"a/1.png": b"GIF89a" + b"\0" * 99}), "no PNG or JPEG"),
    "a cut-off image": (lambda: packed({"a/1.png": grey(64)[:-30]}), "damaged|no PNG"),
    "a bomb of an image": (lambda: packed({"a/1.png": png_of(5_000, 5_000)}), "5000 x 5000"),
    "a greater one": (lambda: packed({"a/1.png": png_of(60_000, 60_000)}), "no PNG or JPEG"),
    "many large images": (lambda: packed({f"a/{i}.png": image(np.zeros((4000, 4000), np.uint8)) for i in range(17)}), "more"),
    "16 bits a channel": (lambda: packed({"a/1.png": image(np.zeros((2, 2), np.uint16))}), "8 bits"),
    "labels of no image": (lambda: packed({"1.png": grey(), "l.csv": b"f,y\n2.png,1\n"}), "row 1 .*2.png"),
    "labels only": (lambda: packed({"1.png": grey(), "l.csv": b"f\n1.png\n"}), "no column beside"),
    "a cut-off Parquet": (lambda: table(a=list(range(999)))[:-20], "damaged"),
    "Parquet in name only": (lambda: b"PAR1" + b"\0" * 99 + b"PAR1", "damaged"),
    "Parquet without rows": (lambda: table(a=pa.array([], pa.float64())), "no row"),
    "Parquet with one name twice": (lambda: doubled(), "twice"),
    "a bomb of a Parquet": (lambda: bomb(), "unpacks to more"),
    "a pickle": (lambda: pickle.dumps({"a": 1}), "a pickle"),
    "a lone .npy": (lambda: npy(HEADER % ("<f4", "(1,)"), b"\0" * 4), "a single .npy"),
    "a lone image": (grey, "a single image"),
    "gzip": (lambda: b"\x1f\x8b\x08" + b"\0" * 30, "gzip"),
    "binary": (lambda: bytes(range(256)) * 9, "not a CSV|NUL|UTF-8"),
    "text with NUL": (lambda: b"hello\nto, you\0\n", "."),
}


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def doubled() -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), file)
    return file.getvalue()


def bomb() -> bytes:
    """A few run lengths that stand for 64 million numbers."""
    file = io.BytesIO()
    column = pa.repeat(pa.scalar(1, pa.int64()), 2**26)
    parquet.write_table(pa.table({"a": column}), file, row_group_size=2**26)
    assert len(file.getvalue()) < 1_000_000
    return file.getvalue()


@pytest.mark.parametrize("what", HOSTILE)
def test_refused_with_a_sentence_and_without_a_trace(tmp_path: Path, what: str) -> None:
    make, sentence = HOSTILE[what]
    (tmp_path / "upload").write_bytes(make())
    with pytest.raises(UnreadableFile, match=sentence):
        ingest.read(tmp_path / "upload", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["upload"]


def test_a_pickled_array_is_never_unpickled(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(npz(x=np.array([Bang(tmp_path / "mark")], dtype=object)))
    with pytest.raises(UnreadableFile, match="Python objects"):
        ingest.read(tmp_path / "upload", tmp_path / "out")
    assert not (tmp_path / "mark").exists()


def test_an_entry_that_unpacks_to_more_than_it_declares_is_damaged(tmp_path: Path) -> None:
    content = bytearray(npz(x=np.arange(1000)))
    at = content.rindex(b"PK\x01\x02") + 24  # the directory's uncompressed size
    struct.pack_into("<I", content, at, struct.unpack_from("<I", content, at)[0] - 800)
    (tmp_path / "upload").write_bytes(bytes(content))
    with pytest.raises(UnreadableFile, match=r"not as long|damaged"):
        ingest.read(tmp_path / "upload", tmp_path / "out")


def child(folder: Path, content: bytes) -> subprocess.CompletedProcess[str]:
    (folder / "upload").write_bytes(content)
    command = [sys.executable, "-m", "workers.trainer.ingest", "read", str(folder / "upload"), str(folder / "out")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("depth", [20, 2000])
def test_deep_nesting_of_parquet_ends_with_a_sentence(tmp_path: Path, depth: int) -> None:
    kind = pa.int8()
    for _ in range(depth):
        kind = pa.struct([pa.field("n", kind)])
    file = io.BytesIO()
    with parquet.ParquetWriter(file, pa.schema([pa.field("a", kind), pa.field("b", pa.int8())])) as writer:
        if depth < 100:
            writer.write_table(pa.table({"a": pa.nulls(2, kind), "b": pa.array([1, 2], pa.int8())}))
    ended = child(tmp_path, file.getvalue())
    if ended.returncode == 1:
        assert json.loads(ended.stdout)["problem"]
    else:
        assert ended.returncode == 0
        schema = json.loads((tmp_path / "out/schema.json").read_text())
        assert [c["type"] for c in schema["columns"]] == ["unsupported", "numeric"]


def test_the_child_reads_under_its_limits(tmp_path: Path) -> None:
    code = "import resource; from workers.trainer import ingest; ingest.confine(); " + (
        "print([resource.getrlimit(r)[0] for r in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE)]); "
        "bytearray(9 * 2**30)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert json.loads(ended.stdout) == [ingest.MEMORY_BYTES, ingest.CPU_SECONDS, MAX_OUTPUT_BYTES]
    assert "MemoryError" in ended.stderr
    assert child(tmp_path, npz(x=np.ones((3, 2)), y=np.arange(3))).returncode == 0
