"""Graphs over several inputs and tokens compute what a plain module does; every layer builds and trains a step."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jobs.catalog import catalog
from jobs.examples import arguments, shape_for
from tests.trainer.graphs import agree, batch, completed, described, graph, losses, numbers, tokens
from workers.trainer.fields import DataDescription, Field
from workers.trainer.model import BuildProblem, build

# ---- whole models


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.near = nn.CosineSimilarity()
        self.joint = nn.Bilinear(6, 6, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = self.encoder(left), self.encoder(right)
        return torch.cat([self.near(a, b).unsqueeze(1), self.joint(a, b)], 1)


def test_a_siamese_graph_with_two_inputs() -> None:
    model = graph(
        ["left", "right"],
        ["both"],
        encoder={"type": "Sequential", "layers": [{"type": "Linear", "out_features": 6}, "Tanh"], "inputs": ["left"]},
        other={"type": "shared", "module": "encoder", "inputs": ["right"]},
        near={"type": "CosineSimilarity", "inputs": ["encoder", "other"]},
        column={"type": "unsqueeze", "dim": 1, "inputs": ["near"]},
        joint={"type": "Bilinear", "out_features": 2, "inputs": ["encoder", "other"]},
        both={"type": "cat", "inputs": ["column", "joint"]},
    )
    agree(model, described(left=numbers(4), right=numbers(4)), Siamese)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6, padding_idx=0)
        self.bag = nn.EmbeddingBag(20, 6, mode="max")
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x).mean(1) + self.bag(x))  # type: ignore[no-any-return]


def test_an_embedding_classifier_infers_its_vocabulary() -> None:
    model = graph(
        ["x"],
        ["head"],
        words={"type": "Embedding", "embedding_dim": 6, "padding_idx": 0, "inputs": ["x"]},
        bag={"type": "EmbeddingBag", "embedding_dim": 6, "mode": "max", "inputs": ["x"]},
        mean={"type": "mean", "dim": 1, "inputs": ["words"]},
        sum={"type": "add", "inputs": ["mean", "bag"]},
        head={"type": "Linear", "out_features": 3, "inputs": ["sum"]},
    )
    agree(model, described(x=tokens(9, 20)), Classifier)


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(11, 8)
        self.wpe = nn.Embedding(6, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False)
        self.head = nn.Linear(8, 11, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.wte(x) + self.wpe(torch.arange(x.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.blocks(h, mask=mask, is_causal=True))  # type: ignore[no-any-return]


def test_a_gpt_with_positions() -> None:
    layer = {
        "type": "TransformerEncoderLayer", "nhead": 2, "dim_feedforward": 16, "dropout": 0.0, "activation": "gelu",
        "norm_first": True,
    }  # fmt: skip
    blocks = {"type": "TransformerEncoder", "encoder_layer": layer, "num_layers": 2, "norm": "LayerNorm", "mask": "causal"}
    model = graph(
        ["x"],
        ["head"],
        wte={"type": "Embedding", "embedding_dim": 8, "inputs": ["x"]},
        positions={"type": "positions", "inputs": ["x"]},
        wpe={"type": "Embedding", "embedding_dim": 8, "inputs": ["positions"]},
        h={"type": "add", "inputs": ["wte", "wpe"]},
        blocks={**blocks, "inputs": ["h"]},
        head={"type": "Linear", "out_features": 11, "bias": False, "inputs": ["blocks"]},
    )
    agree(model, described(x=tokens(6, 11)), GPT)


class Seq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(8, 2, 1, 1, 16, 0.0, batch_first=True)
        self.lstm = nn.LSTM(8, 4, batch_first=True)
        self.step = nn.LSTMCell(4, 4)
        self.decoder = nn.TransformerDecoderLayer(4, 1, 8, 0.0, batch_first=True)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tgt.shape[1])
        out = self.transformer(src, tgt, tgt_mask=mask, tgt_is_causal=True)
        steps, (hidden, cell) = self.lstm(out)
        h, c = self.step(steps[:, -1], (hidden[0], cell[0]))
        h, c = self.step(h, (h, c))
        return self.decoder(torch.stack([h, c], 1), steps)  # type: ignore[no-any-return]


def test_states_and_masks() -> None:
    model = graph(
        ["src", "tgt"],
        ["decoder"],
        transformer={
            "type": "Transformer", "nhead": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "dim_feedforward": 16,
            "dropout": 0.0, "mask": "causal", "inputs": ["src", "tgt"],
        },
        lstm={"type": "LSTM", "hidden_size": 4, "inputs": ["transformer"]},
        last={"type": "select", "index": -1, "inputs": ["lstm"]},
        hidden={"type": "select", "index": 0, "inputs": ["lstm.hidden"]},
        cell={"type": "select", "index": 0, "inputs": ["lstm.cell"]},
        step={"type": "LSTMCell", "hidden_size": 4, "inputs": ["last", "hidden", "cell"]},
        again={"type": "shared", "module": "step", "inputs": ["step", "step", "step.cell"]},
        both={"type": "stack", "inputs": ["again", "again.cell"]},
        decoder={
            "type": "TransformerDecoderLayer", "nhead": 1, "dim_feedforward": 8, "dropout": 0.0, "inputs": ["both", "lstm"],
        },
    )  # fmt: skip
    agree(model, described(src=numbers(5, 8), tgt=numbers(3, 8)), Seq2Seq)


# ---- every layer

LAYERS = {name: entry for name, entry in catalog().section("layers").items() if entry.refused is None}


def surroundings(name: str) -> tuple[DataDescription, dict[str, dict[str, Any]], list[str]]:
    """Data that fits a layer, the nodes before it, and the inputs it takes."""
    if name in ("Embedding", "EmbeddingBag"):
        return described(x=tokens(5, 7)), {}, ["x"]
    data = described(x=numbers(*shape_for(name)))
    before: dict[str, dict[str, Any]] = {
        "weight": {"type": "Linear", "out_features": data.inputs["x"].shape[-1], "inputs": ["x"]}
    }
    if name.startswith("MaxUnpool"):
        before["pool"] = {"type": name.replace("Unp", "P"), "kernel_size": 2, "inputs": ["weight"]}
        return data, before, ["pool", "pool.indices"]
    return data, before, ["weight", "x"][: LAYERS[name].inputs[0]]


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_builds_and_trains_a_step(name: str) -> None:
    data, before, inputs = surroundings(name)
    node = {"type": name, **arguments(LAYERS[name]), "inputs": inputs}
    found = completed(graph(["x"], ["node"], **before, node=node), data)
    torch.manual_seed(0)
    built = build(found)
    rows = batch(data)
    output = built(rows)["node"]
    assert tuple(output.shape[1:]) == found.outputs[0].shape
    loss = output.square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = list(built.module.parameters())
    assert parameters
    before_step = [p.detach().clone() for p in parameters]
    torch.optim.SGD(parameters, lr=1.0).step()
    assert any(not torch.equal(old, new) for old, new in zip(before_step, parameters, strict=True))
    assert [tuple(p.shape) for p in parameters] == [tuple(p.shape) for p in found.module.parameters()]
    built.module.eval()
    with torch.no_grad():
        assert built(rows)["node"].shape == output.shape


# ---- every operation

OPERATIONS: dict[str, tuple[dict[str, Any], Any]] = {
    "add": ({"inputs": ["a", "b", "a"]}, lambda a, b: a + b + a),
    "sub": ({"inputs": ["a", "b"]}, lambda a, b: a - b),
    "mul": ({"inputs": ["a"], "other": 0.125}, lambda a, _: a * 0.125),
    "div": ({"inputs": ["a"], "other": 3}, lambda a, _: a / 3),
    "maximum": ({"inputs": ["a", "b"]}, torch.maximum),
    "minimum": ({"inputs": ["a", "b"]}, torch.minimum),
    "matmul": ({"inputs": ["a", "turned"]}, lambda a, b: a @ b.transpose(1, 2)),
    "cat": ({"inputs": ["a", "b"], "dim": 2}, lambda a, b: torch.cat([a, b], 2)),
    "stack": ({"inputs": ["a", "b"]}, lambda a, b: torch.stack([a, b], 1)),
    "reshape": ({"inputs": ["a"], "shape": [6, -1]}, lambda a, _: a.reshape(len(a), 6, 2)),
    "view": ({"inputs": ["a"], "shape": [12]}, lambda a, _: a.view(len(a), 12)),
    "flatten": ({"inputs": ["a"]}, lambda a, _: a.flatten(1)),
    "permute": ({"inputs": ["a"], "dims": [0, 2, 1]}, lambda a, _: a.permute(0, 2, 1)),
    "transpose": ({"inputs": ["a"], "dim0": 1, "dim1": -1}, lambda a, _: a.transpose(1, 2)),
    "squeeze": ({"inputs": ["a_column"], "dim": 2}, lambda a, _: a[:, :, 0]),
    "unsqueeze": ({"inputs": ["a"], "dim": -1}, lambda a, _: a[..., None]),
    "mean": ({"inputs": ["a"], "dim": [1, 2]}, lambda a, _: a.mean((1, 2))),
    "sum": ({"inputs": ["a"], "dim": 1, "keepdim": True}, lambda a, _: a.sum(1, keepdim=True)),
    "amax": ({"inputs": ["a"], "dim": 1}, lambda a, _: a.amax(1)),
    "amin": ({"inputs": ["a"], "dim": 1}, lambda a, _: a.amin(1)),
    "max": ({"inputs": ["a"], "dim": 1}, lambda a, _: a.max(1).values),
    "min": ({"inputs": ["a"], "dim": 1}, lambda a, _: a.min(1).values),
    "select": ({"inputs": ["a"], "index": -1}, lambda a, _: a[:, -1]),
    "slice": ({"inputs": ["a"], "dim": 2, "start": 1, "end": 4, "step": 2}, lambda a, _: a[:, :, 1:4:2]),
    "split": ({"inputs": ["a"], "dim": 2, "split_size": [1, 3]}, lambda a, _: a[:, :, 1:]),
    "chunk": ({"inputs": ["a"], "dim": 2, "chunks": 2}, lambda a, _: a[:, :, 2:]),
    "expand": ({"inputs": ["a_column", "b"], "shape": [-1, 4]}, lambda a, _: a[:, :, :1].expand(-1, -1, 4)),
    "expand_as": ({"inputs": ["a_column", "b"]}, lambda a, b: a[:, :, :1].expand_as(b)),
}
PIECE = {"split": "node.1", "chunk": "node.1"}
IN_WHOLE_MODELS = {"positions", "shared", "padding_mask", "masked_fill", "Parameter"}  # here and in test_masks.py


def test_the_table_of_operations_is_whole() -> None:
    assert set(OPERATIONS) | IN_WHOLE_MODELS == set(catalog().section("operations"))


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_computes_what_torch_does(name: str) -> None:
    body, expected = OPERATIONS[name]
    output = PIECE.get(name, "node")
    nodes: dict[str, dict[str, Any]] = {
        "a": {"type": "Linear", "out_features": 4, "inputs": ["x"]},
        "b": {"type": "Linear", "out_features": 4, "inputs": ["z"]},
        "turned": {"type": "transpose", "dim0": 1, "dim1": 2, "inputs": ["b"]},
        "a_column": {"type": "slice", "dim": 2, "end": 1, "inputs": ["a"]},
        "node": {"type": name, **body},
    }
    nodes = {key: value for key, value in nodes.items() if key in {*body["inputs"], "a", "b", "node"}}
    data = described(x=numbers(3, 4), z=numbers(3, 4))
    model = completed(graph(["x", "z"], [output, "b"], **nodes), data)
    torch.manual_seed(0)
    built = build(model)
    rows = batch(data)
    a, b = built.module.get_submodule("a")(rows["x"]), built.module.get_submodule("b")(rows["z"])
    found = built(rows)[output]
    assert torch.equal(found, expected(a, b))
    assert tuple(found.shape[1:]) == model.outputs[0].shape
    assert len(set(losses(lambda data: built(data)[output], built.module, rows))) == 4, "no gradient came through"


@pytest.mark.parametrize("name", ["forward", "train", "training", "_parameters", "_steps"])
def test_a_node_is_not_called_as_an_attribute_of_modules(name: str) -> None:
    with pytest.raises(BuildProblem, match=f"{name}_") as caught:
        completed(graph(["x"], [name], **{name: {"type": "ReLU", "inputs": ["x"]}}), X)
    assert [p.pointer for p in caught.value.problems] == [f"/model/nodes/{name}"]


def test_tokens_whose_number_is_not_known_want_num_embeddings() -> None:
    data = described(t=Field((5,), 0, 8, dtype=torch.int64))
    words = {"type": "Embedding", "embedding_dim": 2, "inputs": ["t"]}
    with pytest.raises(BuildProblem, match="how many tokens") as caught:
        completed(graph(["t"], ["a"], a=words), data)
    assert [p.pointer for p in caught.value.problems] == ["/model/nodes/a/num_embeddings"]
    assert completed(graph(["t"], ["a"], a={**words, "num_embeddings": 9}), data).outputs[0].shape == (5, 2)


def test_sparse_gradients_come_from_an_embedding_that_is_asked_for_them() -> None:
    model = graph(["t"], ["a"], a={"type": "Embedding", "embedding_dim": 2, "sparse": True, "inputs": ["t"]})
    data = described(t=tokens(5, 9))
    built = build(completed(model, data))
    assert len(set(losses(lambda b: built(b)["a"], built.module, batch(data)))) == 4
    assert all(p.grad is not None and p.grad.is_sparse for p in built.module.parameters())


# ---- what cannot be built

LINEAR = {"type": "Linear", "out_features": 4}
X = described(x=numbers(3, 4), t=tokens(5, 9))
WRONG: list[tuple[dict[str, dict[str, Any]], str, str]] = [
    ({"a": {**LINEAR, "in_features": 5}}, "/model/nodes/a/in_features", r"node a \(Linear\) gets input of shape \(n, 3, 4\)"),
    ({"a": {"type": "Conv2d", "out_channels": 1, "kernel_size": 1}}, "/model/nodes/a", "it wants 4 dimensions"),
    ({"a": {"type": "transpose", "dim0": 0, "dim1": 1}}, "/model/nodes/a/dim0", "dimension 0 is the batch"),
    ({"a": {"type": "mean", "dim": [1, -3]}}, "/model/nodes/a/dim", "dimension 0 is the batch"),
    ({"a": {"type": "permute", "dims": [1, 0, 2]}}, "/model/nodes/a/dims", "dims begins with 0"),
    ({"a": {"type": "reshape", "shape": [5]}}, "/model/nodes/a", "which it cannot take"),
    ({"a": {"type": "squeeze", "dim": 1}}, "/model/nodes/a", "has size 3, not 1"),
    ({"a": {"type": "select", "index": 3}}, "/model/nodes/a", "which it cannot take"),
    ({"a": {"type": "slice", "start": 3}}, "/model/nodes/a", "gives nothing"),
    ({"a": {"type": "add"}}, "/model/nodes/a", "wants the number other"),
    ({"a": {"type": "add", "other": 1, "inputs": ["x", "x"]}}, "/model/nodes/a/other", "either several inputs"),
    ({"a": {"type": "mean", "dim": 1}, "b": {"type": "add", "inputs": ["a", "x"]}}, "/model/nodes/b", "same number of dim"),
    ({"a": {"type": "mean", "dim": 1}, "b": {"type": "matmul", "inputs": ["a", "a"]}}, "/model/nodes/b", "mix the rows"),
    ({"a": {"type": "chunk", "chunks": 2}, "b": {**LINEAR, "inputs": ["a"]}}, "/model/nodes/b/inputs/0", "a.0, a.1"),
    ({"a": {"type": "chunk", "chunks": 2}, "b": {**LINEAR, "inputs": ["a.2"]}}, "/model/nodes/b/inputs/0", "a.0, a.1"),
    ({"a": {"type": "Embedding", "embedding_dim": 2}}, "/model/nodes/a", "wants whole-number tokens"),
    ({"a": {**LINEAR, "inputs": ["t"]}}, "/model/nodes/a", "put an Embedding before it"),
    ({"a": {"type": "add", "other": 1, "inputs": ["t"]}}, "/model/nodes/a", "put an Embedding before it"),
    (
        {"a": {"type": "Embedding", "embedding_dim": 2, "num_embeddings": 8, "inputs": ["t"]}},
        "/model/nodes/a/num_embeddings",
        "at least 9, not 8",
    ),
    ({"a": {"type": "MaxPool1d", "kernel_size": 1}, "b": {"type": "MaxUnpool1d", "kernel_size": 1, "inputs": ["a", "t"]}},
     "/model/nodes/b/inputs/1", "indices of a pooling node"),
    ({"a": {"type": "LSTM", "hidden_size": 4, "batch_first": False}}, "/model/nodes/a/batch_first", "batch_first is true"),
    ({"a": {"type": "GRU", "hidden_size": 4, "inputs": ["x", "x"]}}, "/model/nodes/a", "wants a state"),
    (
        {"a": {"type": "LSTM", "hidden_size": 4}, "b": {"type": "select", "index": 0}, "c": {**LINEAR, "inputs": ["b"]}, "d":
         {"type": "shared", "module": "a", "inputs": ["c"]}},
        "/model/nodes/d", "which it cannot take",
    ),
    ({"a": {"type": "MultiheadAttention", "num_heads": 3}}, "/model/nodes/a/num_heads", "divisible"),
    ({"a": {"type": "CosineSimilarity", "dim": 0, "inputs": ["x", "x"]}}, "/model/nodes/a", "batch as its first dimension"),
    ({"a": {"type": "positions"}}, "/model/outputs/0", "the same for every row"),
    ({"a": {"type": "select", "index": 0, "inputs": ["t"]}}, "/model/outputs/0", "whole numbers"),
    ({"a": {"type": "Sequential", "layers": [LINEAR, {**LINEAR, "in_features": 3}]}}, "/model/nodes/a/layers/1/in_features",
     r"layer 1 \(Linear\) of node a \(Sequential\)"),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "pointer", "said"), WRONG, ids=[f"{list(n)}{p}" for n, p, _ in WRONG])
def test_what_does_not_fit_is_told_at_its_node(nodes: dict[str, dict[str, Any]], pointer: str, said: str) -> None:
    nodes = {name: {"inputs": ["x"], **node} for name, node in nodes.items()}
    used = {r.partition(".")[0] for node in nodes.values() for r in node["inputs"]}
    outputs = [name for name in nodes if name not in used and name not in {n.get("module") for n in nodes.values()}]
    inputs = [name for name in ("x", "t") if name in used]
    with pytest.raises(BuildProblem, match=said) as caught:
        completed(graph(inputs, outputs, **nodes), X)
    assert [p.pointer for p in caught.value.problems] == [pointer]


HOSTILE: list[dict[str, dict[str, Any]]] = [
    {f"n{i}": {"type": "TransformerEncoder", "num_layers": 64, "inputs": ["x" if i == 0 else f"n{i - 1}"],
               "encoder_layer": {"type": "TransformerEncoderLayer", "nhead": 1, "dim_feedforward": 1}} for i in range(200)},
    {"a": {"type": "unsqueeze", "dim": 1, "inputs": ["x"]},
     "b": {"type": "Upsample", "size": [65536, 4], "inputs": ["a"]},
     "c": {"type": "select", "index": 0, "inputs": ["b"]},
     "d": {"type": "MultiheadAttention", "num_heads": 1, "inputs": ["c"]}},
    {"a": {"type": "TransformerEncoderLayer", "nhead": 1, "dim_feedforward": 65536, "inputs": ["x"]},
     "b": {"type": "Bilinear", "out_features": 65536, "inputs": ["a", "a"]},
     "c": {"type": "Bilinear", "out_features": 65536, "inputs": ["b", "b"]}},
    {"a": {"type": "Linear", "out_features": 65536, "inputs": ["x"]},
     **{f"c{i}": {"type": "cat", "dim": 1, "inputs": ["a" if i == 0 else f"c{i - 1}"] * 16} for i in range(40)}},
    {"a": {"type": "reshape", "shape": [1] * 40, "inputs": ["x"]}},
    {"a": {"type": "GRU", "hidden_size": 65536, "num_layers": 64, "inputs": ["x"]}},
    {"a": {"type": "Embedding", "num_embeddings": 10_000_000, "embedding_dim": 65536, "inputs": ["t"]},
     "b": {"type": "mul", "inputs": ["a", "x"]}},
]  # fmt: skip


@pytest.mark.parametrize("nodes", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_graph_is_refused_in_no_time(nodes: dict[str, dict[str, Any]]) -> None:
    inputs = [name for name in ("x", "t") if any(name in node["inputs"] for node in nodes.values())]
    started = time.monotonic()
    with pytest.raises(BuildProblem) as caught:
        completed(graph(inputs, [list(nodes)[-1]], **nodes), X)
    assert all(p.pointer.startswith("/model/nodes/") and len(p.detail) < 600 for p in caught.value.problems)
    assert time.monotonic() - started < 4


def test_a_long_sequence_through_recurrent_layers_takes_no_time() -> None:
    nodes = {f"n{i}": {"type": "LSTM", "hidden_size": 4, "inputs": ["x" if i == 0 else f"n{i - 1}"]} for i in range(50)}
    started = time.monotonic()
    found = completed(graph(["x"], ["n49"], **nodes), described(x=numbers(20_000, 4)))
    assert found.outputs[0].shape == (20_000, 4)
    assert time.monotonic() - started < 4


def test_the_table_names_every_layer_and_counts_a_shared_one_once() -> None:
    model = graph(
        ["x"],
        ["sum"],
        encoder={"type": "Sequential", "layers": [LINEAR, "Tanh"], "inputs": ["x"]},
        again={"type": "shared", "module": "encoder", "inputs": ["encoder"]},
        sum={"type": "sum", "dim": 1, "inputs": ["again"]},
    )
    rows = [(row["name"], row["type"], row["output_shape"], row["parameters"]) for row in completed(model, X).table()]
    assert rows == [
        ("encoder", "Sequential", [3, 4], 20),
        ("encoder.0", "Linear", [3, 4], 20),
        ("encoder.1", "Tanh", [3, 4], 0),
        ("again", "shared", [3, 4], 0),
        ("sum", "sum", [4], 0),
    ]


def test_the_layers_that_lead_to_an_output() -> None:
    model = graph(
        ["x"],
        ["odds", "logits"],
        join={"type": "add", "inputs": ["x"], "other": 1},
        head={"type": "Sequential", "layers": [LINEAR, "Sigmoid"], "inputs": ["join"]},
        odds={"type": "shared", "module": "head", "inputs": ["x"]},
        logits={"type": "flatten", "inputs": ["head"]},
    )
    first, second = completed(model, X).outputs
    assert [layer.type for layer in first.layers] == ["Sigmoid", "Linear"]
    assert [layer.type for layer in second.layers] == ["flatten", "Sigmoid", "Linear", "add"]
