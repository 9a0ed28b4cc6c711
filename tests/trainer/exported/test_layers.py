"""Every layer of torch.nn that takes one tensor goes through an exported file with the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import postgrad
from tests.trainer.exported.layers import LAYERS
from tests.trainer.exported.test_equality import train
from workers.trainer.exported.program import read

# torch.export fixes the batch size of both: one asks for the size in Python, the other is an autograd function in Python.
NOT_CARRIED = dict.fromkeys(("FractionalMaxPool3d", "CrossMapLRN2d"), "works for this number of rows only")


class Wrapped(nn.Module):
    """A layer with parameters before it, so that there is something to train."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.rand(shape) + 0.5), layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x * self.scale)  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_trains_to_the_same_bits(tmp_path: Path, name: str) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    eager = Wrapped(make(), shape)
    if name in NOT_CARRIED:
        with pytest.raises(postgrad.ExportError, match=NOT_CARRIED[name]):
            postgrad.export(eager, torch.randn(4, *shape), tmp_path / "m.pt2")
        return
    postgrad.export(eager, torch.randn(4, *shape), tmp_path / "m.pt2")
    batches: list[tuple[torch.Tensor, ...]] = [(torch.randn(rows, *shape),) for rows in (4, 3)]
    ours, textbook = (train(model, batches, batches[0]) for model in (read(tmp_path / "m.pt2").build(), eager))
    assert ours.losses == textbook.losses
    assert all(torch.equal(*pair) for pair in zip(ours.validation, textbook.validation, strict=True))
    assert all(torch.equal(ours.state[key], value) for key, value in textbook.state.items())
    assert torch.equal(ours.generator, textbook.generator)
