"""An exported module trains to the same bits as the module itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.exported.architectures import ARCHITECTURES
from tests.trainer.exported.conftest import ENTERED
from workers.trainer.exported.program import read

# These take torch.export two seconds or more, and what they use is in another one too.
LONG = {
    "bidirectional_lstm",
    "lstm_with_projection",
    "recurrent_cells",
    "rnn_relu",
    "sequence_to_sequence_with_attention",
    "transformer_encoder_post_norm",
    "transformer_with_decoder",
    "vgg",
}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in ARCHITECTURES]


@dataclass
class Trained:
    losses: list[float]
    norms: list[float]
    validation: list[Tensor]
    state: dict[str, Tensor]
    parameters: list[str]
    generator: Tensor


def tensors(outputs: Any) -> list[Tensor]:
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


def train(model: nn.Module, batches: list[tuple[Tensor, ...]], held_out: tuple[Tensor, ...]) -> Trained:
    """Two epochs of the textbook loop, the last batch of each shorter, with a validation after each."""
    torch.manual_seed(5)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    losses, norms, validation = [], [], []
    for _ in range(2):
        model.train()
        for batch in batches:
            loss = torch.stack([output.square().mean() for output in tensors(model(*batch))]).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            validation += tensors(model(*held_out))
    names = [name for name, _ in model.named_parameters()]
    return Trained(losses, norms, validation, dict(model.state_dict()), names, torch.get_rng_state())


def test_there_are_at_least_thirty_without_the_long_ones() -> None:
    assert len(ENTERED) == 3
    assert len(ARCHITECTURES) - len(LONG) >= 30


@pytest.mark.parametrize("name", NAMES)
def test_losses_weights_and_validation_are_the_same(exported: Callable[[str], Path], name: str) -> None:
    path = exported(name)
    torch.manual_seed(0)
    eager, inputs = ARCHITECTURES[name]()
    torch.manual_seed(1)
    batches, held_out = [inputs(rows) for rows in (4, 4, 3)], inputs(5)

    ours, textbook = train(read(path).build(), batches, held_out), train(eager, batches, held_out)

    assert ours.losses == textbook.losses
    assert len(set(textbook.losses)) == len(textbook.losses), "the loss never moved"
    assert ours.norms == textbook.norms
    assert all(torch.equal(*pair) for pair in zip(ours.validation, textbook.validation, strict=True))
    assert ours.parameters == textbook.parameters
    assert list(ours.state) == list(textbook.state)
    assert all(torch.equal(ours.state[key], value) for key, value in textbook.state.items())
    assert torch.equal(ours.generator, textbook.generator), "they drew other random numbers"
