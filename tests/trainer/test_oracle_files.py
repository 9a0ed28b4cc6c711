"""A whole job on a file of each form: its curve and weights are those of a plain loop over what the file holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, TensorDataset

from jobs.spec import parse
from tests.trainer.graphs import graph
from tests.trainer.supervised import Supervised
from tests.trainer.test_fields import prepared
from tests.trainer.test_formats import npz, table
from workers.protocol import Assignment

Fields = dict[str, Tensor]
SEED, BATCH, EPOCHS = 4, 8, 3


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def trained(folder: Path, content: bytes, dataset: dict[str, Any], model: dict[str, Any], loss: Any) -> Supervised:
    """A job that has run on the file: 80 % train, 20 % validate."""
    spec = {
        "dataset": {"type": "file", "id": "file_" + "0" * 24, **dataset},
        "split": {"train": 0.8, "val": 0.2},
        "model": model,
        "loss": loss,
        "optimizer": {"type": "Adam", "lr": 0.01},
        "batch_size": BATCH,
        "epochs": EPOCHS,
        "seed": SEED,
    }
    upload = folder / "file"
    upload.mkdir()
    at = str(prepared(upload, content, "text" if "window" in dataset else "auto"))
    given = Assignment(
        job_id="job_test", attempt=1, device="cpu", threads=1, spec=parse(spec).canonical(), dataset=at, job_folder=str(folder)
    )
    service = Supervised(given)
    service.attempt()
    assert service.ended[-1].state == "succeeded", service.stderr
    return service


def order(rows: int) -> tuple[Tensor, Tensor]:
    """Training and validation rows, by rule 2."""
    perm = torch.randperm(rows, generator=torch.Generator().manual_seed(SEED))
    return perm[: rows - int(rows * 0.2)], perm[rows - int(rows * 0.2) :]


def same(
    service: Supervised, fields: Fields, made: Callable[[], nn.Module], loss_of: Callable[[nn.Module, Fields], Tensor]
) -> None:
    """The service's numbers are those of the textbook's loop."""
    train, val = order(len(next(iter(fields.values()))))
    torch.manual_seed(SEED)
    model = made()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    rows = TensorDataset(*(values[train] for values in fields.values()))
    losses, validation = [], []
    loader = DataLoader(rows, BATCH, shuffle=True, generator=torch.Generator().manual_seed(SEED))
    for _ in range(EPOCHS):
        for values in loader:
            loss = loss_of(model, dict(zip(fields, values, strict=True)))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            batches = [val[start : start + BATCH] for start in range(0, len(val), BATCH)]
            total = sum(float(loss_of(model, {n: v[b] for n, v in fields.items()})) * len(b) for b in batches)
        model.train()
        validation.append(total / len(val))
    assert losses[-1] != losses[0]
    assert service.values("train/loss") == losses
    assert service.values("val/loss") == validation
    weights = model.state_dict()
    assert service.weights().keys() == weights.keys()
    assert all(torch.equal(service.weights()[name], tensor) for name, tensor in weights.items())


# ---- sequences of different lengths


class Reader(nn.Module):
    """Words through an LSTM, their number through an embedding of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.long = nn.Embedding(6, 3)
        self.head = nn.Linear(11, 3)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        read = self.lstm(self.embedding(words))[0][:, -1]
        return self.head(torch.cat([read, self.long(lengths)], 1))  # type: ignore[no-any-return]


READER = graph(
    ["words", "words_lengths"],
    ["head"],
    embedding={"type": "Embedding", "embedding_dim": 6, "inputs": ["words"]},
    lstm={"type": "LSTM", "hidden_size": 8, "output": "last", "inputs": ["embedding"]},
    long={"type": "Embedding", "embedding_dim": 3, "inputs": ["words_lengths"]},
    join={"type": "cat", "inputs": ["lstm", "long"]},
    head={"type": "Linear", "out_features": 3, "inputs": ["join"]},
)


def sentences() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 9, 1 + i % 5).tolist() for i in range(60)]


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_sequences_and_their_lengths_into_an_lstm(tmp_path: Path, kind: str) -> None:
    lists, labels = sentences(), np.arange(60) % 3
    words = pad_sequence([torch.tensor(row) for row in lists], batch_first=True)
    lengths = torch.tensor([len(row) for row in lists])
    if kind == "parquet":
        content = table(words=lists, label=labels)
        inputs = {"words": {"columns": ["words"], "dtype": "int64"}}
        dataset: dict[str, Any] = {"inputs": inputs, "target": "label"}
    else:
        content = npz(words=words.numpy(), long=lengths.numpy(), y=labels)
        arrays = {"words": "words", "words_lengths": "long"}
        dataset = {"inputs": {name: {"array": array, "dtype": "int64"} for name, array in arrays.items()}}
    service = trained(tmp_path, content, dataset, READER, "CrossEntropyLoss")
    fields = {"words": words, "lengths": lengths, "y": torch.from_numpy(labels)}
    loss = nn.CrossEntropyLoss()
    same(service, fields, Reader, lambda model, batch: loss(model(batch["words"], batch["lengths"]), batch["y"]))


class Listener(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, 8, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x[:, :, None])[0]).log_softmax(2)  # type: ignore[no-any-return]


def test_ragged_labels_into_ctc_loss(tmp_path: Path) -> None:
    """`y_lengths` is found by itself; the label 0 stands for the blank and never in a row."""
    rng = np.random.default_rng(1)
    sounds, spoken = rng.normal(size=(40, 9)), [rng.integers(1, 5, 1 + i % 4).tolist() for i in range(40)]
    model = graph(
        ["x"],
        ["log_probs"],
        wide={"type": "unsqueeze", "dim": 2, "inputs": ["x"]},
        gru={"type": "GRU", "hidden_size": 8, "inputs": ["wide"]},
        head={"type": "Linear", "out_features": 5, "inputs": ["gru"]},
        log_probs={"type": "LogSoftmax", "dim": 2, "inputs": ["head"]},
    )
    dataset = {"inputs": {"x": {"columns": ["sound"]}}, "targets": {"y": {"columns": ["spoken"]}}}
    content = table(sound=pa.array(sounds.tolist()), spoken=spoken)
    service = trained(tmp_path, content, dataset, model, "CTCLoss")
    fields = {
        "x": torch.from_numpy(sounds).float(),
        "y": pad_sequence([torch.tensor(row) for row in spoken], batch_first=True),
        "lengths": torch.tensor([len(row) for row in spoken]),
    }
    loss = nn.CTCLoss()

    def loss_of(model: nn.Module, batch: Fields) -> Tensor:
        log_probs = model(batch["x"]).transpose(0, 1)
        return loss(log_probs, batch["y"], torch.full((len(batch["x"]),), 9), batch["lengths"])  # type: ignore[no-any-return]

    same(service, fields, Listener, loss_of)


# ---- text


class Writer(nn.Module):
    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, 6)
        self.gru = nn.GRU(6, 12, batch_first=True)
        self.head = nn.Linear(12, characters)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.embedding(x))[0]).transpose(1, 2)  # type: ignore[no-any-return]


def test_windows_of_text_into_a_character_model(tmp_path: Path) -> None:
    text = "größer als öde, aber nicht so groß wie möglich\n" * 9
    vocabulary = sorted(set(text))
    model = graph(
        ["x"],
        ["classes_first"],
        embedding={"type": "Embedding", "embedding_dim": 6, "inputs": ["x"]},
        gru={"type": "GRU", "hidden_size": 12, "inputs": ["embedding"]},
        head={"type": "Linear", "out_features": len(vocabulary), "inputs": ["gru"]},
        classes_first={"type": "transpose", "dim0": 1, "dim1": 2, "inputs": ["head"]},
    )
    service = trained(tmp_path, text.encode(), {"window": 10, "stride": 7}, model, "CrossEntropyLoss")
    tokens = torch.tensor([vocabulary.index(character) for character in text])
    starts = range(0, len(tokens) - 10, 7)
    fields = {
        "x": torch.stack([tokens[s : s + 10] for s in starts]),
        "y": torch.stack([tokens[s + 1 : s + 11] for s in starts]),
    }
    loss = nn.CrossEntropyLoss()
    same(service, fields, lambda: Writer(len(vocabulary)), lambda model, batch: loss(model(batch["x"]), batch["y"]))


# ---- a table with two inputs


class Pricing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Embedding(3, 4)
        self.wide = nn.Linear(2, 5)
        self.head = nn.Linear(9, 1)

    def forward(self, x: Tensor, city: Tensor) -> Tensor:
        return self.head(torch.cat([self.wide(x).tanh(), self.place(city).flatten(1)], 1))  # type: ignore[no-any-return]


def test_a_table_with_two_inputs_into_a_graph(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    x, price = rng.normal(size=(50, 2)), rng.normal(size=50)
    cities = [["Rome", "Bern", "Oslo"][i] for i in rng.integers(0, 3, 50)]
    rows = [f"{a!r},{city},{b!r},{p!r}" for (a, b), city, p in zip(x.tolist(), cities, price.tolist(), strict=True)]
    model = graph(
        ["x", "city"],
        ["head"],
        place={"type": "Embedding", "embedding_dim": 4, "inputs": ["city"]},
        flat={"type": "Flatten", "inputs": ["place"]},
        wide={"type": "Linear", "out_features": 5, "inputs": ["x"]},
        tanh={"type": "Tanh", "inputs": ["wide"]},
        join={"type": "cat", "inputs": ["tanh", "flat"]},
        head={"type": "Linear", "out_features": 1, "inputs": ["join"]},
    )
    inputs = {"x": {"columns": ["rooms", "area"]}, "city": {"columns": ["city"], "dtype": "int64"}}
    content = "\n".join(["rooms,city,area,price", *rows]).encode()
    dataset = {"inputs": inputs, "target": "price", "normalize": "standard"}
    service = trained(tmp_path, content, dataset, model, "MSELoss")
    numbers = torch.from_numpy(x).float()
    known = numbers[order(50)[0]].double()
    fields = {
        "x": (numbers - known.mean(0).float()) / known.std(0, correction=0).float(),
        "city": torch.tensor([["Bern", "Oslo", "Rome"].index(city) for city in cities])[:, None],
        "y": torch.from_numpy(price).float()[:, None],
    }
    loss = nn.MSELoss()
    same(service, fields, Pricing, lambda model, batch: loss(model(batch["x"], batch["city"]), batch["y"]))
