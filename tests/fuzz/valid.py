"""Small valid files of every format, for damage to be done to them. Only the makers import what writes a format."""

from __future__ import annotations

import io
import random
import string
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
WORDS = ("a", "NA", "NaN", "", "null", "1e999", "-0", "0x1p3", "1_000", "é", "𝔘", '"q"', "1,5", " x ", "true", "2024-01-01")
ARCHITECTURES = ("mlp", "cnn_with_batch_norm_and_dropout", "gru")
EXPORT = """
import sys, torch
import postgrad
from tests.trainer.exported import convolutional, dense, sequential
from tests.trainer.exported.architectures import ARCHITECTURES
torch.set_num_threads(1)
torch.backends.mha.set_fastpath_enabled(False)
for name in sys.argv[2:]:
    module, inputs = ARCHITECTURES[name]()
    postgrad.export(module, inputs(4), f"{sys.argv[1]}/{name}.pt2")
"""


def csv(chance: random.Random) -> bytes:
    columns, rows = chance.randint(1, 6), chance.randint(1, 40)
    numeric = [chance.random() < 0.6 for _ in range(columns)]
    header = [chance.choice(string.ascii_letters) * chance.randint(1, 3) + str(i) for i in range(columns)]
    lines = [header, *([_cell(chance, each) for each in numeric] for _ in range(rows))]
    end = chance.choice(["\n", "\r\n"])
    return (end.join(",".join(line) for line in lines) + end).encode("utf-8-sig" if chance.random() < 0.1 else "utf-8")


def _cell(chance: random.Random, numeric: bool) -> str:
    if numeric:
        return repr(chance.choice([chance.gauss(0, 1), float(chance.randrange(5)), chance.uniform(-1e300, 1e300)]))
    text = chance.choice(WORDS) if chance.random() < 0.3 else chance.choice("xyz")
    return f'"{text.replace(chr(34), chr(34) * 2)}"' if set(text) & set('",\n') else text


def npz(chance: random.Random) -> bytes:
    kinds = ["<f4", "<f8", ">f8", "<i8", "<i4", "|u1", "|b1", "<f2"]
    arrays: dict[str, Any] = {}
    rows = chance.randint(1, 20)
    for name in ("x", "y", "z")[: chance.randint(1, 3)]:
        shape = (rows, *(chance.randint(1, 4) for _ in range(chance.randrange(3))))
        array = np.arange(int(np.prod(shape))).reshape(shape).astype(chance.choice(kinds))
        arrays[name] = np.asfortranarray(array) if chance.random() < 0.3 else array
    file = io.BytesIO()
    (np.savez if chance.random() < 0.5 else np.savez_compressed)(file, **arrays)
    return file.getvalue()


def parquet(chance: random.Random) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet as writer

    rows = chance.randint(1, 50)
    makers: list[Callable[[], Any]] = [
        lambda: pa.array([chance.choice([None, chance.gauss(0, 1)]) for _ in range(rows)], pa.float64()),
        lambda: pa.array([chance.randrange(5) for _ in range(rows)], pa.int32()),
        lambda: pa.array([chance.random() < 0.5 for _ in range(rows)]),
        lambda: pa.array([chance.choice(["a", "b", None, "é"]) for _ in range(rows)], pa.string()),
        lambda: pa.array([[float(i)] * chance.randrange(4) for i in range(rows)], pa.list_(pa.float32())),
        lambda: pa.array([{"a": 1}] * rows),
        lambda: pa.array(["a", "b"] * rows)[:rows].dictionary_encode(),
    ]
    table = pa.table({f"c{i}": chance.choice(makers)() for i in range(chance.randint(1, 5))})
    file = io.BytesIO()
    options: dict[str, Any] = {"compression": chance.choice(["none", "snappy", "gzip", "zstd", "brotli", "lz4"])}
    options |= {"row_group_size": chance.randint(1, 30), "data_page_version": chance.choice(["1.0", "2.0"])}
    writer.write_table(table, file, use_dictionary=chance.random() < 0.5, **options)
    return file.getvalue()


def images(chance: random.Random) -> bytes:
    from PIL import Image

    size, colour = (chance.randint(1, 12), chance.randint(1, 12)), chance.random() < 0.5
    entries: dict[str, bytes] = {}
    for index in range(chance.randint(1, 4)):
        shape = (*size, 3) if colour else size
        pixels = np.array([chance.randrange(256) for _ in range(int(np.prod(shape)))], np.uint8).reshape(shape)
        file = io.BytesIO()
        kind = chance.choice(["PNG", "JPEG"])
        Image.fromarray(pixels).save(file, kind, **({"progressive": True} if kind == "JPEG" and chance.random() < 0.3 else {}))
        entries[f"{chance.choice(['cat', 'dog'])}/{index}.{kind.lower()}"] = file.getvalue()
    return packed(entries, chance)


def text(chance: random.Random) -> bytes:
    return "".join(chance.choice("abc \n\t.éλ𝔘\u2028") for _ in range(chance.randint(1, 400))).encode()


def python(chance: random.Random) -> bytes:
    depth = chance.choice([1, 5, 150, 3000])
    value = chance.choice(["1", "(" * depth + ")" * depth, "-" * depth + "1", "lambda: " * depth + "0", "x" + ".y" * depth])
    head = f"import torch\n\nclass Net(torch.nn.Module):\n    a = {value}\n"
    return f"{head}\n    def forward(self, x):\n        return x\n".encode()


def packed(entries: dict[str, bytes], chance: random.Random) -> bytes:
    """A ZIP of these entries, now and then with another one inside."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        if chance.random() < 0.02:
            archive.writestr("cat/nested.zip", file.getvalue())
    return file.getvalue()


def programs(folder: Path) -> list[Path]:
    """Exported models, made in a process of its own: export starts threads, and who forks must have none."""
    command = [sys.executable, "-c", EXPORT, str(folder), *ARCHITECTURES]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return [folder / f"{name}.pt2" for name in ARCHITECTURES]
