"""`on_nonfinite`: what is kept, skipped or gone back from, bit for bit as the plain loop with the same rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.nonfinite_textbook import BAD_ROWS, BATCH, SPEC, Plain, spiked
from tests.trainer.supervised import Supervised, job, prepare
from workers.protocol import Ended, Message, Points
from workers.trainer import recorder
from workers.trainer.attempt import Attempt
from workers.trainer.exploding import WINDOW, Exploding
from workers.trainer.nonfinite import Guard
from workers.trainer.recorder import Recorder


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("sets"))
    spiked(folder / "spiked")
    return folder


@pytest.fixture(autouse=True)
def _one_thread_and_points_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(recorder, "FLUSH_SECONDS", 0.0)


def spiked_job(sets: Path, folder: Path, on_nonfinite: Any, **members: Any) -> Supervised:
    """A member that is None is left out."""
    spec = SPEC | {"on_nonfinite": on_nonfinite} | members
    return job(sets, folder, {k: v for k, v in spec.items() if v is not None}, dataset=str(sets / "spiked"))


def ended(run: Supervised, state: str = "succeeded") -> Ended:
    run.attempt()
    assert run.ended[-1].state == state, run.stderr or run.ended[-1]
    return run.ended[-1]


def bits(values: dict[int, float]) -> list[tuple[int, str]]:
    return [(step, value.hex()) for step, value in values.items()]


def same(run: Supervised, plain: Plain) -> None:
    assert bits(run.curve["train/loss"]) == bits(plain.losses)
    assert bits(run.curve["lr"]) == bits(plain.lr)
    weights = run.weights()
    expected = plain.model.state_dict()
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


# ---- skip


def test_skip_is_the_plain_loop_that_makes_no_update(sets: Path, tmp_path: Path) -> None:
    run, plain = spiked_job(sets, tmp_path, "skip"), Plain("skip").run()
    ended(run)
    assert len(plain.bad) >= 4, "the bad rows come once an epoch"
    same(run, plain)
    assert [i.iteration for i in run.incidents] == list(plain.bad)
    for incident in run.incidents:
        assert incident.event == "skipped"
        assert incident.rows == plain.bad[incident.iteration][:10]
        guilty = [str(row) for row in plain.bad[incident.iteration] if row in BAD_ROWS]
        assert f"not finite by itself: row{'s' if len(guilty) > 1 else ''} {', '.join(guilty)} of" in incident.text


@pytest.mark.parametrize(
    "members",
    [
        {"optimizer": {"type": "LBFGS", "lr": 0.1, "max_iter": 2}, "max_grad_norm": None},
        {"accumulate_grad_batches": 3, "metrics": ["MeanAbsoluteError"], "split": {"train": 0.8, "val": 0.2}},
        {"precision": "16-mixed", "exact": False},
    ],
    ids=["LBFGS", "accumulated", "scaled"],
)
def test_skip_goes_on_with_every_kind_of_step(sets: Path, tmp_path: Path, members: dict[str, Any]) -> None:
    run = spiked_job(sets, tmp_path, "skip", **members)
    ended(run)
    losses = run.curve["train/loss"]
    bad = [step for step, loss in losses.items() if not math.isfinite(loss)]
    assert bad == [i.iteration for i in run.incidents]
    assert bad
    assert list(losses) == list(range(1, run.started[0].iterations + 1)), "no gap"
    assert all(bool(tensor.isfinite().all()) for tensor in run.weights().values())


def test_a_validation_that_is_not_finite_is_data_under_skip(sets: Path, tmp_path: Path) -> None:
    """With every row in the training part but one bad one, that one makes each validation infinite."""
    run = spiked_job(sets, tmp_path, "skip", split={"train": 0.5, "val": 0.5}, metrics=["MeanSquaredError"])
    ended(run)
    assert run.values("val/loss") == [math.inf] * 4
    assert all(math.isnan(value) for value in run.values("val/MeanSquaredError"))
    assert not (tmp_path / "artifacts" / "model.best.safetensors").exists(), "nothing was ever best"


def test_an_epoch_without_an_update_ends_the_run(sets: Path, tmp_path: Path) -> None:
    run = spiked_job(sets, tmp_path, "skip", batch_size=442)
    last = ended(run, "failed")
    assert (last.reason, len(run.values("train/loss"))) == ("diverged", 1)
    assert (last.message or "").startswith("no iteration of epoch 1 could make its update")


# ---- rollback


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_rollback_is_the_plain_loop_that_begins_its_epoch_again(sets: Path, tmp_path: Path, factor: float) -> None:
    rule = {"type": "rollback", "lr_factor": factor, "max_rollbacks": 20}
    run, plain = spiked_job(sets, tmp_path, rule), Plain("rollback", factor).run()
    ended(run)
    same(run, plain)
    assert [(i.event, i.iteration) for i in run.incidents] == [("rolled_back", n) for n in plain.bad]
    per_epoch = math.ceil(442 / BATCH)
    assert [i.back_to for i in run.incidents] == [(n - 1) // per_epoch * per_epoch for n in plain.bad]
    assert ("with learning rates times 0.5" in run.incidents[0].text) == (factor == 0.5)


def test_rollbacks_are_counted(sets: Path, tmp_path: Path) -> None:
    run = spiked_job(sets, tmp_path, {"type": "rollback", "max_rollbacks": 1})
    last = ended(run, "failed")
    assert last.reason == "diverged"
    assert "on_nonfinite allows 1 rollbacks and this would be number 2" in (last.message or "")
    assert [i.event for i in run.incidents] == ["rolled_back"]


def test_a_rollback_that_would_change_nothing_is_not_made(sets: Path, tmp_path: Path) -> None:
    run = spiked_job(sets, tmp_path, "rollback", split={"train": 0.5, "val": 0.5}, seed=5)
    last = ended(run, "failed")
    assert last.reason == "diverged"
    assert "val/loss became inf" in (last.message or "")
    assert "lr_factor" in (last.message or "")


EXPLOSIVE: dict[str, Any] = SPEC | {
    "model": {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 1}]},
    "optimizer": {"type": "SGD", "lr": 30.0},
    "batch_size": 442,
    "epochs": 60,
}
del EXPLOSIVE["lr_scheduler"], EXPLOSIVE["max_grad_norm"]


def test_a_lower_rate_saves_a_run_that_was_too_fast(sets: Path, tmp_path: Path) -> None:
    rule = {"type": "rollback", "lr_factor": 0.001, "max_rollbacks": 10}
    wild = EXPLOSIVE | {"batch_size": 10, "epochs": 5, "on_nonfinite": rule}
    run = job(sets, tmp_path, wild)
    ended(run)
    assert run.incidents
    assert run.values("train/loss")[-1] < 1e5
    assert min(run.values("lr")) < 30.0


# ---- resumes


@pytest.mark.parametrize("on_nonfinite", ["skip", {"type": "rollback", "lr_factor": 0.7, "max_rollbacks": 20}], ids=str)
@pytest.mark.parametrize("stops", [(9, 20, 33), (14, 15, 40), (1, 2, 28)])
def test_what_was_skipped_or_gone_back_from_resumes_bit_for_bit(
    sets: Path, tmp_path: Path, on_nonfinite: Any, stops: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = spiked_job(sets, tmp_path / "whole", on_nonfinite)
    ended(whole)
    due = iter(range(1, 10_000))
    monkeypatch.setattr("workers.trainer.attempt.Attempt._checkpoint_due", lambda _attempt: next(due) % 3 == 0)
    disturbed = spiked_job(sets, tmp_path / "disturbed", on_nonfinite)
    for stop in stops:
        disturbed.attempt(killed_at(stop))
    if not disturbed.ended:
        ended(disturbed)
    assert {n: bits(p) for n, p in disturbed.curve.items()} == {n: bits(p) for n, p in whole.curve.items()}
    assert disturbed.digest() == whole.digest()
    assert disturbed.digest("model.best.safetensors") == whole.digest("model.best.safetensors")


def killed_at(iteration: int) -> Callable[[Supervised, Message], str | None]:
    return lambda _job, message: "kill" if isinstance(message, Points) and message.iteration >= iteration else None


# ---- fail


def test_fail_keeps_the_weights_before_the_loss_that_was_not_finite(sets: Path, tmp_path: Path) -> None:
    run, plain = spiked_job(sets, tmp_path, "fail"), Plain("skip").run()
    last = ended(run, "failed")
    first = min(plain.bad)
    assert last.reason == "diverged"
    message = last.message or ""
    assert message.startswith(
        f"train/loss became inf at iteration {first}: the loss of iteration {first} is inf; its batch is rows"
    )
    assert f"rows {', '.join(map(str, plain.bad[first][:10]))} and 22 more of the data set" in message
    assert message.endswith(f"model.safetensors has the weights after iteration {first - 1}")
    assert list(run.curve["train/loss"]) == list(range(1, first + 1))
    same_weights(run, plain_weights_after(first - 1))


def plain_weights_after(iteration: int) -> dict[str, Tensor]:
    """Of the plain loop, stopped there."""

    class Enough(Exception):
        pass

    class Stopping(Plain):
        def step(self, x: Tensor, y: Tensor, numbers: Tensor) -> bool:
            if self.iteration == iteration:
                raise Enough
            return super().step(x, y, numbers)

    plain = Stopping("skip")
    with pytest.raises(Enough):
        plain.run()
    return {name: tensor.clone() for name, tensor in plain.model.state_dict().items()}


def same_weights(run: Supervised, expected: dict[str, Tensor]) -> None:
    weights = run.weights()
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_fail_names_the_update_that_broke_the_weights(sets: Path, tmp_path: Path) -> None:
    """RMSprop without eps divides 0 by 0 where a gradient is 0: the loss before was finite."""
    spec = SPEC | {"optimizer": {"type": "RMSprop", "lr": 0.01, "eps": 0.0}, "batch_size": 2, "drop_last": True}
    run = job(sets, tmp_path, spec)
    last = ended(run, "failed")
    losses = run.values("train/loss")
    assert math.isnan(losses[-1])
    assert all(map(math.isfinite, losses[:-1]))
    assert f"the update of iteration {len(losses) - 1} left " in (last.message or "")
    assert f"model.safetensors has the weights after iteration {len(losses) - 2}" in (last.message or "")
    assert all(bool(tensor.isfinite().all()) for tensor in run.weights().values())


@pytest.mark.parametrize("on_nonfinite", ["skip", {"type": "rollback"}])
def test_no_skipping_mends_weights_that_are_broken(sets: Path, tmp_path: Path, on_nonfinite: Any) -> None:
    optimizer = {"type": "RMSprop", "lr": 0.01, "eps": 0.0}
    run = job(sets, tmp_path, SPEC | {"optimizer": optimizer, "batch_size": 2, "drop_last": True, "on_nonfinite": on_nonfinite})
    last = ended(run, "failed")
    assert last.reason == "diverged"
    assert "left 0." in (last.message or "") or "left 4." in (last.message or "")
    assert all(bool(tensor.isfinite().all()) for tensor in run.weights().values())


def test_a_large_model_falls_back_to_its_checkpoint(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No copies of it are kept. The newest checkpoint was written after the update that broke the weights."""
    monkeypatch.setattr("workers.trainer.last_finite.MOST_BYTES", 10)
    monkeypatch.setattr("workers.trainer.attempt.Attempt._checkpoint_due", lambda _attempt: True)
    schedule = {"type": "LambdaLR", "lr_lambda": "1 if epoch < 3 else 1e40", "interval": "iteration"}
    run = job(sets, tmp_path, EXPLOSIVE | {"optimizer": {"type": "SGD", "lr": 0.01}, "lr_scheduler": schedule})
    last = ended(run, "failed")
    assert len(run.values("train/loss")) == 5
    assert "the update of iteration 4 left " in (last.message or "")
    assert (last.message or "").endswith("model.safetensors has the weights after iteration 3")
    assert all(bool(tensor.isfinite().all()) for tensor in run.weights().values())


def test_a_device_that_ran_ahead_of_its_losses(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: losses are read in blocks, and by then the weights are infinite."""
    real = Recorder.__init__

    def in_blocks(self: Recorder, *arguments: Any, **more: Any) -> None:
        real(self, *arguments, **more)
        self._block = 4

    monkeypatch.setattr(recorder, "FLUSH_SECONDS", 1e9)
    monkeypatch.setattr(Recorder, "__init__", in_blocks)
    monkeypatch.setattr(Guard, "accepts", lambda *_: True)
    monkeypatch.setattr(Attempt, "_ahead", property(lambda _attempt: True))
    plain = Plain("skip").run()
    run = spiked_job(sets, tmp_path, "fail", batch_size=BATCH)
    last = ended(run, "failed")
    first = min(plain.bad)
    boundary = (first - 1) // 4 * 4
    assert list(run.curve["train/loss"]) == list(range(1, first + 1))
    assert f"the loss of iteration {first} is not finite; its batch is rows {plain.bad[first][0]}, " in (last.message or "")
    assert (last.message or "").endswith(f"model.safetensors has the weights after iteration {boundary}")
    same_weights(run, plain_weights_after(boundary))


# ---- exploding


def alarms(losses: list[float]) -> list[int]:
    watcher = Exploding()
    return [step for step, loss in enumerate(losses, 1) if watcher.observe(loss) is not None]


def test_an_explosion_is_told_once_however_slow() -> None:
    calm = [1.0 + 0.1 * math.sin(step) for step in range(200)]
    assert alarms(calm) == []
    assert alarms([*calm, 5e3, *calm, 6e3]) == [201, 402]
    assert alarms([*calm, *(5e3 for _ in range(100))]) == [201]
    slow = alarms([1.05**step for step in range(400)])
    assert len(slow) == 1
    assert 1000 < 1.05 ** (slow[0] - 1) < 3000


def test_no_false_alarm() -> None:
    assert alarms([10.0**step for step in range(WINDOW)]) == [], "not at the start"
    assert alarms([1.0] * 40 + [1e-9] * 100 + [0.5, 0.9]) == [], "not below the level it began at"
    assert alarms([math.nan, math.inf] * 100) == []
    assert alarms([-1.0] * 50 + [-5.0] * 50) == []


def test_an_explosion_is_an_incident_of_a_run_that_goes_on(sets: Path, tmp_path: Path) -> None:
    spec = EXPLOSIVE | {"optimizer": {"type": "SGD", "lr": 0.27}}
    run = job(sets, tmp_path, spec)
    ended(run)
    (incident,) = run.incidents
    assert incident.event == "exploding"
    assert f"iteration {incident.iteration}: the loss is" in incident.text
    loss = run.curve["train/loss"][incident.iteration]
    assert f"{loss:.6g}" in incident.text
