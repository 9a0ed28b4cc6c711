"""Padding masks made of lengths: the numbers are those of a plain module that is called with torch's own arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tests.trainer.graphs import agree, described, graph, numbers, tokens
from tests.trainer.test_check import ask, spec
from tests.trainer.test_formats import table
from tests.trainer.test_oracle_files import same, sentences, trained
from workers.trainer.fields import DataDescription, Field

LENGTHS = Field((), 1, 5, integers=6)
LAYER = {"type": "TransformerEncoderLayer", "nhead": 2, "dim_feedforward": 8, "dropout": 0.1}
ENCODER = {"type": "TransformerEncoder", "encoder_layer": LAYER, "num_layers": 2}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def hidden(lengths: Tensor, long: int) -> Tensor:
    return torch.arange(long) >= lengths[:, None]


def mean(x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill(mask[:, :, None], 0).sum(1) / (~mask).sum(1, keepdim=True)


# ---- whole jobs on ragged data


class Reader(nn.Module):
    """`nested`: torch's way of eval mode through nested tensors, which gives zeros where the padding is."""

    def __init__(self, nested: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        layer = nn.TransformerEncoderLayer(6, 2, 8, 0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
        self.head = nn.Linear(6, 3)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        mask = hidden(lengths, words.shape[1])
        read = self.encoder(self.embedding(words), src_key_padding_mask=mask)
        return self.head(mean(read, mask))  # type: ignore[no-any-return]


class Numbered(nn.Sequential):
    """The same under the names of a Sequential."""

    def __init__(self) -> None:
        super().__init__(*Reader().children())

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        mask = hidden(lengths, words.shape[1])
        return self[2](mean(self[1](self[0](words), src_key_padding_mask=mask), mask))  # type: ignore[no-any-return]


def ragged(folder: Path, model: dict[str, Any], made: Any, name: str = "words") -> None:
    lists, labels = sentences(), np.arange(60) % 3
    dataset = {"inputs": {name: {"columns": ["words"], "dtype": "int64"}}, "target": "label"}
    service = trained(folder, table(words=lists, label=labels), dataset, model, "CrossEntropyLoss")
    fields = {
        "words": pad_sequence([torch.tensor(row) for row in lists], batch_first=True),
        "lengths": torch.tensor([len(row) for row in lists]),
        "y": torch.from_numpy(labels),
    }
    loss = nn.CrossEntropyLoss()
    same(service, fields, made, lambda model, batch: loss(model(batch["words"], batch["lengths"]), batch["y"]))


@pytest.mark.parametrize("nested", [True, False])
def test_a_graph_names_its_mask(tmp_path: Path, nested: bool) -> None:
    model = graph(
        ["words", "words_lengths"],
        ["head"],
        embedding={"type": "Embedding", "embedding_dim": 6, "inputs": ["words"]},
        mask={"type": "padding_mask", "inputs": ["words", "words_lengths"]},
        encoder={**ENCODER, "enable_nested_tensor": nested, "inputs": {"src_key_padding_mask": "mask", "src": "embedding"}},
        pooled={"type": "mean", "dim": 1, "inputs": ["encoder", "mask"]},
        head={"type": "Linear", "out_features": 3, "inputs": ["pooled"]},
    )

    ragged(tmp_path, model, lambda: Reader(nested))


def test_a_sequential_makes_its_mask_of_the_lengths(tmp_path: Path) -> None:
    layers = [
        {"type": "Embedding", "embedding_dim": 6},
        {**ENCODER, "src_key_padding_mask": "lengths", "output": "mean"},
        {"type": "Linear", "out_features": 3},
    ]
    ragged(tmp_path, {"type": "Sequential", "layers": layers}, Numbered, "x")


# ---- every layer that takes masks


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, 0.1, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(4, 2, 8, 0.1, batch_first=True)
        self.transformer = nn.Transformer(4, 2, 1, 1, 8, 0.1, batch_first=True)

    def forward(self, x: Tensor, z: Tensor, x_long: Tensor, z_long: Tensor) -> Tensor:
        xs, zs = hidden(x_long, 5), hidden(z_long, 3)
        a = self.attention(x, z, z, key_padding_mask=zs, need_weights=False)[0]
        causal = nn.Transformer.generate_square_subsequent_mask(5)
        b = self.layer(a, src_mask=causal, is_causal=True, src_key_padding_mask=xs)
        b = torch.cat([self.token.expand(len(x), -1, -1), b], 1)
        longer = hidden(x_long + 1, 6)
        c = self.decoder(b, z, tgt_key_padding_mask=longer, memory_key_padding_mask=zs)
        causal = nn.Transformer.generate_square_subsequent_mask(6)
        d = self.transformer(
            z, c, tgt_mask=causal, tgt_is_causal=True, src_key_padding_mask=zs, tgt_key_padding_mask=longer,
            memory_key_padding_mask=zs,
        )  # fmt: skip
        return d.masked_fill(longer[:, :, None], -1e9).amax(1)  # type: ignore[no-any-return]


SMALL = {"nhead": 2, "dim_feedforward": 8, "dropout": 0.1}
EVERYTHING: dict[str, Any] = {
    "token": {"type": "Parameter", "shape": [1, 1, 4]},
    "xs": {"type": "padding_mask", "inputs": ["x", "x_long"]},
    "zs": {"type": "padding_mask", "inputs": ["z", "z_long"]},
    "attention": {
        "type": "MultiheadAttention", "num_heads": 2,
        "inputs": {"query": "x", "key": "z", "value": "z", "key_padding_mask": "zs"},
    },
    "layer": {**LAYER, "mask": "causal", "inputs": {"src": "attention", "src_key_padding_mask": "xs"}},
    "tokens": {"type": "expand", "inputs": ["token", "layer"]},
    "joined": {"type": "cat", "inputs": ["tokens", "layer"]},
    "longer": {"type": "padding_mask", "prefix": 1, "inputs": ["joined", "x_long"]},
    "decoder": {
        "type": "TransformerDecoderLayer", **SMALL,
        "inputs": {"tgt": "joined", "memory": "z", "tgt_key_padding_mask": "longer", "memory_key_padding_mask": "zs"},
    },
    "transformer": {
        "type": "Transformer", **SMALL, "num_encoder_layers": 1, "num_decoder_layers": 1, "mask": "causal",
        "inputs": {
            "src": "z", "tgt": "decoder", "src_key_padding_mask": "zs", "tgt_key_padding_mask": "longer",
            "memory_key_padding_mask": "zs",
        },
    },
    "hide": {"type": "unsqueeze", "dim": -1, "inputs": ["longer"]},
    "hidden": {"type": "masked_fill", "value": -1e9, "inputs": ["transformer", "hide"]},
    "top": {"type": "amax", "dim": 1, "inputs": ["hidden"]},
}  # fmt: skip


def test_every_mask_reaches_its_argument() -> None:
    long = {"x_long": LENGTHS, "z_long": Field((), 1, 3, integers=4)}
    data = described(x=numbers(5, 4), z=numbers(3, 4), **long)
    agree(graph(list(data.inputs), ["top"], **EVERYTHING), data, Everything)


def test_a_shared_layer_takes_another_mask() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 2, 8, 0.1, batch_first=True)

        def forward(self, x: Tensor, long: Tensor) -> Tensor:
            return self.layer(self.layer(x), src_key_padding_mask=hidden(long, 5))  # type: ignore[no-any-return]

    nodes: dict[str, Any] = {
        "mask": {"type": "padding_mask", "inputs": ["x", "long"]},
        "layer": {**LAYER, "inputs": ["x"]},
        "again": {"type": "shared", "module": "layer", "inputs": {"src": "layer", "src_key_padding_mask": "mask"}},
    }
    agree(graph(["x", "long"], ["again"], **nodes), described(x=numbers(5, 4), long=LENGTHS), Twice)


# ---- what does not fit

DATA = described(x=numbers(5, 4), long=LENGTHS, empty=Field((), 0, 5, integers=6), t=tokens(5, 9))
MASK = {"type": "padding_mask", "inputs": ["x", "long"]}


def told(model: dict[str, Any], data: DataDescription = DATA, **more: Any) -> list[tuple[str, str]]:
    return [(p["pointer"], p["detail"]) for p in ask(spec(model=model, **more), data)["problems"]]


def encoded(**nodes: Any) -> dict[str, Any]:
    flat: dict[str, Any] = {
        "flat": {"type": "Flatten", "inputs": ["layer"]},
        "head": {"type": "Linear", "out_features": 3, "inputs": ["flat"]},
    }
    used = {
        name for node in nodes.values() for name in (list(node["inputs"]) + list(getattr(node["inputs"], "values", list)()))
    }
    return graph([name for name in DATA.inputs if name in used], ["head"], **nodes, **flat)


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"layer": {**LAYER, "inputs": {"src": "x", "src_key_padding_mask": "long"}}},
     "layer/inputs/src_key_padding_mask", "no mask"),
    ({"short": {"type": "slice", "end": 3, "inputs": ["x"]}, "mask": MASK,
      "layer": {**LAYER, "inputs": {"src": "short", "src_key_padding_mask": "mask"}}},
     "layer/inputs/src_key_padding_mask", "(n, 3)"),
    ({"mask": {**MASK, "inputs": ["x", "empty"]}, "layer": {**LAYER, "inputs": {"src": "x", "src_key_padding_mask": "mask"}}},
     "layer/inputs/src_key_padding_mask", "length 0"),
    ({"layer": {**LAYER, "inputs": {"src": "x", "tgt_key_padding_mask": "x"}}}, "layer/inputs/tgt_key_padding_mask", "src_k"),
    ({"mask": MASK, "layer": {**LAYER, "inputs": {"src_key_padding_mask": "mask"}}}, "layer/inputs/src", "needs src"),
    ({"mask": MASK, "layer": {**LAYER, "inputs": ["x", "mask"]}}, "layer/inputs", "a mask goes by its name"),
    ({"layer": {**LAYER, "src_key_padding_mask": "lengths", "inputs": ["x"]}}, "layer/src_key_padding_mask", "in inputs"),
    ({"layer": {"type": "MultiheadAttention", "num_heads": 2, "inputs": {"query": "x", "value": "x"}}},
     "layer/inputs/key", "needs key"),
    ({"layer": {"type": "Linear", "out_features": 2, "inputs": {"input": "x"}}}, "layer/inputs", "a list of inputs"),
    ({"mask": {**MASK, "inputs": ["x", "x"]}, "layer": {"type": "mean", "dim": 1, "inputs": ["x", "mask"]}},
     "mask/inputs/1", "one whole number each"),
    ({"mask": {**MASK, "prefix": 1}, "layer": {"type": "mean", "dim": 1, "inputs": ["x", "mask"]}}, "mask/inputs/1", "up to 6"),
    ({"mask": MASK, "layer": {"type": "mean", "dim": 2, "inputs": ["x", "mask"]}}, "layer", "has dim 1"),
    ({"layer": {"type": "mean", "dim": 1, "inputs": ["x", "long"]}}, "layer/inputs/1", "is a mask"),
    ({"mask": MASK, "layer": {"type": "Linear", "out_features": 2, "inputs": ["mask"]}}, "layer", "goes to a layer"),
    ({"mask": MASK, "layer": {"type": "Embedding", "embedding_dim": 2, "inputs": ["mask"]}}, "layer", "a mask, but it wants"),
    ({"layer": {"type": "Sequential", "layers": [{**LAYER, "src_key_padding_mask": "lengths"}], "inputs": ["x"]}},
     "layer/layers/0/src_key_padding_mask", "no lengths"),
    ({"token": {"type": "Parameter", "shape": [4, 4], "inputs": []}, "layer": {"type": "add", "inputs": ["x", "token"]}},
     "token/shape", "begins with 1"),
    ({"token": {"type": "Parameter", "shape": [1, 5, 4], "inputs": []}, "layer": {"type": "cat", "inputs": ["x", "token"]}},
     "layer", "which it cannot take"),
    ({"token": {"type": "Parameter", "shape": [1, 65536, 65536], "inputs": []},
      "layer": {"type": "add", "inputs": ["x", "token"]}}, "token", "200,000,000"),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "member", "words"), WRONG, ids=[f"{m}-{i}" for i, (_, m, _) in enumerate(WRONG)])
def test_what_does_not_fit_is_told_where_it_is(nodes: dict[str, Any], member: str, words: str) -> None:
    [(pointer, detail)] = told(encoded(**nodes))
    assert pointer == f"/model/nodes/{member}"
    assert words in detail


def sequential(*layers: Any) -> dict[str, Any]:
    return {"type": "Sequential", "layers": [*layers, {"type": "Linear", "out_features": 3}]}


def test_a_sequential_of_ragged_data_says_what_to_do() -> None:
    ragged = described(x=numbers(5, 4), x_lengths=LENGTHS)
    masked = {**LAYER, "src_key_padding_mask": "lengths", "output": "mean"}
    assert told(sequential(masked), ragged) == []
    [(pointer, detail)] = told(sequential("Flatten"), ragged)
    assert pointer == "/model/type"
    assert "padding mask of the lengths" in detail
    assert told(sequential(masked), described(x=numbers(5, 4)))[0][0] == "/model/layers/0/src_key_padding_mask"
    empty = described(x=numbers(5, 4), x_lengths=Field((), 0, 5, integers=6))
    assert "length 0" in told(sequential(masked), empty)[0][1]
    pooled = [{"type": "Unflatten", "dim": 1, "unflattened_size": [5, 1]}, "Flatten", {"type": "Unflatten", "dim": 1,
              "unflattened_size": [4, 5]}, {**masked, "nhead": 1}]  # fmt: skip
    assert told(sequential(*pooled), ragged)[0][0] == "/model/layers/3/src_key_padding_mask"


def test_eval_mode_is_tried_with_one_row_left_over() -> None:
    data = DataDescription(100, {"x": numbers(5, 4), "x_lengths": LENGTHS}, DATA.targets, {"train": 64, "val": 33, "test": 0})
    assert told(sequential({**ENCODER, "src_key_padding_mask": "lengths", "output": "mean"}), data) == []


def test_masks_are_read_back() -> None:
    model = encoded(mask=MASK, layer={**LAYER, "inputs": {"src": "x", "src_key_padding_mask": "mask"}})
    nodes = ask(spec(model=model), DATA)["effective_spec"]["model"]["nodes"]
    assert nodes["layer"]["inputs"] == {"value": {"src": "x", "src_key_padding_mask": "mask"}, "source": "given"}
    assert nodes["mask"]["prefix"] == {"value": 0, "source": "default"}
