"""The feed's draws, the recorder's blocks, and how a run ends: on its own, by request, or by a fault."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.trainer.fitting import criterion_of
from tests.trainer.supervised import Supervised, job, prepare
from tests.trainer.test_check import BINARY, NUMBERS
from workers.protocol import Incident, Message, Points, Started
from workers.trainer import recorder
from workers.trainer.data import Batch, Part
from workers.trainer.feed import Feed
from workers.trainer.loop import Stopped, evaluate
from workers.trainer.model import Model
from workers.trainer.nonfinite import Diverged
from workers.trainer.precision import Precision
from workers.trainer.recorder import Recorder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("sets"))


# ---- the feed


def part(rows: int) -> Part:
    return Part({"x": torch.arange(rows * 2, dtype=torch.float32).reshape(rows, 2), "y": torch.arange(rows)})


@pytest.mark.parametrize("rows", [1, 7, 8, 31, 1000])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_the_feed_gives_what_dataloader_gives(rows: int, shuffle: bool, drop_last: bool) -> None:
    data = part(rows)
    generator = torch.Generator().manual_seed(9)
    loader = DataLoader(
        TensorDataset(data.fields["x"], data.fields["y"]), 8, shuffle=shuffle, drop_last=drop_last, generator=generator
    )
    feed = Feed(data, 8, shuffle=shuffle, drop_last=drop_last, seed=9, device=CPU)
    before = torch.get_rng_state()
    for _ in range(3):
        expected, given = list(loader), list(feed.epoch(0))
        assert len(expected) == len(given) == feed.batches
        for (x, y), batch in zip(expected, given, strict=True):
            assert torch.equal(x, batch["x"])
            assert torch.equal(y, batch["y"])
        assert torch.equal(generator.get_state(), feed.state()["generator"])
    assert torch.equal(before, torch.get_rng_state()), "torch's default generator was touched"


def test_the_feed_goes_on_in_the_middle_of_an_epoch() -> None:
    whole = Feed(part(30), 4, shuffle=True, drop_last=False, seed=1, device=CPU)
    expected = [batch["y"].tolist() for _ in range(3) for batch in whole.epoch(0)]
    first = Feed(part(30), 4, shuffle=True, drop_last=False, seed=1, device=CPU)
    seen = [batch["y"].tolist() for batch in first.epoch(0)]
    under_way = first.epoch(0)
    seen += [next(under_way)["y"].tolist() for _ in range(3)]
    second = Feed(part(30), 4, shuffle=True, drop_last=False, seed=1, device=CPU)
    second.restore(first.state())
    seen += [batch["y"].tolist() for done in (3, 0) for batch in second.epoch(done)]
    assert seen == expected


# ---- the recorder


def recording(monkeypatch: pytest.MonkeyPatch, block: int) -> tuple[Recorder, list[Points]]:
    sent: list[Points] = []

    def send(message: Points | Incident) -> None:
        assert isinstance(message, Points)
        sent.append(message)

    made = Recorder(send, CPU)
    monkeypatch.setattr(made, "_block", block)
    return made, sent


def curve(sent: list[Points]) -> dict[str, list[tuple[int, float]]]:
    points: dict[str, list[tuple[int, float]]] = {}
    for message in sent:
        for name, (steps, values) in message.series.items():
            points.setdefault(name, []).extend(zip(steps.tolist(), values.tolist(), strict=True))
    return points


@pytest.mark.parametrize("block", [1, 4, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_are_exact_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch, block: int, dtype: torch.dtype) -> None:
    losses = torch.randn(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    made, sent = recording(monkeypatch, block)
    for number, loss in enumerate(losses, start=1):
        made.progressed(1, number, 4)
        made.add("train/loss", number, loss)
        made.flush_if_due()
    assert made.epoch_mean() == sum(loss.item() for loss in losses) / 10
    made.flush()
    assert curve(sent) == {"train/loss": [(n, loss.item()) for n, loss in enumerate(losses, start=1)]}
    assert (sent[-1].epoch, sent[-1].iteration) == (1, 10)


@pytest.mark.parametrize("block", [1, 4, 100])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_loss_is_the_last_point(monkeypatch: pytest.MonkeyPatch, block: int, bad: float) -> None:
    made, sent = recording(monkeypatch, block)

    def iterations() -> None:
        for number in range(1, 11):
            made.progressed(1, number, 4)
            made.add("train/loss", number, torch.tensor(bad if number >= 6 else 0.5))
            made.add("grad_norm", number, torch.tensor(1.0))
            made.add("lr", number, 0.1)
        made.flush()

    with pytest.raises(Diverged, match="at iteration 6"):
        iterations()
    made.send()
    points = curve(sent)
    assert [step for step, _ in points["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert str(points["train/loss"][-1][1]) == str(bad)
    assert [step for step, _ in points["grad_norm"]][:5] == [1, 2, 3, 4, 5]
    assert max(step for name in points for step, _ in points[name]) == 6
    assert sent[-1].iteration == 6


def test_the_first_point_leaves_at_once_and_the_rate_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    made, sent = recording(monkeypatch, 1)
    for number in range(1, 41):
        made.progressed(1, number, 32)
        made.add("train/loss", number, torch.tensor(1.0))
        made.flush_if_due()
        now[0] += 0.01
    assert [len(m.series["train/loss"][0]) for m in sent[:3]] == [1, 10, 10]
    assert sent[0].samples_per_second is None
    assert sent[-1].samples_per_second == pytest.approx(3200, rel=0.05)


# ---- how a run ends

SMALL: dict[str, Any] = {
    "dataset": {"type": "builtin", "name": "iris"},
    "split": {"train": 0.8, "val": 0.2},
    "model": {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 3}]},
    "loss": "CrossEntropyLoss",
    "optimizer": {"type": "SGD", "lr": 0.1},
    "batch_size": 10,
    "epochs": 2,
}
ENDLESS = SMALL | {"epochs": 100_000}


def started(do: str) -> Any:
    def watch(job: Supervised, message: Message) -> str | None:
        return do if isinstance(message, Points) and len(job.curve["train/loss"]) > 1 and not job.ended else None

    return watch


def test_what_a_run_says(sets: Path, tmp_path: Path) -> None:
    small = job(sets, tmp_path, SMALL | {"metrics": ["MulticlassAccuracy"]})
    ended = small.attempt()
    assert ended is not None
    assert (ended.state, ended.reason) == ("succeeded", None)
    start = small.started[0]
    assert (start.iterations, start.resumed_from, start.notes) == (24, 0, [])
    assert start.parameters == {"total": 15, "trainable": 15}
    assert start.environment["threads"] == 1
    assert start.environment["torch"] == torch.__version__
    assert set(small.curve) == {"train/loss", "val/loss", "lr", "train/MulticlassAccuracy", "val/MulticlassAccuracy"}
    assert small.iteration == 24
    artifacts = {p.name for p in (tmp_path / "artifacts").iterdir()}
    assert artifacts == {"model.safetensors", "model.best.safetensors", "spec.json"}
    assert json.loads((tmp_path / "artifacts" / "spec.json").read_text()) == json.loads(small.assignment.spec)


def test_a_cancel_stops_it_and_keeps_what_it_has(sets: Path, tmp_path: Path) -> None:
    endless = job(sets, tmp_path, ENDLESS)
    ended = endless.attempt(started("cancel"))
    assert ended is not None
    assert ended.state == "cancelled", endless.stderr
    assert list(endless.curve["train/loss"]) == list(range(1, endless.iteration + 1))
    assert endless.weights()


def test_a_loss_that_refuses_what_is_not_finite_diverges_as_any_other(sets: Path, tmp_path: Path) -> None:
    """BCELoss raises for NaN, which is no number in [0, 1]."""
    spec = SMALL | {"dataset": {"type": "builtin", "name": "breast_cancer"}, "loss": "BCELoss", "metrics": ["BinaryAccuracy"]}
    layers = [{"type": "Linear", "out_features": size} for size in (8, 8, 1)]
    spec["model"] = {"type": "Sequential", "layers": [*layers, "BatchNorm1d", "Sigmoid"]}
    spec["optimizer"] = {"type": "SGD", "lr": 1e6, "weight_decay": 1e6}
    wild = job(sets, tmp_path, spec)
    ended = wild.attempt()
    assert ended is not None
    assert (ended.state, ended.reason) == ("failed", "diverged"), wild.stderr
    losses = wild.values("train/loss")
    assert math.isnan(losses[-1])
    assert all(math.isfinite(v) for v in losses[:-1])
    assert (ended.message or "").startswith(f"train/loss became nan at iteration {len(losses)}: ")


def test_a_validation_loss_that_refuses_what_is_not_finite_diverges_too() -> None:
    steps = Mock(batch_size=4, loss=criterion_of("BCELoss", BINARY, {"output": (1,)}), precision=Precision("32-true", CPU))
    steps.model = Model(nn.Threshold(0, math.nan), ["x"], ["output"])
    steps.guard.strict, steps.eval_metrics.names = False, []
    report = Mock()
    validation = Part({"x": torch.tensor([[0.5], [-1.0]]), "y": torch.ones(2, 1)})
    with pytest.raises(Diverged, match="val/loss became nan after iteration 3"):
        evaluate(steps, validation, "val", 3, report, lambda: None)
    assert math.isnan(report.add.call_args.args[2])


def test_a_loss_says_what_it_refuses_of_finite_outputs() -> None:
    loss = criterion_of("BCELoss", BINARY, {"output": (1,)})
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        loss({"output": torch.full((2, 1), 1.5)}, {"y": torch.ones(2, 1)})


def test_a_timeout_fails_it(sets: Path, tmp_path: Path) -> None:
    endless = job(sets, tmp_path, ENDLESS | {"timeout_seconds": 1})
    ended = endless.attempt()
    assert ended is not None
    assert (ended.state, ended.reason) == ("failed", "timeout")
    assert "1" in (ended.message or "")


def test_a_diverging_run_ends_with_its_bad_point(sets: Path, tmp_path: Path) -> None:
    spec = SMALL | {"dataset": {"type": "builtin", "name": "diabetes"}, "loss": "MSELoss", "epochs": 50}
    spec["model"] = {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 1}]}
    spec["optimizer"] = {"type": "SGD", "lr": 1e6}
    wild = job(sets, tmp_path, spec)
    ended = wild.attempt()
    assert ended is not None
    assert (ended.state, ended.reason) == ("failed", "diverged"), wild.stderr
    losses = wild.values("train/loss")
    assert not math.isfinite(losses[-1])
    assert all(math.isfinite(v) for v in losses[:-1])
    assert f"iteration {len(losses)}" in (ended.message or "")
    assert "Traceback" not in wild.stderr


def test_data_that_is_not_there(sets: Path, tmp_path: Path) -> None:
    lost = job(sets / "nowhere", tmp_path, SMALL)
    ended = lost.attempt()
    assert ended is not None
    assert (ended.state, ended.reason, ended.pointer) == ("failed", "invalid_data", "/dataset")
    assert lost.started == []


def test_any_exception_is_an_error_with_its_traceback_in_the_log(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr("workers.trainer.loop.end_epoch", broken)
    faulty = job(sets, tmp_path, SMALL)
    ended = faulty.attempt()
    assert ended is not None
    assert (ended.state, ended.reason, ended.message) == ("failed", "error", "ZeroDivisionError: by chance")
    assert "Traceback" in faulty.stderr
    assert list(faulty.curve["train/loss"]) == list(range(1, 13)), "the points before the fault are kept"


def test_memory_that_is_not_there(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: Any) -> None:
        torch.empty(2**60)

    monkeypatch.setattr("workers.trainer.loop.end_epoch", greedy)
    ended = job(sets, tmp_path, SMALL).attempt()
    assert ended is not None
    assert (ended.state, ended.reason) == ("failed", "out_of_memory")


def test_when_the_supervisor_is_gone_it_goes_quietly(sets: Path, tmp_path: Path) -> None:
    orphan = job(sets, tmp_path, ENDLESS)
    assert orphan.attempt(started("vanish")) is None
    assert "Traceback" not in orphan.stderr
    assert not (tmp_path / "artifacts").exists()


class Quiet:
    """No metrics."""

    def update(self, _outputs: Batch, _batch: Batch) -> None: ...
    def reset(self) -> None: ...
    def compute(self) -> dict[str, float]:
        return {}

    names: tuple[str, ...] = ()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_evaluation_by_hand(reduction: str) -> None:
    """The loss over an odd last batch; and a layer that draws in eval mode too leaves the generator as it was."""
    model = nn.Sequential(nn.FractionalMaxPool2d(2, output_size=1), nn.Dropout(0.5), nn.Flatten())
    x, y = torch.ones(10, 1, 4, 4), torch.arange(10.0)[:, None]
    criterion = criterion_of({"type": "MSELoss", "reduction": reduction}, NUMBERS, {"output": (1,)})
    steps = Mock(model=Model(model, ["x"], ["output"]), loss=criterion, eval_metrics=Quiet(), batch_size=4)
    steps.precision, steps.guard.strict = Precision("32-true", CPU), False
    part, bad = Part({"x": x, "y": y}), Part({"x": x * math.nan, "y": y})
    made = Recorder(lambda _: None, CPU)
    before = torch.get_rng_state()
    measured = evaluate(steps, part, "val", 3, made, lambda: "give_back")
    assert measured == pytest.approx({"val/loss": float(((y - 1) ** 2).mean())})
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    with pytest.raises(Stopped):
        evaluate(steps, part, "val", 3, made, lambda: "cancel")
    with pytest.raises(Diverged, match="val/loss became nan after iteration 3"):
        evaluate(steps, bad, "val", 3, made, lambda: None)


def test_first_message_is_started(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "FLUSH_SECONDS", 1e9)
    kinds: list[type[Message]] = []
    job(sets, tmp_path, SMALL).attempt(lambda _job, message: kinds.append(type(message)))
    assert kinds[:2] == [Started, Points]
    assert [k.__name__ for k in kinds] == ["Started", "Points", "Points", "Checkpointed", "Ended"]
