"""Optimizers with a closure, sparse gradients, groups or a second optimizer: the textbook's numbers, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from jobs.spec import parse
from tests.trainer.by_hand import Bench, Run, alike
from tests.trainer.test_check import MULTI, ask, spec
from workers.trainer import optimizers
from workers.trainer.param_groups import Parameters, matches

ROWS, BATCH, EPOCHS, SEED = 40, 8, 3, 4
DROPOUT = 0.2


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(DROPOUT), nn.Linear(8, 3))


class Words(nn.Module):
    """Tokens (n, 6) to scores (n, 3); the embedding's gradients are sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 8, sparse=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.embedding(x).mean(1))


class OnlyWords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(30, 3, sparse=True)

    def forward(self, x: Tensor) -> Any:
        return self.table(x)


def of(model: nn.Module, *names: str) -> list[nn.Parameter]:
    found = dict(model.named_parameters())
    return [found[name] for name in names]


Sgd: Any = torch.optim.SGD
Adam: Any = torch.optim.Adam


@dataclass
class Case:
    optimizer: dict[str, Any]
    made: Callable[[nn.Module], list[torch.optim.Optimizer]]
    module: Callable[[], nn.Module] = dense
    lr: tuple[str, ...] = ("lr",)


def frozen(model: nn.Module) -> list[torch.optim.Optimizer]:
    for parameter in model[0].parameters():  # type: ignore[index]
        parameter.requires_grad = False
    return [Sgd(of(model, "1.weight", "1.bias", "4.weight", "4.bias"), lr=0.1, momentum=0.9)]


CASES: dict[str, Case] = {
    "groups": Case(
        {
            "type": "Adam",
            "lr": 0.01,
            "weight_decay": 0.1,
            "param_groups": [
                {"params": ["1", "*.bias"], "weight_decay": 0, "betas": [0.8, 0.9]},
                {"params": "4.*t", "lr": 0.05},
            ],
        },
        lambda m: [
            Adam(
                [
                    {"params": of(m, "0.bias", "1.weight", "1.bias", "4.bias"), "weight_decay": 0, "betas": (0.8, 0.9)},
                    {"params": of(m, "4.weight"), "lr": 0.05},
                    {"params": of(m, "0.weight")},
                ],
                lr=0.01,
                weight_decay=0.1,
            )
        ],
        lr=("lr/0", "lr/1", "lr/default"),
    ),
    "frozen": Case({"type": "SGD", "lr": 0.1, "momentum": 0.9, "param_groups": [{"params": "0", "frozen": True}]}, frozen),
    "Muon and the rest": Case(
        {"type": "Muon", "lr": 0.02, "rest": {"type": "AdamW", "lr": 0.005, "params": "4.weight"}},
        lambda m: [
            torch.optim.Muon(of(m, "0.weight"), lr=0.02),
            torch.optim.AdamW(of(m, "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"), lr=0.005),
        ],
        lr=("lr/default", "lr/rest"),
    ),
    "LBFGS": Case(
        {"type": "LBFGS", "lr": 0.5, "max_iter": 4, "history_size": 3},
        lambda m: [torch.optim.LBFGS(m.parameters(), lr=0.5, max_iter=4, history_size=3)],
    ),
    "LBFGS with a line search": Case(
        {"type": "LBFGS", "max_iter": 5, "line_search_fn": "strong_wolfe"},
        lambda m: [torch.optim.LBFGS(m.parameters(), max_iter=5, line_search_fn="strong_wolfe")],
    ),
    "SparseAdam": Case(
        {"type": "SparseAdam", "lr": 0.1}, lambda m: [torch.optim.SparseAdam(m.parameters(), lr=0.1)], OnlyWords
    ),
    "SparseAdam and the rest": Case(
        {"type": "SparseAdam", "lr": 0.1, "rest": {"type": "Adam", "lr": 0.01}},
        lambda m: [
            torch.optim.SparseAdam(of(m, "embedding.weight"), lr=0.1),
            Adam(of(m, "head.weight", "head.bias"), lr=0.01),
        ],
        Words,
        lr=("lr/default", "lr/rest"),
    ),
}


def bench(case: Case, **more: Any) -> Bench:
    generator = torch.Generator().manual_seed(5)
    tokens = case.module is not dense
    x = torch.randint(30, (ROWS, 6), generator=generator) if tokens else torch.randn(ROWS, 4, generator=generator)
    y = torch.randint(3, (ROWS,), generator=generator)
    scheduler = {"type": "ExponentialLR", "gamma": 0.9, "interval": "iteration"}
    body = spec(optimizer=case.optimizer, lr_scheduler=scheduler, batch_size=BATCH, epochs=EPOCHS, seed=SEED, **more)
    return Bench(body, case.module, {"x": x, "y": y}, classes={"y": 3})


def textbook(case: Case) -> tuple[list[float], list[list[float]], dict[str, Tensor]]:
    fields = bench(case).fields
    torch.manual_seed(SEED)
    model, criterion = case.module(), nn.CrossEntropyLoss()
    made = case.made(model)
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9) for optimizer in made]
    generator = torch.Generator().manual_seed(SEED)
    loader = DataLoader(TensorDataset(fields["x"], fields["y"]), BATCH, shuffle=True, generator=generator)
    losses, rates = [], []
    for _ in range(EPOCHS):
        for x, y in loader:

            def closure(x: Tensor = x, y: Tensor = y) -> Any:
                for optimizer in made:
                    optimizer.zero_grad()
                loss: Any = criterion(model(x), y)
                loss.backward()
                return loss

            rates.append([group["lr"] for optimizer in made for group in optimizer.param_groups])
            if isinstance(made[0], torch.optim.LBFGS):
                step: Any = made[0].step
                losses.append(step(closure).item())
            else:
                losses.append(closure().item())
                for optimizer in made:
                    optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
    return losses, rates, model.state_dict()


def same(run: Run, case: Case) -> None:
    losses, rates, weights = textbook(case)
    assert run.curve["train/loss"] == losses
    assert {name for name in run.curve if name.startswith("lr")} == set(case.lr)
    assert [list(row) for row in zip(*(run.curve[name] for name in case.lr), strict=True)] == rates
    assert all(torch.equal(run.weights()[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize("name", CASES)
def test_every_step_is_the_textbooks(name: str) -> None:
    same(bench(CASES[name]).run(), CASES[name])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stop", [3, 10])
def test_a_resumed_run_takes_the_same_steps(name: str, stop: int) -> None:
    made = bench(CASES[name])
    alike(made.run_in_two(stop), made.run())


def test_what_is_frozen_stays_as_it_was_drawn() -> None:
    made = bench(CASES["frozen"])
    torch.manual_seed(SEED)
    drawn = dense().state_dict()
    weights = made.run().weights()
    assert torch.equal(weights["0.weight"], drawn["0.weight"])
    assert not torch.equal(weights["4.weight"], drawn["4.weight"])


# ---- what is refused


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("0", "0.weight", True),
        ("0", "10.weight", False),
        ("0", "0.0.weight", True),
        ("*.bias", "3.bias", True),
        ("encoder*", "encoder.layers.0.norm.weight", True),
        ("encoder.layers.?", "encoder.layers.0.norm.weight", True),
        ("norm", "encoder.norm.weight", False),
        ("W*", "w.weight", False),
    ],
)
def test_a_pattern_means_a_parameter_or_a_layer(pattern: str, name: str, fits: bool) -> None:
    assert matches(name, pattern) is fits


BAD: list[tuple[dict[str, Any], str, str]] = [
    (
        {"type": "SGD", "param_groups": [{"params": ["0.weight", "1"]}]},
        "/optimizer/param_groups/0/params/1",
        "0.weight, 0.bias",
    ),
    ({"type": "SGD", "param_groups": [{"params": "0.wieght"}]}, "/optimizer/param_groups/0/params/0", '"0.weight"'),
    (
        {"type": "SGD", "param_groups": [{"params": "*.bias"}, {"params": ["0"], "lr": 1}]},
        "/optimizer/param_groups/1/params/0",
        "0.bias is in /optimizer/param_groups/0 already",
    ),
    ({"type": "SGD", "param_groups": [{"params": "0", "frozen": True}]}, "/optimizer", "nothing for SGD"),
    ({"type": "Muon"}, "/optimizer/rest", "0.bias"),
    ({"type": "Muon", "param_groups": [{"params": "*.bias"}]}, "/optimizer/param_groups/0/params", "matrices only"),
    ({"type": "Muon", "rest": {"type": "SGD", "params": ["*"]}}, "/optimizer", "no matrices"),
    ({"type": "SparseAdam"}, "/optimizer/rest", "sparse gradients only"),
    ({"type": "SparseAdam", "rest": "Adam"}, "/optimizer", "no parameters with sparse gradients"),
    ({"type": "LBFGS", "param_groups": [{"params": "0.bias", "lr": 1}]}, "/optimizer", "parameter groups"),
]


@pytest.mark.parametrize(("optimizer", "pointer", "words"), BAD)
def test_groups_that_cannot_be_are_told_where_they_stand(optimizer: dict[str, Any], pointer: str, words: str) -> None:
    problems = ask(spec(optimizer=optimizer), MULTI)["problems"]
    assert pointer in [p["pointer"] for p in problems]
    assert any(words in p["detail"] for p in problems)


SPARSE: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    ({"type": "Adam"}, {}, ["/optimizer"]),
    ({"type": "SGD", "weight_decay": 0.1}, {}, ["/optimizer/weight_decay"]),
    ({"type": "SGD", "momentum": 0.9}, {}, []),
    ({"type": "Adagrad"}, {"max_grad_norm": 1.0}, ["/max_grad_norm"]),
    ({"type": "SGD", "weight_decay": 0.1, "param_groups": [{"params": "embedding", "weight_decay": 0}]}, {}, []),
    ({"type": "Adam", "param_groups": [{"params": "embedding", "frozen": True}]}, {"max_grad_norm": 1.0}, []),
]


@pytest.mark.parametrize(("optimizer", "more", "pointers"), SPARSE)
def test_sparse_gradients_are_refused_where_torch_fails(
    optimizer: dict[str, Any], more: dict[str, Any], pointers: list[str]
) -> None:
    case = Case(optimizer, lambda _model: [], Words)
    _, problems = optimizers.check_optimizer(parse(bench(case, **more).spec), Parameters.of(Words(), None))
    assert [p.pointer for p in problems] == pointers
    if pointers:
        with pytest.raises((RuntimeError, NotImplementedError)):
            bench(case, **more).run()
    else:
        bench(case, **more).run()
