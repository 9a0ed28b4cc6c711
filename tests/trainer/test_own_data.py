"""A data set that is a class of the user's: read once, kept whole, foreseen at POST and checked in full when the job starts.

The test's own classes are trusted, so they run without profile strict here; tests/e2e/test_python_data.py has it up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from jobs.spec import JobSpec, parse
from tests.trainer.supervised import Supervised, job
from workers.protocol import Message, Points
from workers.trainer import check, own_data
from workers.trainer.data import read_schema
from workers.trainer.fields import InvalidData
from workers.trainer.source import SourceProblem

ID = "file_" + "0" * 24
DISK = 2**26
BLOBS = '''
import torch
from torch.utils.data import Dataset

print("the source runs")


class Blobs(Dataset):
    """Three clouds of points, drawn when it is made."""

    def __init__(self, rows=300, width=6):
        self.labels = torch.randint(0, 3, (rows,))
        self.points = torch.randn(rows, width) + self.labels[:, None]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.points[index], int(self.labels[index])


class Noisy(Blobs):
    """Draws for every item that is asked for."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn_like(x), y


class Net(torch.nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.first, self.last = torch.nn.Linear(6, hidden), torch.nn.Linear(hidden, 3)

    def forward(self, x):
        return self.last(torch.nn.functional.dropout(torch.relu(self.first(x)), 0.2, self.training))
'''


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.trainer.source.is_strict", lambda: True)
    torch.set_num_threads(1)


def body(class_name: str = "Blobs", dataset: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    drop, last = {"type": "Dropout", "p": 0.2}, {"type": "Linear", "out_features": 3}
    layers = [{"type": "Linear", "out_features": 8}, "ReLU", drop, last]
    return {
        "dataset": {"type": "python", "id": ID, "class": class_name, **(dataset or {})},
        "split": {"train": 0.8, "val": 0.2},
        "model": {"type": "Sequential", "layers": layers},
        "loss": "CrossEntropyLoss",
        "optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9},
        "batch_size": 32,
        "epochs": 3,
        "seed": 5,
        **changes,
    }


def written(folder: Path, source: str) -> Path:
    path = folder / "source"
    path.write_text(source)
    return path


def given(folder: Path, source: str, spec: dict[str, Any], **more: Any) -> Supervised:
    where = {"dataset": str(folder / "job" / "data"), "source_file": str(written(folder, source)), "disk_bytes": DISK}
    return job(folder, folder / "job", spec, **where, **more)


# ---- the textbook


def textbook(
    make: Callable[[], Dataset[Any]], build: Callable[[], nn.Module], seed: int = 5, epochs: int = 3
) -> tuple[list[float], list[float]]:
    """The four steps with a DataLoader over subsets of the class itself: train and validation losses."""
    torch.manual_seed(seed)
    dataset = make()
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()  # type: ignore[arg-type]
    n_val = int(len(order) * 0.2)
    train, val = Subset(dataset, order[:-n_val]), Subset(dataset, order[-n_val:])
    torch.manual_seed(seed)
    model, criterion = build(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = DataLoader(train, 32, shuffle=True, generator=torch.Generator().manual_seed(seed))
    losses, validation = [], []
    for _ in range(epochs):
        for x, y in loader:
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            parts = [(float(criterion(model(x), y)), len(y)) for x, y in DataLoader(val, 32, generator=torch.Generator())]
        validation.append(sum(value * rows for value, rows in parts) / len(val))
        model.train()
    return losses, validation


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


class Kept(Dataset[Any]):
    """Items as they came when each was asked for once, in order."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._items = [dataset[index] for index in range(len(dataset))]  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        return self._items[index]


def source_names() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "outside"}
    exec(BLOBS, names)
    return names


def same(service: Supervised, losses: list[float], validation: list[float]) -> None:
    assert service.ended[-1].state == "succeeded", service.ended
    assert service.values("train/loss") == losses
    assert service.values("val/loss") == validation


def test_it_trains_to_the_bits_of_a_loader_over_the_class_itself(tmp_path: Path) -> None:
    service = given(tmp_path, BLOBS, body(dataset={"kwargs": {"rows": 333}}))
    service.attempt()
    same(service, *textbook(lambda: source_names()["Blobs"](rows=333), dense))
    dataset = service.started[0].effective_spec["dataset"]
    assert dataset["class"] == {"value": "Blobs", "source": "given"}
    assert dataset["kwargs"] == {"rows": {"value": 333, "source": "given"}}
    assert not (tmp_path / "job" / "data").exists()  # the rows go with the job's end


def test_what_an_item_draws_is_drawn_once(tmp_path: Path) -> None:
    service = given(tmp_path, BLOBS, body("Noisy"))
    service.attempt()
    same(service, *textbook(lambda: Kept(source_names()["Noisy"]()), dense))


def test_model_and_data_may_be_of_one_source(tmp_path: Path) -> None:
    model = {"type": "python", "id": ID, "class": "Net", "kwargs": {"hidden": 8}}
    service = given(tmp_path, BLOBS, body(model=model), model_file=str(tmp_path / "source"))
    service.attempt()
    same(service, *textbook(lambda: source_names()["Blobs"](), lambda: source_names()["Net"](8)))
    assert service.stderr.count("the source runs") == 1


# ---- read once


def killed_at(iteration: int) -> Callable[[Supervised, Message], str | None]:
    return lambda _job, message: "kill" if isinstance(message, Points) and message.iteration >= iteration else None


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_killed_attempt_resumes_with_the_rows_that_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class draws from a source that no seed reaches, so rows that were read again would be others."""
    monkeypatch.setattr("workers.trainer.attempt.Attempt._checkpoint_due", lambda attempt: attempt._position.iteration % 3 == 0)
    wild = BLOBS.replace("self.labels = ", "import os; torch.manual_seed(int.from_bytes(os.urandom(4))); self.labels = ")
    service = given(tmp_path, wild, body())
    data = tmp_path / "job" / "data"
    service.attempt(killed_at(4))
    rows = contents(data)
    service.assignment = replace(service.assignment, attempt=2)
    service.attempt(killed_at(7))
    assert contents(data) == rows
    assert "the source runs" not in service.stderr  # nothing of the data set's ran a second time
    service.assignment = replace(service.assignment, attempt=3)
    service.attempt()
    assert [started.resumed_from for started in service.started] == [0, 3, 6]
    undisturbed = given(tmp_path, wild, body())
    data.mkdir()
    for name, content in rows.items():
        (data / name).write_bytes(content)
    for path in (tmp_path / "job" / "checkpoints").iterdir():
        path.unlink()
    undisturbed.attempt()
    assert undisturbed.curve == service.curve


def prepared(tmp_path: Path, source: str, spec: JobSpec) -> list[str]:
    return own_data.prepare(spec, written(tmp_path, source), tmp_path / "data", DISK)


def test_rows_that_rotted_are_read_again_and_must_be_the_same(tmp_path: Path) -> None:
    spec = parse(body())
    assert prepared(tmp_path, BLOBS, spec) == []
    array = tmp_path / "data" / "array-0.bin"
    whole = array.read_bytes()
    array.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert prepared(tmp_path, BLOBS, spec) == ["the rows of the data set were damaged on the disk and have been read again"]
    assert array.read_bytes() == whole
    array.unlink()
    with pytest.raises(InvalidData, match="gives others now: it draws from something that `seed` does not reach"):
        prepared(tmp_path, BLOBS.replace("torch.randn(rows", "2 * torch.randn(rows"), spec)


def test_what_an_attempt_left_half_read_is_of_no_use(tmp_path: Path) -> None:
    spec, data = parse(body()), tmp_path / "data"
    prepared(tmp_path, BLOBS, spec)
    whole = {path.name: path.read_bytes() for path in data.iterdir()}
    (data / "manifest.json").unlink()
    (data / "schema.json").unlink()
    (data / "array-1.77.tmp").write_bytes(b"half")
    prepared(tmp_path, BLOBS, spec)
    assert {path.name: path.read_bytes() for path in data.iterdir()} == whole
    assert read_schema(data)["rows"] == 300


def test_the_rows_have_a_bound_on_the_disk(tmp_path: Path) -> None:
    spec = parse(body(dataset={"kwargs": {"rows": 10_000}}))
    with pytest.raises(InvalidData, match="more than the 100,000 bytes"):
        own_data.prepare(spec, written(tmp_path, BLOBS), tmp_path / "data", 100_000)
    assert not any((tmp_path / "data").glob("*"))


# ---- what is wrong with it, at POST and at the start

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
