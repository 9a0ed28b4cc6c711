"""Dropped and filled cells, and splits that keep the classes' shares, against the formulas of docs/seed.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer.test_fields import file_spec, order, prepared
from tests.trainer.test_formats import npz, table
from workers.trainer import data
from workers.trainer.arrays import Arrays, Rows, Stored
from workers.trainer.data import InvalidData, describe, load, read_schema
from workers.trainer.split import label_counts

SPLIT = {"train": 0.6, "val": 0.2, "test": 0.2}


def holes(rows: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(rows, 3)) * 1000
    values[rng.random((rows, 3)) < 0.1] = np.nan
    return values


def csv(values: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> bytes:
    lines = [",".join("" if np.isnan(v) else repr(float(v)) for v in row) for row in values]
    return ("a,b,c,y\n" + "".join(f"{line},{i % 7}\n" for i, line in enumerate(lines))).encode()


def parts_of(n: int, seed: int) -> tuple[Tensor, ...]:
    perm, n_val, n_test = order(n, seed), int(n * 0.2), int(n * 0.2)
    n_train = n - n_val - n_test
    return perm[:n_train], perm[n_train : n_train + n_val], perm[n_train + n_val :]


@pytest.mark.parametrize("kind", ["csv", "npz", "parquet"])
def test_mean_is_the_training_parts(tmp_path: Path, kind: str) -> None:
    values = holes(501)
    content = {
        "csv": lambda: csv(values),
        "npz": lambda: npz(x=values, y=np.arange(501) % 7),
        "parquet": lambda: table(a=values[:, 0], b=values[:, 1], c=values[:, 2], y=np.arange(501) % 7),
    }[kind]()
    target = {} if kind == "npz" else {"target": "y"}
    given = file_spec("MSELoss", SPLIT, 9, missing="mean", normalize="standard", **target)
    ours = load(given, prepared(tmp_path, content))

    raw = torch.from_numpy(values)
    train, val, test = parts_of(501, 9)
    m = torch.nanmean(raw[train], 0)
    x = torch.where(raw.isnan(), m, raw).float()
    mean, std = x[train].double().mean(0), x[train].double().std(0, correction=0)
    x = (x - mean.float()) / std.float()
    for part, rows in ((ours.train, train), (ours.val, val), (ours.test, test)):
        assert torch.equal(part.fields["x"], x[rows])
        assert torch.equal(part.fields["y"], (rows % 7).float()[:, None])


def test_drop_comes_before_the_split(tmp_path: Path) -> None:
    values = holes(300)
    folder = prepared(tmp_path, csv(values))
    given = file_spec("MSELoss", SPLIT, 2, missing="drop", target="y", features=["a", "c"])
    whole = torch.from_numpy(values[:, [0, 2]])
    kept = (~whole.isnan().any(1)).nonzero().squeeze(1)
    train, val, _ = parts_of(len(kept), 2)
    described, ours = describe(given, folder), load(given, folder)
    assert (described.rows, described.counts["val"]) == (len(kept), int(len(kept) * 0.2))
    assert torch.equal(ours.train.fields["x"], whole.float()[kept][train])
    assert torch.equal(ours.val.fields["y"], (kept % 7).float()[:, None][val])


def test_only_columns_that_miss_something_are_read_for_drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = holes(300)
    values[:, 1] = 1.5
    folder, asked = prepared(tmp_path, csv(values)), set[str]()
    opened = Arrays(folder, read_schema(folder))
    names = {id(array): name for name, array in opened.items()}
    monkeypatch.setattr(data, "Arrays", lambda *_, **__: opened)
    take = Stored.take

    def noted(self: Stored, rows: Rows) -> np.ndarray[Any, Any]:
        asked.add(names[id(self)])
        return take(self, rows)

    monkeypatch.setattr(Stored, "take", noted)
    assert describe(file_spec("MSELoss", missing="drop", target="y"), folder).rows == 300 - np.isnan(values).any(1).sum()
    assert asked == {"numbers.0", "numbers.2"}


def test_labels_are_counted_whatever_their_kind() -> None:
    for labels in ([3, 0, 3, 1], [3.0, 0, 3, 1], [-3, 7, -3, 10**9], [0.5, 0.25, 0.5, 2]):
        assert sorted(label_counts(torch.tensor(labels)).tolist()) == [1, 1, 2]


def test_texts_can_be_dropped_but_have_no_mean(tmp_path: Path) -> None:
    folder = prepared(tmp_path, b"size,kind,y\n1,a,0\n2,,1\n3,b,\n4,b,0\n5,a,1\n")
    assert describe(file_spec(target="y", missing="drop"), folder).rows == 3
    with pytest.raises(InvalidData) as caught:
        describe(file_spec(target="y", missing="mean"), folder)
    details = {p.pointer: p.detail for p in caught.value.problems}
    assert "row 2, column 'kind'" in details["/dataset"]
    assert "texts have no mean" in details["/dataset"]
    assert "row 3, column 'y'" in details["/dataset/target"]


def test_nothing_left_is_said(tmp_path: Path) -> None:
    folder = prepared(tmp_path, b"a,b,y\n1,,0\n,2,1\n")
    with pytest.raises(InvalidData, match="leaves none"):
        describe(file_spec(target="y", missing="drop"), folder)
    empty = prepared(tmp_path, b"a,b,y\n1,1,0\n,2,1\n2,2,2\n,3,0\n")
    seed = next(s for s in range(99) if int(order(4, s)[0]) in (1, 3))  # a row trains whose cell is missing
    with pytest.raises(InvalidData, match="no mean"):
        load(file_spec("MSELoss", {"train": 0.25, "val": 0.75}, seed, target="y", missing="mean"), empty)


@pytest.mark.parametrize("labels", ["text", "number", "binary"])
def test_stratified_parts_keep_the_shares(tmp_path: Path, labels: str) -> None:
    rng = np.random.default_rng(8)
    y = rng.choice(2 if labels == "binary" else 4, size=400, p=[0.9, 0.1] if labels == "binary" else [0.7, 0.2, 0.06, 0.04])
    names = [f"c{v}" for v in y] if labels == "text" else [str(v) for v in y]
    folder = prepared(tmp_path, ("x,y\n" + "".join(f"{i},{n}\n" for i, n in enumerate(names))).encode())
    given = file_spec("BCELoss" if labels == "binary" else "CrossEntropyLoss", {**SPLIT, "stratify": True}, 6, target="y")

    perm = order(400, 6)
    shuffled = torch.from_numpy(y)[perm]
    part = torch.zeros(400)
    for c in torch.unique(shuffled):
        places = (shuffled == c).nonzero().squeeze(1)
        n_val, n_test = int(len(places) * 0.2), int(len(places) * 0.2)
        n_train = len(places) - n_val - n_test
        part[places[n_train : n_train + n_val]] = 1
        part[places[n_train + n_val :]] = 2
    described, ours = describe(given, folder), load(given, folder)
    for number, name in enumerate(("train", "val", "test")):
        rows = perm[part == number]
        assert described.counts[name] == len(rows)
        assert torch.equal(getattr(ours, name).fields["x"], rows.float()[:, None])
        share = (torch.from_numpy(y)[rows] == 0).float().mean()
        assert abs(float(share) - (y == 0).mean()) < 0.02


@pytest.mark.parametrize(("loss", "text"), [("MSELoss", "class label"), ("BCELoss", "probabilities")])
def test_only_classes_can_be_stratified(tmp_path: Path, loss: str, text: str) -> None:
    folder = prepared(tmp_path, b"x,y\n1,0.1\n2,0.2\n3,0.9\n4,0.4\n")
    with pytest.raises(InvalidData, match=text) as caught:
        describe(file_spec(loss, {"train": 0.5, "val": 0.5, "stratify": True}, target="y"), folder)
    assert caught.value.problems[0].pointer == "/split/stratify"
