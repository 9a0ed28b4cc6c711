"""Parameters that are nodes of a Graph: a vision transformer's class token and positions, by the numbers of a plain module."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jobs.spec import parse
from tests.trainer.graphs import completed, described, graph, numbers
from tests.trainer.supervised import job, prepare
from tests.trainer.test_check import IMAGES, ask, spec
from tests.trainer.test_model_oracle import DIGITS, agree
from workers.trainer.model import build
from workers.trainer.weights import check_init_from, initialize


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("sets"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def documented() -> dict[str, Any]:
    """The vision transformer of docs/models.md."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    found: dict[str, Any] = next(
        json.loads(body) for body in re.findall(r"```json\n(.*?)```", page, re.S) if '"Parameter"' in body
    )
    return found


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 32))
        self.position = nn.Parameter(torch.zeros(1, 17, 32))
        self.patches = nn.Conv2d(1, 32, 2, stride=2)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(32), enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)
        nn.init.trunc_normal_(self.token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.encoder(x)[:, 0])  # type: ignore[no-any-return]


def test_a_vision_transformer_of_the_docs_is_the_plain_one(sets: Path, tmp_path: Path) -> None:
    agree(sets, tmp_path, documented(), ViT)


def test_it_learns_the_digits(sets: Path, tmp_path: Path) -> None:
    service = job(sets, tmp_path, DIGITS | {
        "model": documented(), "split": {"train": 0.8, "val": 0.2}, "epochs": 12,
        "optimizer": {"type": "AdamW", "lr": 0.003}, "metrics": ["MulticlassAccuracy"],
    })  # fmt: skip
    service.attempt()
    assert service.values("val/MulticlassAccuracy")[-1] > 0.9


TOKEN = graph(
    ["x"],
    ["head"],
    flat={"type": "flatten", "start_dim": 2, "inputs": ["x"]},
    token={"type": "Parameter", "shape": [1, 1, 64]},
    tokens={"type": "expand", "inputs": ["token", "flat"]},
    both={"type": "cat", "inputs": ["tokens", "flat"]},
    rows={"type": "flatten", "inputs": ["both"]},
    head={"type": "Linear", "out_features": 3, "inputs": ["rows"]},
)


def test_it_is_counted_listed_and_read_back() -> None:
    body = spec(model=TOKEN)
    found = ask(body, IMAGES)
    assert found["problems"] == []
    assert found["parameters"] == {"total": 64 + 128 * 3 + 3, "trainable": 64 + 128 * 3 + 3}
    assert found["effective_spec"]["model"]["nodes"]["token"] == {
        "type": {"value": "Parameter", "source": "given"},
        "shape": {"value": [1, 1, 64], "source": "given"},
    }
    model = completed(TOKEN, IMAGES)
    rows = {row["name"]: (row["output_shape"], row["parameters"]) for row in model.table()}
    assert rows["token"] == ([1, 64], 64)
    assert list(build(model).module.state_dict()) == ["token", "head.weight", "head.bias"]


def test_patterns_mean_it_by_its_name() -> None:
    groups = [{"params": ["tok*"], "lr": 0.5}, {"params": ["head"], "frozen": True}]
    found = ask(spec(model=TOKEN, optimizer={"type": "SGD", "param_groups": groups}), IMAGES)
    assert found["problems"] == []
    assert found["parameters"]["trainable"] == 64
    filled = TOKEN | {"initializers": [{"params": "token", "type": "constant_", "val": 0.5}]}
    built = build(completed(filled, IMAGES))
    assert not any(built.module.state_dict()["token"].flatten())
    initialize(built.module, parse(spec(model=filled)).model.initializers)
    assert set(built.module.state_dict()["token"].flatten().tolist()) == {0.5}
    unfit = TOKEN | {"initializers": [{"params": "token", "type": "eye_"}]}
    assert [p["pointer"] for p in ask(spec(model=unfit), IMAGES)["problems"]] == ["/model/initializers/0"]


def test_another_jobs_parameter_is_taken_over(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({"token": torch.ones(1, 1, 64)}, path)
    taken = TOKEN | {"init_from": {"job": "job_" + "0" * 26, "params": ["token"]}}
    module = completed(taken, IMAGES).module
    assert list(check_init_from(parse(spec(model=taken)), module, path)) == []
    save_file({"token": torch.ones(1, 2, 64)}, path)
    [problem] = check_init_from(parse(spec(model=taken)), module, path)
    assert "token has shape (1, 1, 64) here" in problem.detail


@pytest.mark.parametrize(
    ("nodes", "pointer"),
    [
        ({"token": {"type": "Parameter"}}, "/model/nodes/token/shape"),
        ({"token": {"type": "Parameter", "shape": [1, 0]}}, "/model/nodes/token/shape/1"),
        ({"token": {"type": "Parameter", "shape": [1, 4], "inputs": ["x"]}}, "/model/nodes/token/inputs"),
        ({"token": {"type": "Parameter", "shape": [1, 4], "init": "zeros_"}}, "/model/nodes/token/init"),
    ],
)
def test_what_is_no_parameter_is_told(nodes: dict[str, Any], pointer: str) -> None:
    sum_ = {"type": "add", "inputs": ["x", "token"]}
    problems = ask(spec(model=graph(["x"], ["sum"], **nodes, sum=sum_)), described(x=numbers(4)))["problems"]
    assert [p["pointer"] for p in problems] == [pointer]


def test_its_module_is_not_shared_and_it_is_no_output() -> None:
    token = {"type": "Parameter", "shape": [1, 4]}
    shared = graph(["x"], ["out"], token=token, out={"type": "shared", "module": "token", "inputs": ["x"]})
    [problem] = ask(spec(model=shared), described(x=numbers(4)))["problems"]
    assert problem["pointer"] == "/model/nodes/out/module"
    alone = graph(["x"], ["token", "act"], token=token, act={"type": "Linear", "out_features": 3, "inputs": ["x"]})
    problems = ask(spec(model=alone), described(x=numbers(4)))["problems"]
    assert problems[0]["pointer"] == "/model/outputs/0"
