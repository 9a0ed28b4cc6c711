"""Recurrent layers, attention and graphs: the service's numbers are those of a plain module of the same structure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainer import textbook
from tests.trainer.supervised import job, prepare
from tests.trainer.test_oracle import same
from tests.trainer.textbook import Built, Recipe


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("sets"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


DIGITS: dict[str, Any] = {
    "dataset": {"type": "builtin", "name": "digits"},
    "split": {"train": 0.3, "val": 0.1, "test": 0.6},
    "loss": "CrossEntropyLoss",
    "optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9},
    "batch_size": 60,
    "epochs": 2,
    "seed": 5,
}
ROWS: dict[str, Any] = {"type": "Unflatten", "dim": 1, "unflattened_size": [8, 8]}  # an image as 8 time steps


def agree(sets: Path, folder: Path, model: dict[str, Any], plain: Callable[[], nn.Module]) -> None:
    """The same curve, weights and names from the service and from the textbook."""

    def build() -> Built:
        module = plain()
        return module, nn.CrossEntropyLoss(), torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9), None

    service = job(sets, folder, DIGITS | {"model": model})
    service.attempt()
    recipe = Recipe(batch_size=60, epochs=2, seed=5, val=0.1, test=0.6)
    same(service, textbook.run(textbook.digits(), recipe, build))


class Layers(nn.Module):
    """A Sequential by hand, whose forward unpacks what nn.Sequential cannot."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        for index, layer in enumerate(layers):
            self.add_module(str(index), layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = self.call(layer, x)
        return x

    def call(self, layer: nn.Module, x: Tensor) -> Any:
        return layer(x)


class LastStep(Layers):
    def call(self, layer: nn.Module, x: Tensor) -> Any:
        return layer(x)[0][:, -1] if isinstance(layer, nn.RNNBase) else layer(x)


class AllSteps(Layers):
    def call(self, layer: nn.Module, x: Tensor) -> Any:
        return layer(x)[0] if isinstance(layer, nn.RNNBase) else layer(x)


def sequential(*layers: Any) -> dict[str, Any]:
    return {"type": "Sequential", "layers": list(layers)}


def test_lstm_last(sets: Path, tmp_path: Path) -> None:
    lstm = {"type": "LSTM", "hidden_size": 12, "num_layers": 2, "dropout": 0.2, "output": "last"}
    model = sequential("Flatten", ROWS, lstm, {"type": "Linear", "out_features": 10})
    agree(
        sets,
        tmp_path,
        model,
        lambda: LastStep(
            nn.Flatten(),
            nn.Unflatten(1, (8, 8)),
            nn.LSTM(8, 12, num_layers=2, dropout=0.2, batch_first=True),
            nn.Linear(12, 10),
        ),
    )


def test_gru_all(sets: Path, tmp_path: Path) -> None:
    model = sequential("Flatten", ROWS, {"type": "GRU", "hidden_size": 6}, "Flatten", {"type": "Linear", "out_features": 10})
    agree(
        sets,
        tmp_path,
        model,
        lambda: AllSteps(
            nn.Flatten(), nn.Unflatten(1, (8, 8)), nn.GRU(8, 6, batch_first=True), nn.Flatten(), nn.Linear(48, 10)
        ),
    )


def test_a_bidirectional_rnn(sets: Path, tmp_path: Path) -> None:
    rnn = {"type": "RNN", "hidden_size": 7, "bidirectional": True, "nonlinearity": "relu", "output": "last"}
    model = sequential("Flatten", ROWS, rnn, {"type": "Linear", "out_features": 10})
    agree(
        sets,
        tmp_path,
        model,
        lambda: LastStep(
            nn.Flatten(),
            nn.Unflatten(1, (8, 8)),
            nn.RNN(8, 7, bidirectional=True, nonlinearity="relu", batch_first=True),
            nn.Linear(14, 10),
        ),
    )


class SelfAttention(Layers):
    def call(self, layer: nn.Module, x: Tensor) -> Any:
        return layer(x, x, x, need_weights=False)[0] if isinstance(layer, nn.MultiheadAttention) else layer(x)


def test_multihead_attention(sets: Path, tmp_path: Path) -> None:
    attention = {"type": "MultiheadAttention", "num_heads": 2, "dropout": 0.1}
    model = sequential("Flatten", ROWS, attention, "Flatten", {"type": "Linear", "out_features": 10})
    agree(
        sets,
        tmp_path,
        model,
        lambda: SelfAttention(
            nn.Flatten(),
            nn.Unflatten(1, (8, 8)),
            nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True),
            nn.Flatten(),
            nn.Linear(64, 10),
        ),
    )


class Causal(Layers):
    def call(self, layer: nn.Module, x: Tensor) -> Any:
        if not isinstance(layer, nn.TransformerEncoder):
            return layer(x)
        return layer(x, mask=nn.Transformer.generate_square_subsequent_mask(x.shape[1]), is_causal=True)


@pytest.mark.parametrize("norm", [None, "LayerNorm"])
def test_a_transformer_encoder_with_a_causal_mask(sets: Path, tmp_path: Path, norm: str | None) -> None:
    layer = {"type": "TransformerEncoderLayer", "nhead": 2, "dim_feedforward": 16, "norm_first": True, "activation": "gelu"}
    encoder = {"type": "TransformerEncoder", "encoder_layer": layer, "num_layers": 2, "norm": norm, "mask": "causal"}
    model = sequential("Flatten", ROWS, encoder, "Flatten", {"type": "Linear", "out_features": 10})

    def plain() -> nn.Module:
        inner = nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, activation="gelu", batch_first=True)
        return Causal(
            nn.Flatten(),
            nn.Unflatten(1, (8, 8)),
            nn.TransformerEncoder(inner, 2, norm=nn.LayerNorm(8) if norm else None),
            nn.Flatten(),
            nn.Linear(64, 10),
        )

    agree(sets, tmp_path, model, plain)


def test_layers_that_draw_in_validation_leave_the_curve_alone(sets: Path, tmp_path: Path) -> None:
    pool = {"type": "FractionalMaxPool2d", "kernel_size": 2, "output_ratio": 0.6}
    model = sequential(pool, "Flatten", {"type": "Dropout", "p": 0.2}, {"type": "Linear", "out_features": 10})
    body = {key: value for key, value in DIGITS.items() if key != "split"} | {"model": model}
    service = job(sets, tmp_path, body)
    service.attempt()

    def build() -> Built:
        module = nn.Sequential(nn.FractionalMaxPool2d(2, output_ratio=0.6), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 10))
        return module, nn.CrossEntropyLoss(), torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9), None

    same(service, textbook.run(textbook.digits(), Recipe(batch_size=60, epochs=2, seed=5), build))
    # Its validation draws from a fork of the generator: training is the same with and without one, on the same rows.
    parts = {"split": {"train": 0.5, "val": 0.5}}, {"split": {"train": 0.5, "test": 0.5}}
    curves = []
    for index, split in enumerate(parts):
        other = job(sets, tmp_path / str(index), body | split)
        other.attempt()
        curves.append(other.values("train/loss"))
    assert curves[0] == curves[1]


# ---- graphs


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        block = self.conv(torch.relu(self.norm(stem)))
        return self.head((stem + block).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_residual_cnn(sets: Path, tmp_path: Path) -> None:
    conv = {"type": "Conv2d", "out_channels": 4, "kernel_size": 3, "padding": 1}
    nodes = {
        "stem": {**conv, "inputs": ["x"]},
        "norm": {"type": "BatchNorm2d", "inputs": ["stem"]},
        "act": {"type": "ReLU", "inputs": ["norm"]},
        "conv": {**conv, "inputs": ["act"]},
        "sum": {"type": "add", "inputs": ["stem", "conv"]},
        "pool": {"type": "mean", "dim": [2, 3], "inputs": ["sum"]},
        "head": {"type": "Linear", "out_features": 10, "inputs": ["pool"]},
    }
    agree(sets, tmp_path, {"type": "Graph", "inputs": ["x"], "nodes": nodes, "outputs": ["head"]}, Residual)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.middle = nn.Conv2d(4, 4, 3, padding=1)
        self.unpool = nn.MaxUnpool2d(2)
        self.up = nn.Conv2d(8, 2, 3, padding=1)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        down = self.down(x)
        pooled, indices = self.pool(down)
        raised = self.unpool(self.middle(pooled), indices)
        return self.head(self.up(torch.cat([down, raised], 1)).flatten(1))  # type: ignore[no-any-return]


def test_a_u_net_with_cat_and_unpooling(sets: Path, tmp_path: Path) -> None:
    conv = {"type": "Conv2d", "kernel_size": 3, "padding": 1}
    nodes = {
        "down": {**sequential({**conv, "out_channels": 4}, "ReLU"), "inputs": ["x"]},
        "pool": {"type": "MaxPool2d", "kernel_size": 2, "inputs": ["down"]},
        "middle": {**conv, "out_channels": 4, "inputs": ["pool"]},
        "unpool": {"type": "MaxUnpool2d", "kernel_size": 2, "inputs": ["middle", "pool.indices"]},
        "join": {"type": "cat", "inputs": ["down", "unpool"]},
        "up": {**conv, "out_channels": 2, "inputs": ["join"]},
        "flat": {"type": "flatten", "inputs": ["up"]},
        "head": {"type": "Linear", "out_features": 10, "inputs": ["flat"]},
    }
    agree(sets, tmp_path, {"type": "Graph", "inputs": ["x"], "nodes": nodes, "outputs": ["head"]}, UNet)


class Halves(nn.Module):
    """Both halves of an image through one encoder, a GRU that begins where another ended, and attention across."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 6), nn.Tanh())
        self.first = nn.GRU(6, 5, batch_first=True)
        self.second = nn.GRU(6, 5, batch_first=True)
        self.across = nn.MultiheadAttention(5, 1, kdim=6, vdim=6, batch_first=True)
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = x[:, 0].chunk(2, 1)
        top, bottom = self.encoder(top), self.encoder(bottom)
        _, hidden = self.first(top)
        out, _ = self.second(bottom, hidden)
        return self.head(self.across(out, top, top, need_weights=False)[0].flatten(1))  # type: ignore[no-any-return]


def test_sharing_pieces_and_states(sets: Path, tmp_path: Path) -> None:
    nodes = {
        "rows": {"type": "select", "index": 0, "inputs": ["x"]},
        "halves": {"type": "chunk", "chunks": 2, "inputs": ["rows"]},
        "encoder": {**sequential({"type": "Linear", "out_features": 6}, "Tanh"), "inputs": ["halves.0"]},
        "again": {"type": "shared", "module": "encoder", "inputs": ["halves.1"]},
        "first": {"type": "GRU", "hidden_size": 5, "inputs": ["encoder"]},
        "second": {"type": "GRU", "hidden_size": 5, "inputs": ["again", "first.hidden"]},
        "across": {"type": "MultiheadAttention", "num_heads": 1, "inputs": ["second", "encoder"]},
        "flat": {"type": "Flatten", "inputs": ["across"]},
        "head": {"type": "Linear", "out_features": 10, "inputs": ["flat"]},
    }
    agree(sets, tmp_path, {"type": "Graph", "inputs": ["x"], "nodes": nodes, "outputs": ["head"]}, Halves)
