"""Initialisers and another job's weights: the bits of a plain loop, and a 422 that names the parameter."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from jobs.spec import parse
from tests.trainer import textbook
from tests.trainer.supervised import Supervised, job, prepare
from tests.trainer.test_check import MULTI, ask, spec
from tests.trainer.test_oracle import same
from tests.trainer.textbook import Built, Recipe
from workers.trainer import check

JOB = "job_" + "0" * 26
LAYERS = [{"type": "Linear", "out_features": 16}, "ReLU", {"type": "Linear", "out_features": 3}]
DIGITS: dict[str, Any] = {
    "dataset": {"type": "builtin", "name": "digits"},
    "model": {"type": "Sequential", "layers": ["Flatten", {"type": "Linear", "out_features": 16}, "ReLU",
                                                {"type": "Linear", "out_features": 10}]},
    "loss": "CrossEntropyLoss",
    "optimizer": {"type": "SGD", "lr": 0.05},
    "batch_size": 100,
    "epochs": 1,
    "seed": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("sets"))


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def trained(module: nn.Module) -> Built:
    return module, nn.CrossEntropyLoss(), torch.optim.SGD(module.parameters(), lr=0.05), None


def with_model(**members: Any) -> dict[str, Any]:
    return {**DIGITS, "model": {**DIGITS["model"], **members}}


def test_initialisers_draw_in_their_order_after_all_modules(sets: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    initializers = [
        {"params": "3.*", "type": "normal_", "std": 0.02},
        {"params": ["*.weight"], "type": "kaiming_normal_", "mode": "fan_out", "nonlinearity": "relu"},
        {"params": "*.bias", "type": "constant_", "val": 0.25},
    ]
    service = job(sets, tmp_path, with_model(initializers=initializers))
    service.attempt()

    def build() -> Built:
        module = plain()
        linear = [layer for layer in module if isinstance(layer, nn.Linear)]
        nn.init.normal_(linear[1].weight, std=0.02)
        nn.init.normal_(linear[1].bias, std=0.02)
        for layer in linear:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        for layer in linear:
            nn.init.constant_(layer.bias, 0.25)
        return trained(module)

    same(service, textbook.run(textbook.digits(), Recipe(batch_size=100, epochs=1, seed=2), build))


def started_from(sets: Path, folder: Path, source: Path, **init_from: Any) -> Supervised:
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    body = with_model(init_from={"job": JOB, "sha256": digest, **init_from})
    return job(sets, folder, body, init_from=str(source))


@pytest.mark.parametrize("params", [None, ["1.*"]])
def test_another_jobs_weights_whole_or_by_pattern(sets: Path, tmp_path: Path, params: list[str] | None) -> None:
    torch.set_num_threads(1)
    first = job(sets, tmp_path / "first", {**DIGITS, "seed": 9})
    first.attempt()
    source = tmp_path / "first" / "artifacts" / "model.safetensors"
    service = started_from(sets, tmp_path / "second", source, **({} if params is None else {"params": params}))
    service.attempt()

    def build() -> Built:
        module = plain()
        found = {n: t for n, t in first.weights().items() if params is None or n.startswith("1.")}
        module.load_state_dict(found, strict=params is None)
        return trained(module)

    same(service, textbook.run(textbook.digits(), Recipe(batch_size=100, epochs=1, seed=2), build))


def test_damaged_weights_are_not_trained_on(sets: Path, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    save_file(plain().state_dict(), source)
    service = started_from(sets, tmp_path / "job", source)
    source.write_bytes(source.read_bytes()[:-1] + b"\x01")
    ended = service.attempt()
    assert ended is not None
    assert ended.state == "failed"
    assert "damaged" in (ended.message or "")


# ---- what the checker says


def initialised(*initializers: dict[str, Any]) -> list[dict[str, str]]:
    body = spec(model={"type": "Sequential", "layers": LAYERS, "initializers": list(initializers)})
    found: list[dict[str, str]] = ask(body, MULTI)["problems"]
    return found


@pytest.mark.parametrize(
    ("initializer", "pointer", "words"),
    [
        ({"params": "head.*", "type": "zeros_"}, "/params/0", "0.weight, 0.bias"),
        ({"params": ["*", "1.*"], "type": "zeros_"}, "/params/1", "matches no parameter"),
        ({"params": "*", "type": "xavier_uniform_"}, "", "cannot fill 0.bias of shape (16,)"),
        ({"params": "0.weight", "type": "dirac_"}, "", "it wants 3 to 5 dimensions"),
        ({"params": "*", "type": "uniform_", "a": 2, "b": 1}, "", "cannot fill"),
        ({"params": "*", "type": "zeros"}, "/type", 'did you mean "zeros_"'),
        ({"params": "*", "type": "normal_", "generator": 1}, "/generator", "drawn from the seed"),
        ({"params": "*", "type": "normal_", "std": -1}, "/std", "at least 0"),
        ({"type": "zeros_"}, "/params", "required"),
        ({"params": [], "type": "zeros_"}, "/params", "at least 1"),
    ],
)
def test_a_wrong_initialiser_is_told_where_it_is(initializer: dict[str, Any], pointer: str, words: str) -> None:
    problems = initialised({"params": "*", "type": "zeros_"}, initializer)
    assert problems[0]["pointer"] == f"/model/initializers/1{pointer}"
    assert words in problems[0]["detail"]


def test_checking_initialisers_draws_nothing() -> None:
    before = torch.get_rng_state()
    assert initialised({"params": "*", "type": "normal_"}, {"params": "*.weight", "type": "orthogonal_"}) == []
    assert torch.equal(before, torch.get_rng_state())


WEIGHTS = {"0.weight": (16, 4), "0.bias": (16,), "2.weight": (3, 16), "2.bias": (3,)}


def asked(tmp_path: Path, shapes: dict[str, tuple[int, ...]], **init_from: Any) -> list[dict[str, str]]:
    source = tmp_path / "weights"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, source)
    body = spec(model={"type": "Sequential", "layers": LAYERS, "init_from": {"job": JOB, **init_from}})
    found: list[dict[str, str]] = check.answer(parse(body), MULTI, False, check.Files(source))["problems"]
    return found


@pytest.mark.parametrize(
    ("shapes", "init_from", "words"),
    [
        (WEIGHTS | {"2.bias": (4,)}, {}, "2.bias has shape (3,) here and (4,) in the artifact"),
        (WEIGHTS | {"2.bias": (4,)}, {"strict": False}, "2.bias has shape (3,)"),
        (WEIGHTS | {"3.bias": (4,)}, {}, "3.bias of the artifact is not in this model"),
        ({"0.bias": (16,)}, {"params": "0.*"}, "0.weight is not in the artifact"),
        ({"other": (16,)}, {"strict": False}, "no parameter in common"),
        (WEIGHTS, {"params": ["1.*"]}, "'1.*' matches no parameter"),
    ],
)
def test_weights_that_do_not_fit_name_the_parameter(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], init_from: dict[str, Any], words: str
) -> None:
    problems = asked(tmp_path, shapes, **init_from)
    assert problems[0]["pointer"].startswith("/model/init_from")
    assert words in problems[0]["detail"]


@pytest.mark.parametrize(
    ("shapes", "init_from"),
    [
        (WEIGHTS, {}),
        (WEIGHTS | {"2.bias": (4,)}, {"params": "0.*"}),
        ({"0.weight": (16, 4), "more": (1,)}, {"strict": False}),
    ],
)
def test_weights_that_fit(tmp_path: Path, shapes: dict[str, tuple[int, ...]], init_from: dict[str, Any]) -> None:
    assert asked(tmp_path, shapes, **init_from) == []


def test_what_is_no_file_of_weights_is_a_problem(tmp_path: Path) -> None:
    body = parse(spec(model={"type": "Sequential", "layers": LAYERS, "init_from": {"job": JOB}}))
    (tmp_path / "weights").write_bytes(b"\xff" * 64)
    assert check.answer(body, MULTI, False, check.Files(tmp_path / "weights"))["problems"][0]["code"] == "unknown_artifact"
    assert check.answer(body, MULTI)["problems"][0]["code"] == "unknown_artifact"
