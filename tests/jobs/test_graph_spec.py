"""A graph in a spec: what is accepted and kept, and everything wrong with its names is said at once, where it is."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from jobs.model_spec import GraphModel
from jobs.spec import JobSpec, parse
from tests.jobs.test_spec import changed, found, problems

LINEAR = {"type": "Linear", "out_features": 4}
MODEL: dict[str, Any] = {
    "type": "Graph",
    "inputs": ["x"],
    "nodes": {
        "stem": {**LINEAR, "inputs": ["x"]},
        "encoder": {"type": "Sequential", "layers": [LINEAR, "ReLU"], "inputs": ["stem"]},
        "again": {"type": "shared", "module": "encoder", "inputs": ["encoder"]},
        "lstm": {"type": "LSTM", "hidden_size": 3, "inputs": ["again"]},
        "state": {"type": "flatten", "inputs": ["lstm.hidden"]},
        "sum": {"type": "add", "inputs": ["state", "stem"]},
        "head": {"type": "Linear", "out_features": 1, "inputs": ["sum"]},
    },
    "outputs": ["head", "lstm.cell"],
}


def graph(**nodes: Any) -> dict[str, Any]:
    """The good spec with this graph of nodes over x, all of them led to the output `out`."""
    return changed(model={"type": "Graph", "inputs": ["x"], "nodes": nodes, "outputs": ["out"]})


def test_a_graph_is_kept_in_its_order_short_forms_written_long() -> None:
    spec = parse(changed(model=MODEL))
    assert isinstance(spec.model, GraphModel)
    stored = json.loads(spec.canonical())["model"]
    assert list(stored["nodes"]) == list(MODEL["nodes"])
    assert stored["nodes"]["encoder"]["layers"][1] == {"type": "ReLU"}
    assert parse(json.loads(spec.canonical())) == spec
    assert spec.model.nodes["lstm"].arguments() == {"hidden_size": 3}
    assert spec.model.nodes["sum"].inputs == ["state", "stem"]


def test_layers_inside_layers_are_written_long_and_checked() -> None:
    encoder = {"type": "TransformerEncoder", "num_layers": 2, "encoder_layer": {"type": "TransformerEncoderLayer", "nhead": 2}}
    spec = parse(changed(model__layers__0={**encoder, "norm": "LayerNorm"}))
    assert json.loads(spec.canonical())["model"]["layers"][0]["norm"] == {"type": "LayerNorm"}
    wrong = {**encoder, "norm": "ReLU", "encoder_layer": {"type": "TransformerEncoderLayer", "nhead": 0, "widht": 3}}
    assert found(changed(model__layers__0=wrong)) == {
        ("/model/layers/0/norm", "unknown_choice"),
        ("/model/layers/0/encoder_layer/nhead", "out_of_range"),
        ("/model/layers/0/encoder_layer/widht", "unknown_field"),
    }


A = {"a": {**LINEAR, "inputs": ["x"]}}
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"out": {**LINEAR, "inputs": ["y"]}}, "/model/nodes/out/inputs/0", "unknown_node"),
    ({"out": {**LINEAR, "inputs": ["a"]}, **A}, "/model/nodes/out/inputs/0", "unknown_node"),
    ({"out": {**LINEAR, "inputs": ["out"]}}, "/model/nodes/out/inputs/0", "unknown_node"),
    ({"out": {**LINEAR, "inputs": ["x.hidden"]}}, "/model/nodes/out/inputs/0", "unknown_node"),
    ({**A, "out": {**LINEAR, "inputs": ["a.hidden"]}}, "/model/nodes/out/inputs/0", "unknown_node"),
    ({**A, "out": {**LINEAR, "inputs": ["x"]}}, "/model/nodes/a", "unused"),
    ({"out": {**LINEAR, "inputs": ["x", "x"]}}, "/model/nodes/out/inputs", "out_of_range"),
    ({"out": {"type": "matmul", "inputs": ["x"]}}, "/model/nodes/out/inputs", "out_of_range"),
    ({"out": {**LINEAR, "inputs": []}}, "/model/nodes/out/inputs", "out_of_range"),
    ({"out": LINEAR}, "/model/nodes/out/inputs", "missing"),
    ({"out": {**LINEAR, "inputs": "x"}}, "/model/nodes/out/inputs", "wrong_type"),
    ({"out": {**LINEAR, "inputs": ["X"]}}, "/model/nodes/out/inputs/0", "out_of_range"),
    ({"out": {"type": "ad", "inputs": ["x"]}}, "/model/nodes/out/type", "unknown_type"),
    ({"out": {"type": "mean", "inputs": ["x"]}}, "/model/nodes/out/dim", "missing"),
    ({"out": {"type": "mean", "dim": 1.5, "inputs": ["x"]}}, "/model/nodes/out/dim", "wrong_type"),
    ({"out": {"type": "mean", "dim": 10**9, "inputs": ["x"]}}, "/model/nodes/out/dim", "out_of_range"),
    ({"out": {"type": "shared", "module": "out", "inputs": ["x"]}}, "/model/nodes/out/module", "unknown_node"),
    ({"out": {"type": "shared", "module": "x", "inputs": ["x"]}}, "/model/nodes/out/module", "unknown_node"),
    (
        {"a": {"type": "flatten", "inputs": ["x"]}, "out": {"type": "shared", "module": "a", "inputs": ["a"]}},
        "/model/nodes/out/module",
        "unknown_node",
    ),
    ({"x": {**LINEAR, "inputs": ["x"]}, "out": {**LINEAR, "inputs": ["x"]}}, "/model/nodes/x", "duplicate"),
    ({"out": {"type": "Sequential", "inputs": ["x"]}}, "/model/nodes/out/layers", "missing"),
    ({"out": {"type": "Sequential", "layers": [], "inputs": ["x"]}}, "/model/nodes/out/layers", "out_of_range"),
    ({"out": {"type": "Sequential", "layers": ["Relu"], "inputs": ["x"]}}, "/model/nodes/out/layers/0", "unknown_type"),
    ({"out": {"type": "Sequential", "layers": [{"type": "Bilinear", "out_features": 2}], "inputs": ["x"]}},
     "/model/nodes/out/layers/0/type", "not_supported"),
    ({"out": {"type": "Sequential", "layers": [{**LINEAR, "inputs": ["x"]}], "inputs": ["x"]}},
     "/model/nodes/out/layers/0/inputs", "unknown_field"),
    ({"Out": {**LINEAR, "inputs": ["x"]}, "out": {**LINEAR, "inputs": ["x"]}}, "/model/nodes/Out", "out_of_range"),
    ({"out": "ReLU"}, "/model/nodes/out/inputs", "missing"),
    ({"out": 3}, "/model/nodes/out", "wrong_type"),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "pointer", "code"), WRONG, ids=[f"{p}-{c}-{i}" for i, (_, p, c) in enumerate(WRONG)])
def test_it_is_refused_where_it_is_wrong(nodes: dict[str, Any], pointer: str, code: str) -> None:
    assert (pointer, code) in found(graph(**nodes))


@pytest.mark.parametrize(
    ("member", "value", "pointer", "code"),
    [
        ("outputs", ["nothing"], "/model/outputs/0", "unknown_node"),
        ("outputs", ["head", "head"], "/model/outputs/1", "duplicate"),
        ("outputs", [], "/model/outputs", "out_of_range"),
        ("outputs", None, "/model/outputs", "wrong_type"),
        ("inputs", ["x", "x"], "/model/inputs/1", "duplicate"),
        ("inputs", ["x", "z"], "/model/inputs/1", "unused"),
        ("inputs", [["x"]], "/model/inputs/0", "wrong_type"),
        ("nodes", {}, "/model/nodes", "out_of_range"),
        ("nodes", [], "/model/nodes", "wrong_type"),
        ("nodes", {"stem": 3}, "/model/nodes/stem", "wrong_type"),
        ("layers", [], "/model/layers", "unknown_field"),
        ("node", {}, "/model/node", "unknown_field"),
        ("type", "Grahp", "/model/type", "unknown_type"),
    ],
)
def test_members_of_a_graph_are_checked(member: str, value: Any, pointer: str, code: str) -> None:
    assert (pointer, code) in found(changed(model={**copy.deepcopy(MODEL), member: value}))


def test_everything_wrong_is_said_at_once() -> None:
    body = graph(
        a={"type": "Linaer", "inputs": ["x"]},
        b={**LINEAR, "out_features": -1, "inputs": ["c"]},
        c={"type": "cat", "dimm": 1, "inputs": ["a", "b"]},
        out={"type": "shared", "module": "d", "inputs": ["c"]},
    )
    assert found(body) == {
        ("/model/nodes/a/type", "unknown_type"),
        ("/model/nodes/b/out_features", "out_of_range"),
        ("/model/nodes/b/inputs/0", "unknown_node"),
        ("/model/nodes/c/dimm", "unknown_field"),
        ("/model/nodes/out/module", "unknown_node"),
    }


def test_a_wrong_name_comes_with_the_right_one() -> None:
    [problem] = problems(graph(stem={**LINEAR, "inputs": ["x"]}, out={"type": "add", "inputs": ["stem", "sten"]}))
    assert 'did you mean "stem"?' in problem.detail


def test_a_hostile_number_of_nodes_is_refused() -> None:
    nodes = {f"n{i}": {**LINEAR, "inputs": ["x"]} for i in range(5000)}
    assert ("/model/nodes", "out_of_range") in found(graph(**nodes, out={"type": "add", "inputs": ["n0"], "other": 1}))


def test_the_json_schema_names_operations_and_what_they_take() -> None:
    node = JobSpec.model_json_schema()["$defs"]["NodeComponent"]
    schemas = {schema["properties"]["type"]["const"]: schema for schema in node["anyOf"]}
    assert {"Linear", "Bilinear", "add", "shared", "Sequential"} <= set(schemas)
    assert set(schemas["cat"]["required"]) == {"type", "inputs"}
    assert "inputs" in schemas["Linear"]["properties"]
    layer = JobSpec.model_json_schema()["$defs"]["LayerComponent"]
    assert "Bilinear" not in {schema["properties"]["type"]["const"] for schema in layer["anyOf"] if "properties" in schema}
