"""Rules 1 to 3 of "What `seed` means", each against the formula written out again in plain PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_iris

from jobs.spec import JobSpec, parse
from workers.trainer import ingest
from workers.trainer.data import InvalidData, describe, load


def spec(dataset: dict[str, Any], loss: str = "CrossEntropyLoss", **more: Any) -> JobSpec:
    body = {
        "dataset": dataset,
        "model": {"type": "Sequential", "layers": [{"type": "Flatten"}, {"type": "Linear", "out_features": 10}]},
        "loss": loss,
        "optimizer": {"type": "SGD", "lr": 0.1},
        "batch_size": 8,
        "epochs": 1,
    }
    return parse(body | more)


def prepared(folder: Path, text: str) -> Path:
    (folder / "upload").write_text(text)
    ingest.read(folder / "upload", folder / "out", "csv")
    return folder / "out"


@pytest.fixture(scope="module")
def builtin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("builtin")
    ingest.main(["builtins", str(folder)])
    return folder


def file_spec(loss: str = "CrossEntropyLoss", **dataset: Any) -> JobSpec:
    return spec({"type": "file", "id": "file_" + "0" * 24, "target": "y", **dataset}, loss)


def test_split_and_standard_follow_the_documented_formula(builtin: Path) -> None:
    parts = load(
        spec(
            {"type": "builtin", "name": "iris", "normalize": "standard"},
            split={"train": 0.51, "val": 0.29, "test": 0.2},
            seed=5,
        ),
        builtin / "iris",
    )
    x = torch.from_numpy(load_iris().data.astype(np.float32))
    perm = torch.randperm(150, generator=torch.Generator().manual_seed(5))
    n_val, n_test = int(150 * 0.29), int(150 * 0.2)
    train = perm[: 150 - n_val - n_test]
    m, s = x[train].double().mean(0), x[train].double().std(0, correction=0)
    s[s == 0] = 1
    expected = (x - m.float()) / s.float()
    assert torch.equal(parts.train.fields["x"], expected[train])
    assert torch.equal(parts.val.fields["x"], expected[perm[150 - n_val - n_test : 150 - n_test]])
    assert torch.equal(parts.test.fields["x"], expected[perm[150 - n_test :]])
    assert parts.train.fields["y"].dtype == torch.int64


def test_split_seed_zero_counts_as_given(builtin: Path) -> None:
    body = {"type": "builtin", "name": "iris"}
    split = {"train": 0.5, "val": 0.5, "seed": 0}
    a = load(spec(body, split=split, seed=7), builtin / "iris")
    b = load(spec(body, split=split, seed=8), builtin / "iris")
    assert torch.equal(a.train.fields["x"], b.train.fields["x"])


def test_images_are_normalised_per_channel(builtin: Path) -> None:
    parts = load(spec({"type": "builtin", "name": "digits", "normalize": "minmax"}), builtin / "digits")
    x = torch.from_numpy((load_digits().images[:, None] / 16.0).astype(np.float32))
    perm = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    assert parts.train.fields["x"].shape == (1797, 1, 8, 8)
    assert torch.equal(parts.train.fields["x"], ((x - x.min()) / (x.max() - x.min()))[perm])


def test_loading_leaves_the_default_generator_alone(builtin: Path) -> None:
    state = torch.get_rng_state()
    load(spec({"type": "builtin", "name": "digits"}, split={"train": 0.5, "val": 0.5}), builtin / "digits")
    assert torch.equal(state, torch.get_rng_state())


def test_binary_target_serves_both_losses(builtin: Path) -> None:
    body = {"type": "builtin", "name": "breast_cancer"}
    assert load(spec(body, "BCELoss"), builtin / "breast_cancer").train.fields["y"].shape == (569, 1)
    assert load(spec(body, "CrossEntropyLoss"), builtin / "breast_cancer").train.fields["y"].dtype == torch.int64


CSV = "size,colour,y\n1,red,no\n2,blue,yes\n3,red,yes\n10,green,no\n"


def test_one_hot_stands_in_its_place_and_is_left_alone(tmp_path: Path) -> None:
    folder = prepared(tmp_path, CSV)
    given = file_spec(features=["colour", "size"], normalize="standard")
    assert describe(given, folder).inputs["x"].shape == (4,)
    x = load(given, folder).train.fields["x"]
    assert set(x[:, :3].flatten().tolist()) == {0.0, 1.0}
    assert (x[:, :3].sum(1) == 1).all()
    assert abs(float(x[:, 3].mean())) < 1e-6


def test_number_labels_sort_as_numbers_and_texts_by_code_point(tmp_path: Path) -> None:
    folder = prepared(tmp_path, "x,y,z\n1,10,b\n2,9,Z\n3,10,b\n")
    order = torch.randperm(3, generator=torch.Generator().manual_seed(0))
    assert load(file_spec(features=["x"]), folder).train.fields["y"].tolist() == torch.tensor([1, 0, 1])[order].tolist()
    by_text = file_spec(features=["x"], target="z")
    assert load(by_text, folder).train.fields["y"].tolist() == torch.tensor([1, 0, 1])[order].tolist()


def test_probabilities_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = prepared(tmp_path, "x,y\n1,0.2\n2,0.8\n")
    y = load(file_spec("BCELoss"), folder).train.fields["y"]
    assert sorted(y.flatten().tolist()) == pytest.approx([0.2, 0.8])


@pytest.mark.parametrize(
    ("text", "dataset", "loss", "pointer", "words"),
    [
        ("x,y\n1,a\n,b\n", {}, "CrossEntropyLoss", "/dataset", "row 2, column 'x'"),
        ("x,y\n1,a\nNaN,b\n", {}, "CrossEntropyLoss", "/dataset", "row 2, column 'x'"),
        ("x,y\n1,a\nred,b\n", {}, "CrossEntropyLoss", "/dataset", "row 2, column 'x': 'red'"),
        ("x,y\n1,a\n2,null\n", {}, "CrossEntropyLoss", "/dataset/target", "row 2, column 'y'"),
        ("x,y\n1,a\n2,b\n", {}, "MSELoss", "/dataset/target", "class labels"),
        ("x,y\n1,a\n2,a\n", {}, "CrossEntropyLoss", "/dataset/target", "one class"),
        ("x,y\n1,1\n2,2\n3,3\n", {}, "BCELoss", "/dataset/target", "3 classes"),
        ("x,y\n1,a\n2,b\n", {"target": "label"}, "CrossEntropyLoss", "/dataset/target/0", "no column 'label'"),
        ("x,y\n1,a\n2,b\n", {"features": ["x", "w"]}, "CrossEntropyLoss", "/dataset/features/1", "no column 'w'"),
        ("x,y\n1,a\n2,b\n", {"features": ["y"]}, "CrossEntropyLoss", "/dataset/features/0", "is the target"),
        ("y\na\nb\n", {}, "CrossEntropyLoss", "/dataset", "no feature"),
    ],
)
def test_data_that_does_not_fit(tmp_path: Path, text: str, dataset: Any, loss: str, pointer: str, words: str) -> None:
    folder = prepared(tmp_path, text)
    with pytest.raises(InvalidData) as caught:
        describe(file_spec(loss, **dataset), folder)
    assert [(p.pointer, words in p.detail) for p in caught.value.problems] == [(pointer, True)]


def test_an_empty_part_is_refused(builtin: Path) -> None:
    with pytest.raises(InvalidData) as caught:
        describe(spec({"type": "builtin", "name": "iris"}, split={"train": 0.999, "val": 0.001}), builtin / "iris")
    assert caught.value.problems[0].pointer == "/split/val"
