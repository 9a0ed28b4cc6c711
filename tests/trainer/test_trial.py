"""What only a run shows is told at once: layers in place, kernels' own limits, one row left over. torch itself is the judge."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from jobs.spec import parse
from tests.trainer.graphs import batch, described, graph, numbers
from tests.trainer.test_check import IMAGES, MULTI, ask, spec
from workers.trainer.data import DataDescription
from workers.trainer.model import build, complete

LINEAR = {"type": "Linear", "out_features": 3}
SERIES = described(x=numbers(5, 4))
VECTORS = described(x=numbers(4))
ACTIVATIONS = (
    "CELU", "Dropout", "ELU", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "Mish", "ReLU", "ReLU6", "RReLU", "SELU",
    "SiLU", {"type": "Threshold", "threshold": 0.1, "value": 0.0},
)  # fmt: skip
BEFORE = (
    "Sigmoid",
    "Tanh",
    "LogSoftmax",
    {"type": "Softmax", "dim": 1},
    "ReLU",
    "GELU",
    "Linear",
    "BatchNorm1d",
    "Softplus",
    "LayerNorm",
)


def sequential(*layers: Any) -> dict[str, Any]:
    return {"type": "Sequential", "layers": list(layers)}


def inplace(layer: Any, **more: Any) -> dict[str, Any]:
    return {"inplace": True, **(layer if isinstance(layer, dict) else {"type": layer}), **more}


def told(model: dict[str, Any], description: DataDescription, **more: Any) -> list[dict[str, str]]:
    problems: list[dict[str, str]] = ask(spec(model=model, **more), description)["problems"]
    return problems


def trains(model: dict[str, Any], description: DataDescription) -> bool:
    """Whether torch gets through one forward and backward on the CPU."""
    torch.manual_seed(0)
    built = build(complete(parse(spec(model=model)), description))
    try:
        sum(output.sum() for output in built(batch(description)).values()).backward()  # type: ignore[union-attr]
    except RuntimeError:
        return False
    return True


def agrees(model: dict[str, Any], description: DataDescription) -> None:
    problems = told(model, description)
    assert (problems == []) == trains(model, description), problems
    assert all(p["code"] in {"not_supported", "out_of_range"} for p in problems)


@pytest.mark.parametrize("before", BEFORE, ids=str)
@pytest.mark.parametrize("after", ACTIVATIONS, ids=str)
def test_a_layer_in_place_is_taken_where_torch_trains_with_it(before: Any, after: Any) -> None:
    first = {"type": "Linear", "out_features": 4} if before == "Linear" else before
    agrees(sequential({"type": "Linear", "out_features": 4}, first, inplace(after), LINEAR), VECTORS)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
def test_recurrent_layers_are_no_exception(kind: str) -> None:
    if kind.endswith("Cell"):
        agrees(sequential({"type": kind, "hidden_size": 4}, inplace("ReLU"), LINEAR), VECTORS)
    else:
        last = {"type": kind, "hidden_size": 4, "output": "last"}
        agrees(sequential(last, inplace("ReLU"), LINEAR), SERIES)
        agrees(sequential(last, "Tanh", inplace("ReLU"), LINEAR), SERIES)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("more", [{}, {"bidirectional": True}, {"num_layers": 2}, {"proj_size": 2}], ids=str)
@pytest.mark.parametrize("between", [[], ["Flatten"], ["LayerNorm"], [{"type": "Dropout", "inplace": True}]], ids=str)
def test_torch_is_the_judge_of_what_follows_all_time_steps(kind: str, more: dict[str, Any], between: list[Any]) -> None:
    if "proj_size" in more and kind != "LSTM":
        return
    head = [] if "Flatten" in between else ["Flatten"]
    agrees(sequential({"type": kind, "hidden_size": 4, **more}, *between, inplace("ReLU"), *head, LINEAR), SERIES)


@pytest.mark.parametrize("taken", ["lstm", "lstm.hidden", "lstm.cell", "cell", "cell.cell"])
def test_states_may_be_changed_in_place_where_torch_says_so(taken: str) -> None:
    nodes: dict[str, Any] = {"lstm": {"type": "LSTM", "hidden_size": 4, "inputs": ["x"]}}
    if taken.startswith("cell"):
        nodes["last"] = {"type": "select", "index": -1, "inputs": ["lstm"]}
        nodes["cell"] = {"type": "LSTMCell", "hidden_size": 4, "inputs": ["last"]}
    nodes["act"] = {**inplace("ReLU"), "inputs": [taken]}
    nodes["flat"] = {"type": "Flatten", "inputs": ["act"]}
    agrees(graph(["x"], ["head"], **nodes, head={**LINEAR, "inputs": ["flat"]}), SERIES)


def test_an_lstm_before_a_layer_in_place_is_told_why() -> None:
    """Plain torch fails in backward too: the gradient of the LSTM's gates is computed from the output that ReLU overwrote."""
    model = sequential({"type": "LSTM", "hidden_size": 4, "output": "last"}, inplace("ReLU"), LINEAR)
    assert not trains(model, SERIES)
    (problem,) = told(model, SERIES)
    assert problem["pointer"] == "/model/layers/1/inplace"
    assert problem["detail"].endswith("works in place on what layer 0 (LSTM) needs for its gradient; set inplace to false")


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_view_that_the_kernels_layout_forbids_is_told_at_once(kind: str) -> None:
    nodes: dict[str, Any] = {
        "steps": {"type": kind, "hidden_size": 4, "inputs": ["x"]},
        "flat": {"type": "view", "shape": [20], "inputs": ["steps"]},
        "head": {**LINEAR, "inputs": ["flat"]},
    }
    (problem,) = told(graph(["x"], ["head"], **nodes), SERIES)
    assert problem["pointer"] == "/model/nodes/flat"
    assert "view" in problem["detail"]
    module = getattr(torch.nn, kind)(4, 4, batch_first=True)
    with pytest.raises(RuntimeError, match="view"):
        module(torch.zeros(2, 5, 4))[0].view(2, 20)


def test_both_layers_are_named() -> None:
    (problem,) = told(sequential(LINEAR, "Tanh", inplace("ReLU"), LINEAR), VECTORS)
    assert problem["pointer"] == "/model/layers/2/inplace"
    assert (
        problem["detail"] == "layer 2 (ReLU) works in place on what layer 1 (Tanh) needs for its gradient; set inplace to false"
    )


def test_a_sequential_inside_and_a_branch_of_a_graph_are_looked_into() -> None:
    inner = {"type": "Sequential", "layers": [LINEAR, "Sigmoid", inplace("ReLU")], "inputs": ["x"]}
    (problem,) = told(graph(["x"], ["block"], block=inner), VECTORS)
    assert problem["pointer"] == "/model/nodes/block/layers/2/inplace"
    head = {**LINEAR, "inputs": ["x"]}
    nodes: dict[str, Any] = {"head": head, "soft": {"type": "GELU", "inputs": ["head"]}}
    nodes |= {"hard": {**inplace("ReLU"), "inputs": ["head"]}, "both": {"type": "add", "inputs": ["soft", "hard"]}}
    (problem,) = told(graph(["x"], ["both"], **nodes), VECTORS)
    assert problem["pointer"] == "/model/nodes/hard/inplace"
    assert "node soft (GELU)" in problem["detail"]
    assert not trains(graph(["x"], ["both"], **nodes), VECTORS)


def test_a_residual_network_in_place_is_taken() -> None:
    nodes: dict[str, Any] = {
        "conv": {"type": "Conv2d", "out_channels": 4, "kernel_size": 3, "padding": 1, "inputs": ["x"]},
        "norm": {"type": "BatchNorm2d", "inputs": ["conv"]},
        "act": {**inplace("ReLU"), "inputs": ["norm"]},
        "sum": {"type": "add", "inputs": ["act", "x"]},
        "out": {**inplace("ReLU"), "inputs": ["sum"]},
        "flat": {"type": "flatten", "inputs": ["out"]},
        "head": {**LINEAR, "inputs": ["flat"]},
    }
    assert told(graph(["x"], ["head"], **nodes), IMAGES) == []
    assert trains(graph(["x"], ["head"], **nodes), IMAGES)


def test_nothing_is_needed_of_frozen_layers() -> None:
    model = sequential({"type": "Linear", "out_features": 4}, "Tanh", inplace("ReLU"), LINEAR)
    frozen = {"type": "SGD", "param_groups": [{"params": ["0.*"], "frozen": True}]}
    assert told(model, VECTORS) != []
    assert told(model, VECTORS, optimizer=frozen) == []


# ---- kernels


@pytest.mark.parametrize(
    ("layer", "member"),
    [
        (inplace("LeakyReLU", negative_slope=-0.1), "inplace"),
        (inplace("ELU", alpha=-0.1), "inplace"),
        (inplace("CELU", alpha=-0.1), "inplace"),
        ({"type": "CELU", "alpha": 0}, "alpha"),
        ({"type": "LeakyReLU", "negative_slope": -0.1}, None),
        ({"type": "ELU", "alpha": -0.1}, None),
        ({"type": "CELU", "alpha": -0.1}, None),
        (inplace("ELU", alpha=0), None),
    ],
    ids=str,
)
def test_slopes_that_a_kernel_refuses(layer: dict[str, Any], member: str | None) -> None:
    found = told(sequential(LINEAR, layer), VECTORS)
    assert [p["pointer"] for p in found] == ([] if member is None else [f"/model/layers/1/{member}"])


@pytest.mark.parametrize("stride", [1, 2, [2, 3]])
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("added", [0, 1, 2, [1, 2]])
def test_an_output_padding_is_taken_where_torch_takes_it(stride: Any, dilation: int, added: Any) -> None:
    layer = {"type": "ConvTranspose2d", "out_channels": 2, "kernel_size": 3}
    layer |= {"stride": stride, "dilation": dilation, "output_padding": added}
    steps, more = (v if isinstance(v, list) else [v, v] for v in (stride, added))
    found = told(sequential(layer, "Flatten", LINEAR), IMAGES)
    module = torch.nn.ConvTranspose2d(1, 2, 3, stride=steps, dilation=dilation, output_padding=more)  # type: ignore[arg-type]
    try:
        module(torch.zeros(2, 1, 8, 8))
    except RuntimeError:
        assert [p["pointer"] for p in found] == ["/model/layers/0/output_padding"]
    else:
        assert found == []


# ---- one row left over


def rows(description: DataDescription, **counts: int) -> DataDescription:
    return dataclasses.replace(description, counts={"train": 64, "val": 0, "test": 0, **counts})


NORM = {"type": "BatchNorm1d", "track_running_stats": False}


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize(("count", "fits"), [(32, True), (33, False), (1, False), (34, True)])
def test_the_last_batch_of_every_part_is_tried_in_eval_mode(part: str, count: int, fits: bool) -> None:
    found = told(sequential(LINEAR, NORM), rows(MULTI, **{part: count}))
    assert [p["pointer"] for p in found] == ([] if fits else ["/batch_size"])
    assert all("layer 1 (BatchNorm1d)" in p["detail"] and f"{count} row" in p["detail"] for p in found)
    assert told(sequential(LINEAR, "BatchNorm1d"), rows(MULTI, **{part: count})) == []


def test_a_transformer_takes_one_row_in_eval_mode() -> None:
    layer = {"type": "TransformerEncoderLayer", "nhead": 2, "dim_feedforward": 8}
    encoder = {"type": "TransformerEncoder", "encoder_layer": layer, "num_layers": 2}
    assert told(sequential(encoder, "Flatten", LINEAR), rows(SERIES, val=1)) == []
