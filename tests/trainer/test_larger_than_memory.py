"""Data that stays on disk has the bits of data that is held in memory, and leaves the memory alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jobs.spec import JobSpec
from tests.trainer.supervised import job, prepare
from tests.trainer.test_fields import file_spec, order, prepared
from tests.trainer.test_formats import image, npz, packed, table
from tests.trainer.test_missing_and_strata import holes
from workers.trainer import arrays, data, ingest, numbers
from workers.trainer.data import Part, load
from workers.trainer.feed import Feed
from workers.trainer.formats import prepared as prepared_files
from workers.trainer.parts import FilePart

SPLIT = {"train": 0.6, "val": 0.4}


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[JobSpec, Path], data.Parts]:
    def loaded(spec: JobSpec, folder: Path) -> data.Parts:
        with monkeypatch.context() as patch:
            patch.setattr(data, "RESIDENT_BYTES", 0)
            patch.setattr(numbers, "BLOCK_NUMBERS", 100)
            parts = load(spec, folder)
        assert isinstance(parts.train, FilePart)
        return parts

    return loaded


def a_table() -> bytes:
    rng = np.random.default_rng(0)
    words = [list(range(i % 5)) for i in range(90)]
    kinds = np.array(["a", "b", "c"])[rng.integers(0, 3, 90)]
    return table(size=rng.normal(size=90), kind=kinds, words=words, y=rng.integers(0, 4, 90))


def some_images() -> bytes:
    rng = np.random.default_rng(1)
    sides = [(4, 6), (5, 5), (9, 3)]
    shapes = [(k, i, sides[i % 3]) for k in "ab" for i in range(20)]
    return packed({f"{k}/{i}.png": image(rng.integers(0, 256, side, dtype=np.uint8)) for k, i, side in shapes})


CASES: dict[str, tuple[Callable[[], bytes], str, dict[str, Any]]] = {
    "npz": (lambda: npz(x=np.arange(600.0).reshape(100, 3, 2), y=np.arange(100) % 3), "CrossEntropyLoss", {}),
    "minmax": (
        lambda: npz(x=holes(80)[:, :1] * 0 + np.arange(80.0)[:, None], y=np.arange(80.0)),
        "MSELoss",
        {"missing": "drop", "normalize": "minmax"},
    ),
    "table": (a_table, "CrossEntropyLoss", {"target": ["y"], "features": ["kind", "size"], "normalize": "minmax"}),
    "sequences": (
        a_table,
        "CrossEntropyLoss",
        {"target": ["y"], "inputs": {"x": {"columns": ["words"]}, "k": {"columns": ["kind"], "dtype": "int64"}}},
    ),
    "images": (some_images, "CrossEntropyLoss", {"size": 5, "normalize": "minmax"}),
    "text": (
        lambda: b"whatever is said here\nis, said again. " * 9,
        "CrossEntropyLoss",
        {"window": 7, "stride": 2, "level": "byte"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_bits_are_the_same(tmp_path: Path, on_disk: Callable[[JobSpec, Path], data.Parts], case: str) -> None:
    make, loss, dataset = CASES[case]
    folder, given = prepared(tmp_path, make()), file_spec(loss, SPLIT, 5, **dataset)
    there, here = on_disk(given, folder), load(given, folder)
    assert type(here.train) is Part
    for name in ("train", "val", "test"):
        ours, theirs = getattr(there, name), getattr(here, name)
        assert len(ours) == len(theirs)
        for field, values in theirs.fields.items():
            assert torch.equal(ours.fields[field], values)
            assert torch.equal(ours.slice(3, 9)[field], theirs.slice(3, 9)[field])
    feeds = [Feed(p.train, 8, shuffle=True, drop_last=False, seed=2, device=torch.device("cpu")) for p in (there, here)]
    for _ in range(2):
        for ours, theirs in zip(feeds[0].epoch(0), feeds[1].epoch(0), strict=True):
            assert all(torch.equal(ours[field], values) for field, values in theirs.items())


# ---- tables, whose columns lie side by side once more


def a_csv_file() -> bytes:
    """As in a_table, and one row in seven misses a number."""
    rng = np.random.default_rng(0)
    rows = [
        f"{'' if row % 7 == 3 else rng.normal()},{'abc'[row % 3]},{row % 11},{rng.normal()},{rng.integers(0, 4)}"
        for row in range(90)
    ]
    return "\n".join(["size,kind,count,weight,y", *rows]).encode()


def prepared_apart_and_beside(folder: Path, content: bytes, patch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    (folder / "apart").mkdir()
    (folder / "beside").mkdir()
    apart = prepared(folder / "apart", content)
    patch.setattr(prepared_files, "RESIDENT_BYTES", 0)
    patch.setattr(prepared_files, "ROWS_BLOCK_NUMBERS", 50)
    return apart, prepared(folder / "beside", content)


@pytest.mark.parametrize("make", [a_csv_file, a_table])
@pytest.mark.parametrize("missing", ["drop", "mean"])
def test_columns_side_by_side_have_the_bits_of_columns_apart(
    tmp_path: Path,
    on_disk: Callable[[JobSpec, Path], data.Parts],
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], bytes],
    missing: str,
) -> None:
    apart, beside = prepared_apart_and_beside(tmp_path, make(), monkeypatch)
    inputs: dict[str, Any] = {"x": {"columns": ["size", "kind"]}, "k": {"columns": ["kind"], "dtype": "int64"}}
    if make is a_csv_file:
        inputs = {"x": {"columns": ["size", "kind", "weight"]}, "k": {"columns": ["count", "kind"], "dtype": "int64"}}
    given = file_spec(split=SPLIT, seed=5, target=["y"], inputs=inputs, missing=missing, normalize="standard")
    ours, theirs = on_disk(given, beside), on_disk(given, apart)
    for part in ("train", "val"):
        one, other = getattr(ours, part), getattr(theirs, part)
        for start in range(0, len(one), 8):
            batches = one.slice(start, start + 8), other.slice(start, start + 8)
            assert all(torch.equal(batches[0][name], values) for name, values in batches[1].items())
        assert all(torch.equal(one.field(name), values) for name, values in other.fields.items())


def test_a_batch_of_a_large_table_is_one_read_a_row(
    tmp_path: Path, on_disk: Callable[[JobSpec, Path], data.Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []

    class Counting(arrays.DataFile):
        def read(self, target: memoryview, position: int) -> None:
            reads.append(position)
            super().read(target, position)

    monkeypatch.setattr(arrays, "DataFile", Counting)
    apart, beside = prepared_apart_and_beside(tmp_path, a_csv_file(), monkeypatch)
    given = file_spec(target=["y"], missing="mean", normalize="minmax")
    taken = []
    for folder in (apart, beside):
        part = on_disk(given, folder).train
        reads.clear()
        part.take(torch.tensor([3, 50, 20, 80]))
        taken.append(len(reads))
    assert taken == [4 * 5, 4]


def test_a_table_that_would_be_too_large_with_its_rows_keeps_its_columns_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = 90 * (4 * 8 + 5 * 4)  # four columns have numbers, and all of them have few different cells
    for room, side_by_side in ((90 * 5 * 8, True), (90 * 5 * 8 - 1, False)):
        folder = tmp_path / str(room)
        folder.mkdir()
        monkeypatch.setattr(ingest, "most_bytes", lambda _, room=room: columns + room)
        _, beside = prepared_apart_and_beside(folder, a_csv_file(), monkeypatch)
        schema = data.read_schema(beside)
        assert ("side_by_side" in schema, "rows" in schema["arrays_at"]) == (side_by_side, side_by_side)


def added(sums: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, sums)


@pytest.mark.parametrize("kind", ["table", "images"])
def test_figures_are_taken_in_blocks_of_the_files_order(
    tmp_path: Path, on_disk: Callable[[JobSpec, Path], data.Parts], kind: str
) -> None:
    values = holes(200) if kind == "table" else np.random.default_rng(2).normal(size=(200, 2, 3, 3))
    folder = prepared(tmp_path, npz(x=values, y=np.arange(200.0)))
    given = file_spec("MSELoss", SPLIT, 5, missing="mean", normalize="standard")
    ours = on_disk(given, folder).train.fields["x"]

    raw = torch.from_numpy(values)
    train = order(200, 5)[: 200 - int(200 * 0.4)]
    blocks = torch.split(train.sort().values, max(1, 100 // raw[0].numel()))
    dims = (0,) if kind == "table" else (0, 2, 3)
    m = added(raw[b].nansum(0) for b in blocks) / added((~raw[b].isnan()).sum(0) for b in blocks)
    x = torch.where(raw.isnan(), m, raw).float()
    count = len(train) * (1 if kind == "table" else 9)
    mean = added(x[b].double().sum(dims, keepdim=True) for b in blocks) / count
    std = (added(((x[b].double() - mean) ** 2).sum(dims, keepdim=True) for b in blocks) / count).sqrt()
    assert torch.equal(ours, ((x - mean.float()) / std.float())[train])
    assert torch.allclose(ours, load(given, folder).train.fields["x"], atol=1e-5)


def test_a_run_on_disk_has_the_same_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    sets = prepare(tmp_path / "sets")
    body: dict[str, Any] = {
        "dataset": {"type": "builtin", "name": "digits", "transforms": [{"type": "RandomCrop", "padding": 1}]},
        "split": {"train": 0.7, "val": 0.3},
        "model": {"type": "Sequential", "layers": ["Flatten", {"type": "Linear", "out_features": 10}]},
        "loss": "CrossEntropyLoss",
        "optimizer": {"type": "SGD", "lr": 0.1},
        "batch_size": 50,
        "epochs": 2,
    }
    here = job(sets, tmp_path / "here", body)
    here.attempt()
    monkeypatch.setattr(data, "RESIDENT_BYTES", 0)
    there = job(sets, tmp_path / "there", body)
    there.attempt()
    assert there.ended[-1].state == "succeeded", there.stderr
    assert there.curve == here.curve
    assert there.digest() == here.digest()


READ_ALL = """
import sys, numpy as np
from pathlib import Path
from workers.trainer.arrays import DataFile, Stored
stored = Stored(DataFile(Path(sys.argv[1])), "<f4", (65536, 1024))
total, rows = 0.0, np.random.default_rng(0).permutation(65536)
for start in range(0, 65536, 64):
    total += float(stored.take(rows[start : start + 64]).sum())
assert total == 65536 * 1024
print(open("/proc/self/status").read())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_flat(tmp_path: Path) -> None:
    """256 MB read row by row in random order: what is resident at the peak is far less."""
    path = tmp_path / "array"
    with path.open("wb") as file:
        for _ in range(64):
            file.write(np.ones((1024, 1024), dtype=np.float32).tobytes())
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(path)], capture_output=True, text=True, check=True, env=environment
    )
    found = re.search(r"VmHWM:\s+(\d+) kB", ended.stdout)
    assert found is not None
    assert int(found[1]) < 64_000
