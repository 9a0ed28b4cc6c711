"""From every kind of file to named fields of the right dtype, shape and order; and what does not fit, with row and column."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor

from jobs.spec import JobSpec
from tests.trainer.test_data import spec
from tests.trainer.test_formats import image, npz, packed, table
from workers.trainer import ingest
from workers.trainer.data import Batch, DataDescription, InvalidData, describe, load


def prepared(folder: Path, content: bytes, asked: str = "auto") -> Path:
    (folder / "upload").write_bytes(content)
    ingest.read(folder / "upload", folder / "out", asked)
    return folder / "out"


def file_spec(loss: str = "CrossEntropyLoss", split: Any = None, seed: int = 0, **dataset: Any) -> JobSpec:
    more = {} if split is None else {"split": split}
    return spec({"type": "file", "id": "file_" + "0" * 24, **dataset}, loss, seed=seed, **more)


def order(rows: int, seed: int = 0) -> Tensor:
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))


def both(given: JobSpec, folder: Path) -> tuple[DataDescription, Batch]:
    """Description and all rows, in the file's order; each field is what its description says."""
    described, fields = describe(given, folder), load(given, folder).train.fields
    back = order(described.rows).argsort()
    for name, field in (described.inputs | described.targets).items():
        assert fields[name].shape == (described.rows, *field.shape)
        assert fields[name].dtype == field.dtype
        ends = torch.tensor([field.low, field.high]).to(field.dtype)
        assert ends[0] <= fields[name].min()
        assert fields[name].max() <= ends[1]
    return described, {name: values[back] for name, values in fields.items()}


def test_npz_x_and_y_are_the_default(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 2, 3)), rng.permutation(np.arange(20) % 3 * 10 + 5)
    described, fields = both(file_spec(), prepared(tmp_path, npz(x=x, y=y, more=np.zeros(7))))
    assert torch.equal(fields["x"], torch.from_numpy(x).float())
    assert torch.equal(fields["y"], torch.from_numpy((y - 5) // 10))
    assert described.targets["y"].classes == 3
    _, fields = both(file_spec("MSELoss"), tmp_path / "out")
    assert torch.equal(fields["y"], torch.from_numpy(y).float()[:, None])


def test_npz_named_inputs_and_targets(tmp_path: Path) -> None:
    tokens, pixels = np.arange(12).reshape(4, 3) % 7, np.arange(16, dtype=np.uint8).reshape(4, 2, 2)
    mask = (pixels % 3).astype(np.int16)
    folder = prepared(tmp_path, npz(tokens=tokens, pixels=pixels, mask=mask, age=np.arange(4.0)))
    given = file_spec(
        inputs={"words": {"array": "tokens", "dtype": "int64"}, "x": {"array": "pixels"}},
        targets={"area": {"array": "mask", "classes": 3}, "age": {"array": "age", "dtype": "float32"}},
    )
    described, fields = both(given, folder)
    assert list(described.inputs) == ["words", "x"]
    assert described.inputs["words"].integers == 7
    assert described.targets["area"].classes == 3
    assert torch.equal(fields["words"], torch.from_numpy(tokens))
    assert torch.equal(fields["x"], torch.from_numpy(pixels).float())
    assert torch.equal(fields["area"], torch.from_numpy(mask).long())
    assert torch.equal(fields["age"], torch.arange(4.0)[:, None])


def test_multi_label_from_columns_and_from_a_matrix(tmp_path: Path) -> None:
    matrix = np.array([[0, 1], [1, 1], [0, 0]])
    (tmp_path / "csv").mkdir()
    columns = prepared(tmp_path / "csv", b"x,a,b\n1,0,1\n2,1,1\n3,0,0\n")
    described, fields = both(file_spec("BCEWithLogitsLoss", target=["a", "b"]), columns)
    assert torch.equal(fields["y"], torch.from_numpy(matrix).float())
    assert (described.targets["y"].shape, described.targets["y"].classes) == ((2,), 2)
    folder = prepared(tmp_path, npz(x=np.zeros((3, 1)), y=matrix))
    assert torch.equal(both(file_spec("BCEWithLogitsLoss"), folder)[1]["y"], torch.from_numpy(matrix).float())
    assert torch.equal(both(file_spec("MultiLabelSoftMarginLoss", target=["a", "b"]), columns)[1]["y"], fields["y"])
    assert torch.equal(both(file_spec("BCELoss", target=["a", "b"]), columns)[1]["y"], fields["y"])
    assert both(file_spec("MSELoss", target=["b", "a"]), columns)[1]["y"].tolist() == [[1, 0], [1, 1], [0, 0]]


def test_codes_for_an_embedding(tmp_path: Path) -> None:
    folder = prepared(tmp_path, b"city,floor,size,y\nRome,3,1.5,0\nBern,1,2.5,1\nRome,0,3.5,1\n")
    given = file_spec(
        target="y",
        inputs={
            "place": {"columns": ["city"], "dtype": "int64"},
            "where": {"columns": ["floor", "city"], "dtype": "int64"},
            "x": {"columns": ["size", "city"]},
        },
    )
    described, fields = both(given, folder)
    assert fields["place"].tolist() == [[1], [0], [1]]
    assert fields["where"].tolist() == [[3, 1], [1, 0], [0, 1]]
    assert fields["x"].tolist() == [[1.5, 0, 1], [2.5, 1, 0], [3.5, 0, 1]]
    assert (described.inputs["place"].integers, described.inputs["where"].integers) == (2, 4)


def test_parquet_trains_like_the_same_csv(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    csv = prepared(tmp_path / "csv", b"size,colour,y\n1.25,red,no\n2.5,blue,yes\n3,red,yes\n10,green,no\n")
    columns = {"size": [1.25, 2.5, 3, 10], "colour": ["red", "blue", "red", "green"], "y": ["no", "yes", "yes", "no"]}
    folder = prepared(tmp_path, table(**columns))
    given = file_spec(target="y", normalize="standard", split={"train": 0.5, "val": 0.5}, seed=3)
    ours, theirs = load(given, folder), load(given, csv)
    for part in ("train", "val"):
        a, b = getattr(ours, part).fields, getattr(theirs, part).fields
        assert all(torch.equal(a[name], b[name]) for name in ("x", "y"))


def test_a_parquet_number_may_be_categorical(tmp_path: Path) -> None:
    folder = prepared(tmp_path, table(zip=[10, 9, 10], y=[0, 1, 0]))
    assert both(file_spec(target="y", categorical=["zip"]), folder)[1]["x"].tolist() == [[0, 1], [1, 0], [0, 1]]


def test_sequences_are_padded_and_carry_their_lengths(tmp_path: Path) -> None:
    lists = [[1, 2], [], [7], [3, 4, 5]]
    folder = prepared(tmp_path, table(words=lists, sounds=pa.array([[0.5], [1.5], [2.0], [0.25]]), y=[0, 1, 0, 1]))
    given = file_spec(target="y", inputs={"words": {"columns": ["words"], "dtype": "int64"}, "x": {"columns": ["sounds"]}})
    described, fields = both(given, folder)
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.int64) for row in lists], batch_first=True)
    assert torch.equal(fields["words"], padded)
    assert fields["words_lengths"].tolist() == [2, 0, 1, 3]
    assert described.inputs["words"].integers == 8
    assert fields["x"].tolist() == [[0.5], [1.5], [2.0], [0.25]]
    alone = file_spec("MSELoss", targets={"y": {"columns": ["words"], "dtype": "int64"}}, features=["sounds"])
    assert both(alone, folder)[1]["y_lengths"].tolist() == [2, 0, 1, 3]


def test_images_are_floats_between_0_and_1(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    pixels = {f"{k}/{i}.png": rng.integers(0, 256, (4, 6), dtype=np.uint8) for k in "ab" for i in range(3)}
    folder = prepared(tmp_path, packed({name: image(p) for name, p in pixels.items()}))
    _, fields = both(file_spec(), folder)
    assert torch.equal(fields["x"], torch.from_numpy(np.stack(list(pixels.values()))).float()[:, None] / 255)
    assert fields["y"].tolist() == [0, 0, 0, 1, 1, 1]


def test_images_come_to_one_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    colour, grey = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8), rng.integers(0, 256, (4, 4), dtype=np.uint8)
    folder = prepared(tmp_path, packed({"a/1.png": image(colour), "b/2.png": image(grey)}))
    with pytest.raises(InvalidData, match="4 to 9 high and 4 to 7 wide"):
        describe(file_spec(), folder)
    _, fields = both(file_spec(size=4), folder)
    first = torch.from_numpy(colour.transpose(2, 0, 1).copy()).float() / 255
    small = torch.nn.functional.interpolate(first[None], size=(4, 4), mode="bilinear", align_corners=False, antialias=True)
    assert torch.equal(fields["x"][0], small[0])
    assert torch.equal(fields["x"][1], (torch.from_numpy(grey).float() / 255).expand(3, 4, 4))
    # Against an implementation that is not torch's.
    reference = np.asarray(Image.open(io.BytesIO(image(colour))).resize((4, 4), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(fields["x"][0].numpy() * 255 - reference).max() < 1


@pytest.mark.parametrize(("level", "stride"), [("character", None), ("byte", 3), ("character", 1)])
def test_text_is_windows_and_their_successors(tmp_path: Path, level: str, stride: int | None) -> None:
    text = "größer als öde, aber nicht so groß wie möglich\n"
    folder = prepared(tmp_path, text.encode(), "text")
    options: dict[str, Any] = {"level": level, "window": 8} | ({} if stride is None else {"stride": stride})
    described, fields = both(file_spec(**options), folder)
    vocabulary = sorted(set(text))
    tokens = torch.tensor([vocabulary.index(c) for c in text] if level == "character" else list(text.encode()))
    step = stride or 8
    starts = range(0, len(tokens) - 8, step)
    assert torch.equal(fields["x"], torch.stack([tokens[s : s + 8] for s in starts]))
    assert torch.equal(fields["y"], torch.stack([tokens[s + 1 : s + 9] for s in starts]))
    assert described.targets["y"].classes == (len(vocabulary) if level == "character" else 256)


CSV = b"size,kind,label,odd\n1,a,0,1\n2,b,3,0.5\n3,a,1,2\n4,a,1,-1\n"
BEYOND = b"x,y,z\n1,2,-3.5e38\n1e300,3,1\n"
FAR = "x,w,y\n2e38,1.5e38,1\n-2e38,-1.5e38,2\n0,0,3\n"
TOO_FAR = "2e+38 are too far apart for normalize"
NPZ = {"x": np.zeros((4, 2)), "y": np.array([0, 1, 2, 9]), "p": np.array([0.5, 0.1, 1.5, 0.2]), "short": np.zeros(3)}


@pytest.mark.parametrize(
    ("content", "loss", "dataset", "pointer", "words"),
    [
        (
            CSV,
            "CrossEntropyLoss",
            {"targets": {"y": {"columns": ["label"], "classes": 3}}},
            "/dataset/targets/y",
            "row 2, column 'label': 3",
        ),
        (CSV, "BCELoss", {"target": "odd"}, "/dataset/target", "row 3 holds 2"),
        (
            CSV,
            "BCEWithLogitsLoss",
            {"target": ["odd", "size"]},
            "/dataset/target",
            "row 3, column 'odd': 2 is not between 0 and 1",
        ),
        (CSV, "CrossEntropyLoss", {}, "/dataset/target", "target is required: the file has the columns size, kind"),
        (
            CSV,
            "MSELoss",
            {"target": "size", "inputs": {"x": {"columns": ["odd"], "dtype": "int64"}}},
            "/dataset/inputs/x",
            "whole numbers",
        ),
        (
            CSV,
            "MSELoss",
            {"target": "size", "inputs": {"x": {"array": "odd"}}},
            "/dataset/inputs/x/array",
            "a table has columns",
        ),
        (
            CSV,
            "MSELoss",
            {"target": "size", "inputs": {"x": {"columns": ["no"]}}},
            "/dataset/inputs/x/columns/0",
            "no column 'no'",
        ),
        (BEYOND, "MSELoss", {"target": "y"}, "/dataset", "column 'x', row 2: 1e+300 is beyond float32"),
        (BEYOND, "MSELoss", {"target": "z", "features": ["y"]}, "/dataset/target", "column 'z', row 1: -3.5e+38 is beyond"),
        (table(x=[1.0, 2.0], y=[1.0, 1e39]), "MSELoss", {"target": "y"}, "/dataset/target", "column 'y', row 2: 1e+39"),
        (npz(x=np.array([[1, 2], [3, -1e39]]), y=np.arange(2)), "MSELoss", {}, "/dataset/inputs", "array 'x', row 2: -1e+39"),
        (
            table(x=[[1.0], [2.0, 1e39]], y=[1.0, 2.0]),
            "MSELoss",
            {"target": "y", "inputs": {"x": {"columns": ["x"]}}},
            "/dataset/inputs/x",
            "column 'x', 1e+39 is beyond float32",
        ),
        (FAR, "MSELoss", {"target": "y", "normalize": "minmax"}, "/dataset", f"column 'x', row 2: -2e+38 and row 1: {TOO_FAR}"),
        (
            npz(x=np.array([[1, 2e38], [-2e38, 3]]), y=np.arange(2)),
            "MSELoss",
            {"normalize": "standard"},
            "/dataset/inputs",
            f"array 'x', row 2: -2e+38 and row 1: {TOO_FAR}",
        ),
        (CSV, "MSELoss", {"target": "size", "window": 4}, "/dataset/window", "plain text"),
        (CSV, "MSELoss", {"target": "size", "size": 4}, "/dataset/size", "images"),
        (NPZ, "BCELoss", {"targets": {"y": {"array": "p"}}}, "/dataset/targets/y", "row 3: 1.5"),
        (NPZ, "CrossEntropyLoss", {"targets": {"y": {"array": "y", "classes": 4}}}, "/dataset/targets/y", "row 4: 9"),
        (NPZ, "BCELoss", {}, "/dataset/targets", "row 4: 9"),
        (NPZ, "MSELoss", {"targets": {"y": {"array": "short"}}}, "/dataset", "x has 4, short has 3"),
        (NPZ, "MSELoss", {"targets": {"y": {"array": "z"}}}, "/dataset/targets/y", "no array 'z'; it has x, y, p"),
        (NPZ, "MSELoss", {"targets": {"y": {"columns": ["y"]}}}, "/dataset/targets/y/columns", "not columns"),
        (NPZ, "MSELoss", {"target": "y"}, "/dataset/target", "use `inputs` and `targets`"),
        ({"x": np.ones(4), "y": np.ones(4)}, "CrossEntropyLoss", {}, "/dataset/targets", "one class only"),
        (
            {"x": np.array([1, np.inf]), "y": np.arange(2)},
            "MSELoss",
            {},
            "/dataset/inputs",
            "row 2, array 'x': a number is infinite",
        ),
        (
            {"x": np.array([1, np.nan]), "y": np.arange(2)},
            "MSELoss",
            {},
            "/dataset/inputs",
            "row 2, array 'x': a number is missing",
        ),
        ("some words\nof, prose", "CrossEntropyLoss", {}, "/dataset/window", "window is required"),
        ("some words\nof, prose", "CrossEntropyLoss", {"window": 40}, "/dataset/window", "too few"),
        ("some words\nof, prose", "CrossEntropyLoss", {"window": 4, "target": "x"}, "/dataset/target", "no columns"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, content: Any, loss: str, dataset: Any, pointer: str, words: str) -> None:
    if isinstance(content, dict):
        content = npz(**content)
    folder = prepared(tmp_path, content.encode() if isinstance(content, str) else content)
    with pytest.raises(InvalidData) as caught:
        describe(file_spec(loss, **dataset), folder)
    assert (pointer, True) in [(p.pointer, words in p.detail) for p in caught.value.problems], caught.value.problems


def test_numbers_as_far_apart_as_float32_can_say_are_normalized(tmp_path: Path) -> None:
    folder = prepared(tmp_path, FAR.encode())
    for features, normalize, wanted in (["x"], "none", [2e38, -2e38, 0]), (["w"], "minmax", [1, 0, 0.5]):
        _, fields = both(file_spec("MSELoss", target="y", features=features, normalize=normalize), folder)
        assert fields["x"].flatten().tolist() == torch.tensor(wanted, dtype=torch.float32).tolist()


def test_a_number_beyond_float32_may_be_a_label_or_a_category(tmp_path: Path) -> None:
    folder = prepared(tmp_path, BEYOND)
    _, fields = both(file_spec(target="x", features=["z"], categorical=["z"]), folder)
    assert (fields["y"].tolist(), fields["x"].tolist()) == ([0, 1], [[1, 0], [0, 1]])


def test_more_numbers_than_can_be_told_apart_are_no_categories(tmp_path: Path) -> None:
    folder = prepared(tmp_path, b"x,y\n" + b"".join(b"%d,%d\n" % (row, row % 2) for row in range(1001)))
    with pytest.raises(InvalidData, match="column 'x' has more than 1000 different texts"):
        describe(file_spec(target="y", categorical=["x"]), folder)


def test_parquet_columns_that_are_no_numbers(tmp_path: Path) -> None:
    folder = prepared(tmp_path, table(when=pa.array([1, 2], pa.timestamp("s")), words=[[1], [2]], y=[0, 1]))
    with pytest.raises(InvalidData) as caught:
        describe(file_spec(target="y"), folder)
    assert ["timestamp" in p.detail or "sequences" in p.detail for p in caught.value.problems] == [True, True]


def test_no_two_fields_have_one_name(tmp_path: Path) -> None:
    folder = prepared(tmp_path, table(a=[[1], [2]], b=[[1], [2]], y=[0, 1]))
    inputs = {"x": {"columns": ["a"]}, "x_lengths": {"columns": ["b"]}}
    with pytest.raises(InvalidData, match="'x_lengths'") as caught:
        describe(file_spec(target="y", inputs=inputs), folder)
    assert caught.value.problems[0].pointer == "/dataset/inputs/x_lengths"


def test_nothing_to_normalize_is_said(tmp_path: Path) -> None:
    folder = prepared(tmp_path, b"ein text\nohne, tabelle")
    with pytest.raises(InvalidData) as caught:
        describe(file_spec(window=4, normalize="standard"), folder)
    assert [p.pointer for p in caught.value.problems] == ["/dataset/normalize"]
