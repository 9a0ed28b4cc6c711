"""A data set that is a class of the user's: the textbook's bits, read once and kept whole.

The test's own classes are trusted, so they run without profile strict here; tests/e2e/test_python_data.py has it up.
"""

from __future__ import annotations

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
from workers.trainer import own_data
from workers.trainer.data import read_schema
from workers.trainer.fields import InvalidData

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
