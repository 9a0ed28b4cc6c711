"""What is wrong with a user's Dataset: foreseen at POST by its first items, and told in full when the job starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.spec import parse
from tests.trainer.test_own_data import body, given, written
from workers.trainer import check, own_data
from workers.trainer.source import SourceProblem

DATA = """
import torch
from torch.utils.data import Dataset

class D(Dataset):
    def __init__(self, rows=400):
        self.rows = rows
    def __len__(self):
        return {length}
    def __getitem__(self, i):
        {item}
"""


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.trainer.source.is_strict", lambda: True)
    torch.set_num_threads(1)


def source(item: str = "return torch.full((4,), float(i)), i % 3", length: str = "self.rows") -> str:
    return DATA.format(item=item, length=length)


def post(tmp_path: Path, text: str, spec: dict[str, Any]) -> dict[str, str]:
    """The check's problems by their pointers; without the child, whose walls are tested elsewhere."""
    files = check.Files(source=written(tmp_path, text))
    return {p["pointer"]: p["detail"] for p in check._told(parse(spec), None, False, files)["problems"]}


def start(tmp_path: Path, text: str, spec: dict[str, Any]) -> tuple[str | None, str | None, str]:
    service = given(tmp_path, text, spec)
    ended = service.attempt()
    assert ended is not None
    return ended.reason, ended.pointer, ended.message or ""


@pytest.mark.parametrize(
    ("text", "changes", "pointer", "said"),
    [
        (source("return [][0]"), {}, "/dataset/class", "D.__getitem__(0) failed at data.py, line 11: IndexError"),
        (source(length="1 / 0"), {}, "/dataset/class", "D.__len__ failed at data.py, line 9: ZeroDivisionError"),
        (source(length="-1"), {}, "/dataset/class", "D.__len__ gives no length"),
        (source(length="0"), {}, "/dataset/class", "D is empty"),
        (source("return i"), {}, "/dataset/targets", "the data set has no array 'y'; it has x"),
        (source("return {'y': i % 3}"), {}, "/dataset", "no array is left"),
        (source("return {'a': 1., 'y': i % 3}"), {}, "/dataset/inputs", "a Sequential takes the input called 'x'"),
        (source("return torch.zeros(4), i"), {}, "/dataset/class", "row 256: the label 255 is none of 0 to 2"),
        (
            source("return torch.full((4,), float('nan')), i % 3"),
            {},
            "/dataset/inputs",
            "row 1, array 'x': a number is missing",
        ),
        (source("return torch.zeros(4), -1"), {}, "/loss", "CrossEntropyLoss wants class labels"),
        (source("raise SystemExit(3)"), {}, "/dataset/class", "SystemExit: 3"),
        (source(), {"kwargs": {"rws": 3}}, "/dataset/kwargs/rws", "did you mean"),
        (source(), {"kwargs": {"rows": "x"}}, "/dataset/class", "gives no length"),
        (source(), {"class": "E"}, "/dataset/class", 'has no class "E"'),
        (source(), {"inputs": {"x": {"columns": ["a"]}}}, "/dataset/inputs/x/columns", "the data set has arrays, not columns"),
        (source("return {'x': i, 'y': i % 3}"), {"transforms": ["OneHot"]}, "/dataset/transforms/0", "wants num_classes"),
    ],
)
def test_it_is_told_before_anything_is_queued(
    tmp_path: Path, text: str, changes: dict[str, Any], pointer: str, said: str
) -> None:
    found = post(tmp_path, text, body("D", changes))
    assert said in found.get(pointer, ""), found


@pytest.mark.parametrize(
    ("text", "reason", "said"),
    [
        (source(length="500 if i_read else 400").replace("class D", "i_read = False\nclass D"), None, ""),
        (source("return torch.zeros(4 if i < 300 else 5), i % 3"), "invalid_data", "row 301 (D[300]): x has the shape (5,)"),
        (source("return torch.zeros(4), i % 3 if i < 300 else 3"), "invalid_data", "row 301: the label 3 is none of 0 to 2"),
        (source("return torch.full((4,), float('nan') if i > 380 else 1.), i % 3"), "invalid_data", "row 382, array 'x'"),
        (
            source("return torch.zeros(4), [0, 1, 2, *[0] * 300][i]"),
            "error",
            "D.__getitem__(303) failed at data.py",
        ),
        (source("return torch.zeros(2**16), i % 3"), "invalid_data", "bytes of disk"),
    ],
)
def test_what_the_first_rows_do_not_show_is_told_at_the_start(tmp_path: Path, text: str, reason: str | None, said: str) -> None:
    assert post(tmp_path, text, body("D")) == {}
    found = start(tmp_path, text, body("D"))
    assert (found[0], said in found[2]) == (reason, True), found
    assert (found[1] or "").startswith("/dataset") or reason is None


def test_labels_may_have_fewer_classes_than_the_model(tmp_path: Path) -> None:
    """As torch has it: no label 2 anywhere, three outputs; sorted by label, so that the first rows show one class only."""
    text = source("return torch.full((4,), float(i)), int(i >= 300)")
    metrics = ["MulticlassAccuracy"]
    assert post(tmp_path, text, body("D", metrics=metrics)) == {}
    assert start(tmp_path, text, body("D", metrics=metrics))[0] is None


@pytest.mark.parametrize(
    ("item", "spec"),
    [
        ("return torch.randn(4), float(i >= 300)", {"loss": "BCEWithLogitsLoss", "metrics": ["BinaryAccuracy"]}),
        ("return torch.randn(4), i % 7", {"loss": "MSELoss"}),
        ("return torch.randn(4), torch.randn(1)", {"loss": "L1Loss", "split": {"train": 1.0}}),
    ],
)
def test_other_targets_are_taken_as_those_of_arrays(tmp_path: Path, item: str, spec: dict[str, Any]) -> None:
    layers = {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 1}]}
    assert post(tmp_path, source(item), body("D", model=layers, **spec)) == {}
    assert start(tmp_path, source(item), body("D", model=layers, **spec))[0] is None


def test_named_fields_are_named_inputs_and_codes_stay_whole(tmp_path: Path) -> None:
    item = "return {'x': torch.full((4,), float(i)), 'code': torch.tensor([i % 11]), 'label': i % 3}"
    nodes: dict[str, Any] = {
        "embedded": {"type": "Embedding", "num_embeddings": 11, "embedding_dim": 3, "inputs": ["code"]},
        "flat": {"type": "Flatten", "inputs": ["embedded"]},
        "both": {"type": "cat", "inputs": ["x", "flat"]},
        "head": {"type": "Linear", "out_features": 3, "inputs": ["both"]},
    }
    dataset = {"targets": {"label": {"array": "label"}}, "normalize": "standard"}
    spec = body("D", dataset, model={"type": "Graph", "inputs": ["x", "code"], "nodes": nodes, "outputs": ["head"]})
    assert post(tmp_path, source(item), spec) == {}
    assert start(tmp_path, source(item), spec)[0] is None
    del nodes["embedded"]["num_embeddings"]
    assert "needs num_embeddings" in post(tmp_path, source(item), spec)["/model/nodes/embedded/num_embeddings"]


def test_a_data_set_that_never_ends_is_foreseen_and_bounded(tmp_path: Path) -> None:
    endless = source("return torch.zeros(2**10), 0", length="2**62")
    assert post(tmp_path, endless, body("D")) == {}
    assert start(tmp_path, endless, body("D"))[:2] == ("invalid_data", "/dataset/class")


def test_numpy_and_python_draw_by_the_seed_too(tmp_path: Path) -> None:
    item = "import random, numpy; return torch.tensor([random.random(), numpy.random.rand()]), 0"
    path, found = written(tmp_path, source(item)), []
    for seed in (1, 1, 2**40):
        (block,) = own_data.opened(parse(body("D", seed=seed)), path).blocks(range(3))
        found.append(block["x"])
    assert (found[0] == found[1]).all()
    assert not (found[0] == found[2]).any()


def test_errors_of_the_users_keep_their_traceback_and_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceProblem) as caught:
        own_data.opened(parse(body("D", {"kwargs": {"rows": []}})), written(tmp_path, source(length="self.rows + 1")))
    assert (caught.value.problems[0].pointer, caught.value.line) == ("/dataset/class", 9)
    assert "return self.rows + 1" in capfd.readouterr().err
    assert os.listdir(tmp_path) == ["source"]
