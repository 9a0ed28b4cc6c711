"""Every format that an upload may have, from real files: what the schema says and what the arrays hold."""

from __future__ import annotations

import io
import json
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from workers.trainer import ingest
from workers.trainer.formats.prepared import UnreadableFile


def read(folder: Path, content: bytes, asked: str = "auto") -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    path = folder / "upload"
    path.write_bytes(content)
    ingest.read(path, folder / "out", asked)
    schema = json.loads((folder / "out/schema.json").read_text())
    arrays = {
        name: np.fromfile(folder / "out" / at["file"], at["dtype"]).reshape(at["shape"])
        for name, at in schema.get("arrays_at", {}).items()
    }
    return schema, arrays


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def packed(entries: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def image(pixels: np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def table(**columns: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file, row_group_size=2)
    return file.getvalue()


# ---- NPZ


def test_npz_arrays_keep_their_numbers(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(70_000, 5)).astype(np.float32)
    given = {
        "x": x,
        "y": np.arange(70_000) % 3,
        "big": x.astype(">f8"),
        "turned": np.asfortranarray(x),
        "flags": x[:, 0] > 0,
        "bytes": np.arange(70_000 * 4, dtype=np.uint8).reshape(70_000, 2, 2),
        "alone": np.float64(3.0),
    }
    schema, arrays = read(tmp_path, npz(**given))
    assert (schema["source"], schema["rows"]) == ("npz", 70_000)
    for name, array in given.items():
        if name != "alone":
            np.testing.assert_array_equal(arrays[name], array)
    found = schema["arrays"]
    assert found["y"]["counts"] == [23334, 23333, 23333]
    assert found["y"]["values"] == [0, 1, 2]
    assert found["x"]["min"] == float(x.min())
    assert found["x"]["max_row"] == int(x.max(axis=1).argmax()) + 1
    assert (found["x"]["integers"], found["y"]["integers"]) == (False, True)
    assert found["alone"] == {"dtype": "float64", "shape": []}
    assert found["bytes"]["shape"] == [70_000, 2, 2]


def test_npz_gaps_are_counted_with_their_row(tmp_path: Path) -> None:
    x = np.zeros((4, 2))
    x[2, 1], x[3, 0] = np.nan, np.inf
    found = read(tmp_path, npz(x=x))[0]["arrays"]["x"]
    assert (found["missing"], found["first_missing"], found["infinite"], found["first_infinite"]) == (1, 3, 1, 4)
    assert found["preview"][2] == [0.0, None]


# ---- Parquet


def test_parquet_columns(tmp_path: Path) -> None:
    content = table(
        size=pa.array([1.5, None, 3.0, 4.0, 5.0]),
        count=pa.array([3, 1, 2, 2, 9], pa.int8()),
        yes=pa.array([True, False, None, True, True]),
        colour=pa.array(["red", "blue", None, "red", "amber"]),
        kind=pa.array(["b", "a", "b", "b", "a"]).dictionary_encode(),
        when=pa.array([1, 2, 3, 4, 5], pa.timestamp("s")),
        price=pa.array([Decimal(n) for n in range(1, 6)], pa.decimal128(20, 2)),
    )
    schema, arrays = read(tmp_path, content)
    columns = {c["name"]: c for c in schema["columns"]}
    assert (schema["source"], schema["rows"]) == ("parquet", 5)
    assert {n: c["type"] for n, c in columns.items()} == {
        "size": "numeric",
        "count": "numeric",
        "yes": "numeric",
        "colour": "text",
        "kind": "text",
        "when": "unsupported",
        "price": "numeric",
    }
    np.testing.assert_array_equal(arrays["numbers.0"], [1.5, np.nan, 3, 4, 5])
    np.testing.assert_array_equal(arrays["numbers.1"], [3, 1, 2, 2, 9])
    np.testing.assert_array_equal(arrays["numbers.2"], [1, 0, np.nan, 1, 1])
    assert columns["colour"]["categories"] == ["amber", "blue", "red"]
    assert columns["colour"]["counts"] == [1, 1, 2]
    assert (columns["colour"]["missing"], columns["colour"]["first_missing"]) == (1, 3)
    np.testing.assert_array_equal(arrays["codes.3"], [2, 1, -1, 2, 0])
    np.testing.assert_array_equal(arrays["codes.4"], [1, 0, 1, 1, 0])
    np.testing.assert_array_equal(arrays["numbers.6"], [1, 2, 3, 4, 5])
    assert schema["preview"][0][:5] == [1.5, 3, True, "red", "b"]


def test_parquet_lists_are_values_and_offsets(tmp_path: Path) -> None:
    schema, arrays = read(tmp_path, table(tokens=pa.array([[1, 2], [], None, [7], [3, 4, 5]]), y=[0, 1, 0, 1, 0]))
    column = schema["columns"][0]
    np.testing.assert_array_equal(arrays["values.0"], [1, 2, 7, 3, 4, 5])
    np.testing.assert_array_equal(arrays["offsets.0"], [0, 2, 2, 2, 3, 6])
    assert (column["type"], column["longest"], column["shortest"], column["max"]) == ("list", 3, 0, 7)
    assert (column["missing"], column["first_missing"], column["integers"]) == (1, 3, True)


def test_parquet_over_many_batches_is_the_same_as_at_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    words = np.array(["delta", "alpha", "omega", "beta"])[rng.integers(0, 4, 200_000)]
    many = np.array([f"w{i}" for i in rng.integers(0, 5000, 200_000)])
    lists = pa.array([list(range(i % 4)) for i in range(200_000)])
    file = io.BytesIO()
    parquet.write_table(pa.table({"word": words, "many": many, "n": rng.normal(size=200_000), "l": lists}), file)
    schema, arrays = read(tmp_path, file.getvalue())
    np.testing.assert_array_equal(np.array(schema["columns"][0]["categories"])[arrays["codes.0"]], words)
    assert "categories" not in schema["columns"][1]
    assert "codes.1" not in arrays
    np.testing.assert_array_equal(np.diff(arrays["offsets.3"]), np.arange(200_000) % 4)


# ---- images


def pictures() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(2)
    return {f"set/{kind}/{i}.png": rng.integers(0, 256, (4, 6), dtype=np.uint8) for kind in ("cat", "ant") for i in range(3)}


def test_images_in_class_folders(tmp_path: Path) -> None:
    given = pictures()
    entries = {name: image(pixels) for name, pixels in given.items()} | {"__MACOSX/x": b"", "set/.DS_Store": b"1"}
    schema, arrays = read(tmp_path, packed(entries))
    names = sorted(given)
    assert (schema["source"], schema["rows"], schema["channels"]) == ("images", 6, 1)
    assert (schema["height"], schema["width"]) == ([4, 4], [6, 6])
    assert schema["columns"][0]["categories"] == ["ant", "cat"]
    np.testing.assert_array_equal(arrays["codes.0"], [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(arrays["pixels"].reshape(6, 4, 6), np.stack([given[n] for n in names]))


def test_images_with_a_label_file_follow_its_rows(tmp_path: Path) -> None:
    given = pictures()
    names = list(given)[::-1]
    labels = "file,weight,kind\n" + "".join(f"{n.removeprefix('set/')},{i},k{i % 2}\n" for i, n in enumerate(names))
    schema, arrays = read(tmp_path, packed({n: image(p) for n, p in given.items()} | {"set/labels.csv": labels.encode()}))
    assert [c["name"] for c in schema["columns"]] == ["weight", "kind"]
    np.testing.assert_array_equal(arrays["numbers.0"], np.arange(6))
    np.testing.assert_array_equal(arrays["pixels"].reshape(6, 4, 6), np.stack([given[n] for n in names]))


def test_images_of_several_kinds_and_sizes(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    colour = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    grey = rng.integers(0, 256, (4, 6), dtype=np.uint8)
    jpeg = image(colour, "JPEG", quality=95)
    schema, arrays = read(tmp_path, packed({"a/1.png": image(colour), "b/2.png": image(grey), "b/3.JPG": jpeg}))
    np.testing.assert_array_equal(arrays["sizes"], [[3, 5, 7], [1, 4, 6], [3, 5, 7]])
    first, second, third = (arrays["pixels"][a:b] for a, b in zip(arrays["offsets"], arrays["offsets"][1:], strict=False))
    np.testing.assert_array_equal(first.reshape(3, 5, 7), colour.transpose(2, 0, 1))
    np.testing.assert_array_equal(second.reshape(4, 6), grey)
    np.testing.assert_array_equal(third.reshape(3, 5, 7), np.asarray(Image.open(io.BytesIO(jpeg))).transpose(2, 0, 1))
    assert (schema["channels"], schema["height"], schema["width"]) == (3, [4, 5], [6, 7])


# ---- text


def test_text_is_bytes_and_characters(tmp_path: Path) -> None:
    text = "Zürich\nzählt, ja" * 90_000 + "\U0001f600"
    schema, arrays = read(tmp_path, text.encode())
    assert (schema["source"], schema["characters"], schema["bytes"]) == ("text", len(text), len(text.encode()))
    assert schema["vocabulary"] == sorted(set(text))
    assert "".join(schema["vocabulary"][i] for i in arrays["characters"]) == text
    assert arrays["bytes"].tobytes() == text.encode()
    assert schema["first_characters"] == text[:200]


def test_prose_is_text_and_a_broken_table_is_not(tmp_path: Path) -> None:
    prose = b"First Citizen:\nBefore we proceed any further, hear me speak.\n"
    assert read(tmp_path, prose)[0]["source"] == "text"
    with pytest.raises(UnreadableFile, match=r"row 1 has 3 cells .*format=text"):
        read(tmp_path, b"a,b\n1,2,3\n")
    assert read(tmp_path, b"a,b\n1,2,3\n", "text")[0]["source"] == "text"
    assert read(tmp_path, b"a,b\n1,2\n")[0]["source"] == "csv"
