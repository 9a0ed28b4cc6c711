"""The checker on graphs: what the loss wants is told at the node that decides it, and every value is read back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.trainer.graphs import described, graph, numbers, tokens
from tests.trainer.test_check import BINARY, MULTI, ask, spec
from workers.trainer.data import DataDescription

LINEAR = {"type": "Linear", "out_features": 3, "inputs": ["x"]}


def told(model: dict[str, Any], description: DataDescription, **more: Any) -> list[tuple[str, str]]:
    return [(p["pointer"], p["code"]) for p in ask(spec(model=model, **more), description)["problems"]]


def test_the_loss_points_at_the_node_that_decides_the_width() -> None:
    wide = graph(["x"], ["act"], head={**LINEAR, "out_features": 4}, act={"type": "Tanh", "inputs": ["head"]})
    assert told(wide, MULTI) == [("/model/nodes/head/out_features", "shape_mismatch")]
    inner = {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 4}, "ReLU"], "inputs": ["x"]}
    assert told(graph(["x"], ["head"], head=inner), MULTI) == [("/model/nodes/head/layers/0/out_features", "shape_mismatch")]
    flat = graph(["x"], ["two"], two={"type": "unsqueeze", "dim": 1, "inputs": ["x"]})
    assert ("/model/outputs/0", "shape_mismatch") in told(flat, MULTI)


@pytest.mark.parametrize("ending", [["Sigmoid"], ["Sigmoid", "Flatten"], []])
def test_bce_wants_probabilities_from_the_output_node(ending: list[str]) -> None:
    nodes = {"head": {**LINEAR, "out_features": 1}}
    for kind in ending:
        nodes[kind.lower()] = {"type": kind, "inputs": [list(nodes)[-1]]}
    found = told(graph(["x"], [list(nodes)[-1]], **nodes), BINARY, loss="BCELoss")
    assert found == ([] if ending else [("/model/nodes/head", "out_of_range")])


def test_a_loss_names_the_output_that_it_takes() -> None:
    model = graph(["x"], ["other", "head"], head=LINEAR, other={**LINEAR, "out_features": 7})
    assert told(model, MULTI, loss={"type": "CrossEntropyLoss", "inputs": {"input": "head"}}) == []
    assert told(model, MULTI) != []


def test_inputs_are_fields_of_the_data() -> None:
    assert told(graph(["z"], ["head"], head={**LINEAR, "inputs": ["z"]}), MULTI) == [("/model/inputs/0", "unknown_input")]
    two = described(x=numbers(4), z=numbers(4))
    assert told({"type": "Sequential", "layers": [{"type": "Linear", "out_features": 3}]}, two) == [
        ("/model/type", "shape_mismatch")
    ]


def test_a_model_without_parameters_is_told_at_a_member_of_the_body() -> None:
    assert told(graph(["x"], ["act"], act={"type": "ReLU", "inputs": ["x"]}), described(x=numbers(3))) == [
        ("/model", "out_of_range")
    ]


def test_every_value_of_a_graph_is_read_back() -> None:
    layer = {"type": "TransformerEncoderLayer", "nhead": 2, "dim_feedforward": 8}
    model = graph(
        ["t"],
        ["head"],
        words={"type": "Embedding", "embedding_dim": 4, "inputs": ["t"]},
        blocks={"type": "TransformerEncoder", "encoder_layer": layer, "num_layers": 1, "mask": "causal", "inputs": ["words"]},
        lstm={"type": "LSTM", "hidden_size": 5, "output": "last", "inputs": ["blocks"]},
        attention={"type": "TransformerEncoderLayer", "nhead": 2, "dropout": 0.25, "activation": "gelu", "inputs": ["words"]},
        mean={"type": "mean", "dim": 1, "inputs": ["attention"]},
        both={"type": "cat", "inputs": ["lstm", "mean"]},
        head={"type": "Sequential", "layers": [{"type": "Linear", "out_features": 3}], "inputs": ["both"]},
    )
    initializers = [{"params": "*.weight", "type": "normal_", "std": 0.5}]
    found = ask(spec(model=model | {"initializers": initializers}), described(t=tokens(6, 9)))
    assert found["problems"] == []
    told = found["effective_spec"]["model"]
    nodes = told["nodes"]
    assert list(nodes) == list(model["nodes"])
    assert nodes["words"]["num_embeddings"] == {"value": 9, "source": "inferred"}
    assert nodes["words"]["inputs"] == {"value": ["t"], "source": "given"}
    assert nodes["blocks"]["mask"] == {"value": "causal", "source": "given"}
    assert nodes["blocks"]["encoder_layer"]["value"]["d_model"] == 4
    assert nodes["lstm"]["output"] == {"value": "last", "source": "given"}
    assert nodes["lstm"]["batch_first"] == {"value": True, "source": "inferred"}
    assert nodes["attention"]["dropout"] == {"value": 0.25, "source": "given"}
    assert nodes["attention"]["activation"] == {"value": "gelu", "source": "given"}
    assert nodes["mean"]["keepdim"] == {"value": False, "source": "default"}
    assert nodes["head"]["layers"][0]["in_features"] == {"value": 9, "source": "inferred"}
    assert told["outputs"] == {"value": ["head"], "source": "given"}
    assert told["initializers"][0]["std"] == {"value": 0.5, "source": "given"}


@pytest.mark.parametrize("more", [{"optimizer": "Adam"}, {"max_grad_norm": 1.0}])
def test_sparse_gradients_want_an_optimizer_that_takes_them(more: dict[str, Any]) -> None:
    words = {"type": "Embedding", "embedding_dim": 4, "sparse": True, "inputs": ["t"]}
    model = graph(["t"], ["head"], words=words, mean={"type": "mean", "dim": 1, "inputs": ["words"]},
                  head={**LINEAR, "inputs": ["mean"]})  # fmt: skip
    assert told(model, described(t=tokens(6, 9))) == []
    assert told(model, described(t=tokens(6, 9)), **more) != []
