"""Transforms have the bits that docs/seed.md promises, in a whole run and over a resume."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from jobs.spec import parse
from tests.trainer import textbook
from tests.trainer.supervised import Supervised, job, prepare
from tests.trainer.test_data import spec
from tests.trainer.test_fields import file_spec, order, prepared
from tests.trainer.test_formats import npz
from workers.protocol import Checkpointed, Message
from workers.trainer import check, transforms
from workers.trainer.data import Field, InvalidData, describe, load
from workers.trainer.feed import Feed

Augment = Callable[[Tensor, list[dict[str, Any]], Generator], Tensor]

EACH: list[dict[str, Any]] = [
    {"type": "RandomHorizontalFlip", "p": 0.5},
    {"type": "RandomVerticalFlip", "p": 0.3},
    {"type": "RandomCrop", "padding": 2},
    {"type": "RandomAffine", "degrees": 15.0, "translate": [0.1, 0.2], "scale": [0.8, 1.25], "shear": 10.0},
    {"type": "RandomErasing", "p": 0.7, "scale": [0.02, 0.4], "ratio": [0.3, 3.3], "value": 0.5},
    {"type": "GaussianNoise", "mean": 0.1, "sigma": 0.2},
    {"type": "ColorJitter", "brightness": 0.4, "contrast": 0.3},
]


@pytest.fixture(scope="module")
def augment() -> Augment:
    """The function of docs/seed.md, as it stands there."""
    text = (Path(__file__).parents[2] / "docs/seed.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", text, flags=re.S) if "def augment" in b)
    names: dict[str, Any] = {}
    exec(block, names)
    found: Augment = names["augment"]
    return found


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("sets"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def built(steps: list[dict[str, Any]], shape: tuple[int, ...]) -> transforms.Pipeline:
    given = spec({"type": "builtin", "name": "digits", "transforms": steps}).dataset.transforms
    return transforms.pipeline(given, {"x": Field(shape, 0, 1)}, [])


@pytest.mark.parametrize("steps", [*([step] for step in EACH), EACH, EACH[::-1]], ids=lambda s: s[0]["type"] + str(len(s)))
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 12)])
def test_each_has_the_documented_bits(augment: Augment, steps: list[dict[str, Any]], shape: tuple[int, ...]) -> None:
    ours, theirs = torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)
    state, x = torch.get_rng_state(), torch.rand(64, *shape, generator=torch.Generator().manual_seed(1))
    pipeline = built(steps, shape)
    for batch in (x, x[:7]):
        changed = pipeline.train({"x": batch}, ours)["x"]
        assert torch.equal(changed, augment(batch, steps, theirs))
        assert not torch.equal(changed, batch)
        assert torch.equal(pipeline.evaluate({"x": batch})["x"], batch)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_rotation_turns_the_image() -> None:
    """What affine_grid is given has no second implementation; half a turn and a known shift can be told by eye."""
    x = torch.arange(24.0).reshape(1, 1, 4, 6)
    given = built([{"type": "RandomAffine", "degrees": 180.0}], (1, 4, 6))
    generator = torch.Generator()
    seed = min(range(3000), key=lambda s: float((torch.rand(1, 5, generator=generator.manual_seed(s))[0, 0] - 1).abs()))
    turned = given.train({"x": x}, torch.Generator().manual_seed(seed))["x"]
    assert torch.allclose(turned, x.flip(2, 3), atol=0.2)


STEPS: list[dict[str, Any]] = [*EACH[:3], {"type": "Normalize", "mean": [0.3], "std": [0.25]}, *EACH[4:6]]
CNN: dict[str, Any] = {
    "dataset": {"type": "builtin", "name": "digits", "transforms": STEPS},
    "split": {"train": 0.8, "val": 0.2},
    "model": {
        "type": "Sequential",
        "layers": [
            {"type": "Conv2d", "out_channels": 4, "kernel_size": 3},
            "ReLU",
            "Flatten",
            {"type": "Linear", "out_features": 10},
        ],
    },
    "loss": "CrossEntropyLoss",
    "optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9},
    "batch_size": 64,
    "epochs": 2,
    "seed": 3,
    "checkpoint": {"every_seconds": 0.1},
}


def test_a_run_has_the_losses_of_the_textbook_loop(sets: Path, tmp_path: Path, augment: Augment) -> None:
    service = job(sets, tmp_path, CNN)
    service.attempt()

    recipe = textbook.Recipe(64, 2, seed=3, val=0.2)
    (x, y), val, _ = textbook.split(*textbook.digits(), recipe)
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(TensorDataset(x, y), 64, shuffle=True, generator=torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(4)
    losses, val_losses = [], []
    for _ in range(2):
        for xb, yb in loader:
            xb = (augment(xb, STEPS[:3], g) - torch.tensor(0.3)) / torch.tensor(0.25)
            xb = augment(xb, STEPS[4:], g)
            loss = criterion(model(xb), yb)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        val_losses.append(
            textbook.mean_loss(model, criterion, (val[0] - torch.tensor(0.3)) / torch.tensor(0.25), val[1], recipe)
        )
    assert service.ended[-1].state == "succeeded", service.stderr
    assert service.values("train/loss") == losses
    assert service.values("val/loss") == val_losses


def test_a_killed_run_draws_on_where_it_stood(sets: Path, tmp_path: Path) -> None:
    body = CNN | {"epochs": 30}
    calm = job(sets, tmp_path / "calm", body)
    calm.attempt()
    killed = job(sets, tmp_path / "killed", body)

    def kill_after_a_checkpoint(seen: Supervised, message: Message) -> str | None:
        return (
            "kill" if isinstance(message, Checkpointed) and len(seen.checkpoints) % 2 == 0 and len(seen.started) < 3 else None
        )

    while killed.attempt(kill_after_a_checkpoint) is None:
        assert len(killed.started) < 9
    assert len(killed.started) > 1
    assert all(started.resumed_from > 0 for started in killed.started[1:])
    assert killed.curve == calm.curve
    assert killed.digest() == calm.digest()


def test_one_hot_tokens(tmp_path: Path) -> None:
    x = np.array([[0, 2], [1, 1], [3, 0], [2, 2]])
    folder = prepared(tmp_path, npz(x=x, y=np.arange(4.0)))
    given = file_spec(
        "MSELoss",
        inputs={"x": {"array": "x", "dtype": "int64"}},
        transforms=[{"type": "OneHot", "num_classes": 5}, {"type": "GaussianNoise"}],
    )
    described = describe(given, folder).inputs["x"]
    assert (described.shape, described.dtype, described.integers) == ((2, 5), torch.float32, None)
    part = load(given, folder).train
    expected = torch.nn.functional.one_hot(torch.from_numpy(x), 5).float()[order(4)]
    assert torch.equal(part.slice(0, 4)["x"], expected)
    batch = next(Feed(part, 4, shuffle=False, drop_last=False, seed=7, device=torch.device("cpu")).epoch(0))["x"]
    assert torch.equal(batch, expected + (0.0 + 0.1 * torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(8))))


@pytest.mark.parametrize(
    ("step", "pointer", "words"),
    [
        ({"type": "Normalize", "mean": [0.1, 0.2], "std": [1.0, 1.0]}, "/dataset/transforms/0", "wants 1 figures, not 2"),
        ({"type": "OneHot"}, "/dataset/transforms/0", "int64"),
        ({"type": "RandomCrop", "padding": 1, "input": "image"}, "/dataset/transforms/0/input", "no input 'image'; there is x"),
    ],
)
def test_what_does_not_fit_an_image(sets: Path, step: dict[str, Any], pointer: str, words: str) -> None:
    given = spec({"type": "builtin", "name": "digits", "transforms": [step]})
    with pytest.raises(InvalidData) as caught:
        describe(given, sets / "digits")
    assert [(p.pointer, words in p.detail) for p in caught.value.problems] == [(pointer, True)]


def test_a_table_has_nothing_to_flip(sets: Path) -> None:
    given = spec({"type": "builtin", "name": "iris", "transforms": ["RandomHorizontalFlip", "GaussianNoise"]})
    with pytest.raises(InvalidData, match="wants images"):
        describe(given, sets / "iris")


def test_the_spec_stays_as_it_was_given() -> None:
    given = parse(CNN)
    assert given.long_form()["dataset"]["transforms"] == STEPS


def test_the_effective_spec_tells_every_argument(sets: Path) -> None:
    body = CNN | {"dataset": {"type": "builtin", "name": "digits", "transforms": ["RandomVerticalFlip"]}}
    found = check.respond({"spec": body, "dataset": str(sets / "digits")})["effective_spec"]["dataset"]["transforms"]
    assert found[0]["p"] == {"value": 0.5, "source": "default"}
    assert found[0]["type"] == {"value": "RandomVerticalFlip", "source": "given"}
