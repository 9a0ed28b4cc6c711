"""Sizes that follow from the data are filled in, given ones are checked, and errors name the layer and the shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from jobs.catalog import catalog
from jobs.spec import parse
from tests.trainer.test_check import COUNTS, MULTI, ask, data, spec
from workers.trainer.layers import FOLLOWS
from workers.trainer.model import BuildProblem, build, complete

CUBES = data(0, 2, 3, shape=(2, 4, 4, 4))
PLANES = data(0, 2, 3, shape=(2, 4, 4))
LINES = data(0, 2, 3, shape=(2, 4))
MORE: dict[str, dict[str, Any]] = {
    "Linear": {"out_features": 5},
    "GroupNorm": {"num_groups": 2},
    **{kind: {"hidden_size": 5} for kind in ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")},
    "MultiheadAttention": {"num_heads": 2},
    "TransformerEncoderLayer": {"nhead": 2, "dim_feedforward": 8},
}
OF_ONE = [name for name in FOLLOWS if catalog().section("layers")[name].inputs[0] == 1]


def job(*layers: Any, **more: Any) -> Any:
    return parse(spec(model={"type": "Sequential", "layers": list(layers)}, **more))


def inferring(name: str) -> dict[str, Any]:
    return {"type": name, **MORE.get(name, {"out_channels": 5, "kernel_size": 1} if name.startswith("Conv") else {})}


@pytest.mark.parametrize("name", OF_ONE)
def test_a_size_is_inferred_and_a_given_one_checked(name: str) -> None:
    argument, dimension, dimensions, _ = FOLLOWS[name][0]
    description = {2: MULTI, 3: LINES, 4: PLANES, 5: CUBES, 0: LINES}[dimensions]
    size = (0, *description.inputs["x"].shape)[dimension]
    layer = complete(job(inferring(name)), description).layers[0]
    assert layer.arguments[argument] == size
    assert layer.inferred - {"batch_first"} == {argument}
    right = complete(job({**inferring(name), argument: size}), description).layers[0]
    assert right.inferred <= {"batch_first"}
    with pytest.raises(BuildProblem) as caught:
        complete(job({**inferring(name), argument: size + 1}), description)
    (problem,) = caught.value.problems
    assert problem.pointer == f"/model/layers/0/{argument}"
    assert problem.code == "shape_mismatch"
    assert f"layer 0 ({name})" in problem.detail
    assert f"{argument} is {size}, not {size + 1}" in problem.detail
    if dimensions:
        wrong, shape = (LINES, "n, 2, 4") if dimensions == 2 else (MULTI, "n, 4")
        with pytest.raises(BuildProblem, match=rf"layer 0 \({name}\) gets input of shape \({shape}\)"):
            complete(job(inferring(name)), wrong)


@pytest.mark.parametrize("name", ["LayerNorm", "RMSNorm"])
def test_a_norm_takes_the_whole_shape_or_its_end(name: str) -> None:
    assert complete(job(name), PLANES).layers[0].arguments["normalized_shape"] == [2, 4, 4]
    assert complete(job({"type": name, "normalized_shape": [4, 4]}), PLANES).layers[0].inferred == frozenset()
    with pytest.raises(BuildProblem, match="not 5"):
        complete(job({"type": name, "normalized_shape": 5}), PLANES)


def test_what_is_completed_is_what_is_built() -> None:
    completed = complete(
        job("Flatten", {"type": "Linear", "out_features": 6}, "ReLU", {"type": "Linear", "out_features": 3}), PLANES
    )
    torch.manual_seed(0)
    model = build(completed)
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    assert all(torch.equal(a, b) for a, b in zip(model.module.parameters(), plain.parameters(), strict=True))
    assert [layer.output_shape for layer in completed.layers] == [(32,), (6,), (6,), (3,)]
    assert sum(layer.parameters for layer in completed.layers) == 32 * 6 + 6 + 6 * 3 + 3


def test_inference_draws_nothing() -> None:
    before = torch.get_rng_state()
    complete(job("Flatten", {"type": "Linear", "out_features": 6}, "Dropout"), PLANES)
    assert torch.equal(before, torch.get_rng_state())


def test_a_last_batch_of_one_row_is_told_at_batch_size() -> None:
    seven = replace(MULTI, counts={**COUNTS, "train": 65})
    layers = [{"type": "Linear", "out_features": 3}, "BatchNorm1d"]
    with pytest.raises(BuildProblem, match="drop_last") as caught:
        complete(job(*layers), seven)
    assert caught.value.problems[0].pointer == "/batch_size"
    assert len(complete(job(*layers, drop_last=True), seven).layers) == 2


def test_drop_last_must_leave_a_batch() -> None:
    problems = ask(spec(drop_last=True, batch_size=65), MULTI)["problems"]
    assert [p["pointer"] for p in problems] == ["/batch_size"]


def test_parameters_are_limited() -> None:
    wide = {"type": "Linear", "out_features": 65536}
    with pytest.raises(BuildProblem, match="200,000,000 parameters") as caught:
        complete(job(wide, wide), MULTI)
    assert caught.value.problems[0].pointer == "/model/layers/1"


def test_a_constructor_speaks_at_the_argument_it_names() -> None:
    with pytest.raises(BuildProblem) as caught:
        complete(job({"type": "Conv2d", "out_channels": 3, "kernel_size": 1, "groups": 2}), PLANES)
    assert caught.value.problems[0].pointer in {"/model/layers/0/out_channels", "/model/layers/0/groups"}
