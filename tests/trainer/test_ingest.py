"""CSV files become arrays and a schema once, or are refused with the row that is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from workers.trainer import ingest
from workers.trainer.arrays import Arrays


def csv(folder: Path, text: str | bytes) -> Path:
    path = folder / "upload"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read_csv(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """The schema of a CSV file and all its arrays, as a trainer sees them."""
    folder = path.parent / "out"
    schema = ingest.read(path, folder, "csv")
    return schema, {name: array.slice(0, len(array)) for name, array in Arrays(folder, schema).items()}


def test_column_types_and_categories(tmp_path: Path) -> None:
    schema, arrays = read_csv(csv(tmp_path, "\ufeffa,b,c\n1,red,+3\n2.5,blue,x\nNA,red,1e3\n"))
    a, b, c = schema["columns"]
    assert (schema["rows"], [x["type"] for x in (a, b, c)]) == (3, ["numeric", "text", "mixed"])
    assert (a["missing"], a["first_missing"]) == (1, 3)
    assert b["categories"] == ["blue", "red"]
    assert c["first_text"] == {"row": 2, "value": "x"}
    np.testing.assert_array_equal(arrays["codes.1"], [1, 0, 1])
    np.testing.assert_array_equal(arrays["numbers.2"], [3.0, np.nan, 1000.0])


def test_numbers_keep_every_bit_of_float64(tmp_path: Path) -> None:
    values = [0.1, 1e-308, 123456789.123456789, -2.5e10, 5e-324]
    _, arrays = read_csv(csv(tmp_path, "v\n" + "\n".join(map(repr, values)) + "\n"))
    assert arrays["numbers.0"].tolist() == values


def test_what_is_no_finite_number_is_text(tmp_path: Path) -> None:
    schema, _ = read_csv(csv(tmp_path, "v,w\n1e999,0x10\n1,1_000\n"))
    assert schema["columns"][0]["first_text"] == {"row": 1, "value": "1e999"}
    assert schema["columns"][1]["type"] == "text"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b\n1,2\n3,4,5\n", "row 2 has 3 cells where the header has 2"),
        ("a,b\n1,2\n3\n", "row 2 has 1 cells where the header has 2"),
        ("a,a\n1,2\n", "the heading 'a' stands twice"),
        ("a,\n1,2\n", "column 2 has no heading"),
        ("a,b\n", "a header but no row"),
        ("", "not a CSV file"),
        ("\n\r\n\n", "not a CSV file"),
        ("\n\na,b\n1,2\n\n3,4,5\n", "row 2 has 3 cells where the header has 2"),
        (b"a,b\n1,\xff\n", "UTF-8"),
        (b"\x00\x01\x02" * 999, "not a CSV file"),
    ],
)
def test_refused(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    with pytest.raises(ingest.UnreadableFile, match=sentence):
        read_csv(csv(tmp_path, text))


@pytest.mark.parametrize("before", ["\n", "\n\n", "\r\n\r\n", "\ufeff\n", "\n\r\n"])
def test_empty_lines_are_no_rows(tmp_path: Path, before: str) -> None:
    schema, arrays = read_csv(csv(tmp_path, f"{before}color,label\nr,1\n\ng,2\n\n"))
    assert (schema["rows"], [c["name"] for c in schema["columns"]]) == (2, ["color", "label"])
    assert schema["columns"][0]["categories"] == ["g", "r"]
    np.testing.assert_array_equal(arrays["numbers.1"], [1, 2])


def test_a_row_that_is_not_utf8_fails_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in Arrow's callback for rows of the wrong width, whose exceptions only reach the log."""
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    with pytest.raises(ingest.UnreadableFile, match="UTF-8"):
        read_csv(csv(tmp_path, b"a,b\n1,2\n\xff\xfe,3,4\n"))
    assert unraisable == []


@pytest.mark.parametrize("late", [False, True])
def test_a_thousand_different_cells_are_told_apart_and_no_more(tmp_path: Path, late: bool) -> None:
    """NaN and the forms of a missing cell do not count; the last one may come after many rows."""
    known = [*range(1000)] * (70 if late else 1)
    rows = [f"{v},n{v}" for v in known] + ["nan,NA", ",null"]
    schema, arrays = read_csv(csv(tmp_path, "\n".join(["a,b", *rows])))
    a, b = schema["columns"]
    assert (a["distinct"], a["values"], a["counts"][:2]) == (1000, [float(v) for v in range(1000)], [len(known) // 1000] * 2)
    assert (b["distinct"], b["categories"]) == (1000, sorted(f"n{v}" for v in range(1000)))
    np.testing.assert_array_equal(arrays["numbers.0"][:-2], known)
    schema, arrays = read_csv(csv(tmp_path, "\n".join(["a,b", *rows, "1000,n1000"])))
    assert [c["distinct"] for c in schema["columns"]] == [1001, 1001]
    assert not any({"values", "categories"} & c.keys() for c in schema["columns"])
    assert list(arrays) == ["numbers.0"]


def test_quoted_newlines_and_commas(tmp_path: Path) -> None:
    schema, _ = read_csv(csv(tmp_path, 'a,b\n"x, y",1\n"two\nlines",2\n'))
    assert schema["columns"][0]["categories"] == ["two\nlines", "x, y"]


def test_the_command_writes_a_whole_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = csv(tmp_path, "a,y\n1,2\n")
    assert ingest.main(["csv", str(source), str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": {"rows": 1, "columns": 2}}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["arrays.safetensors", "schema.json"]
    assert load_file(tmp_path / "out/arrays.safetensors")["numbers.1"].tolist() == [2.0]


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ingest.main(["csv", str(csv(tmp_path, "a\n")), str(tmp_path / "out")]) == 1
    assert "no row" in json.loads(capsys.readouterr().out)["problem"]
    assert not (tmp_path / "out").exists()


def test_builtin_sets_have_the_documented_shapes() -> None:
    shapes = {
        name: (schema["rows"], tuple(schema["input_shape"]), schema["task"]) for name, (schema, _) in ingest.builtins().items()
    }
    assert shapes == {
        "iris": (150, (4,), "multiclass"),
        "wine": (178, (13,), "multiclass"),
        "breast_cancer": (569, (30,), "binary"),
        "diabetes": (442, (10,), "regression"),
        "digits": (1797, (1, 8, 8), "multiclass"),
    }


def test_another_user_may_read_what_was_prepared(tmp_path: Path) -> None:
    ingest.write(tmp_path / "iris", *ingest.builtins()["iris"])
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "iris").iterdir()} == {0o644}
