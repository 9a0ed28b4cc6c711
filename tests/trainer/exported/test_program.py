"""What a program tells of itself, and what the module made of it does beside training."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import postgrad
from tests.trainer.exported.architectures import ARCHITECTURES
from workers.trainer.exported.problem import UnreadableProgram
from workers.trainer.exported.program import read

File = Callable[[str], Path]


def test_it_describes_inputs_outputs_and_parameters(exported: File) -> None:
    described = read(exported("categories_and_two_outputs")).describe()
    assert described["inputs"] == [
        {"name": "numbers", "dtype": "float32", "shape": [None, 3]},
        {"name": "categories", "dtype": "int64", "shape": [None, 2]},
    ]
    assert [output["shape"] for output in described["outputs"]] == [[None, 3], [None, 1]]
    module, _ = ARCHITECTURES["categories_and_two_outputs"]()
    count = sum(p.numel() for p in module.parameters())
    assert described["parameters"] == {"total": count, "trainable": count}
    assert described["torch"] == torch.__version__


def test_tied_weights_are_one_parameter_and_counted_once(exported: File) -> None:
    program = read(exported("gpt_with_tied_weights"))
    module, _ = ARCHITECTURES["gpt_with_tied_weights"]()
    assert program.parameters()["total"] == sum(p.numel() for p in module.parameters())
    built = program.build()
    assert built.state_dict()["head.weight"].data_ptr() == built.state_dict()["embed.weight"].data_ptr()


def test_frozen_parameters_stay_frozen(exported: File) -> None:
    program = read(exported("bilinear_with_a_frozen_layer"))
    frozen = {name for name, p in program.build().named_parameters() if not p.requires_grad}
    assert frozen == {"frozen.weight", "frozen.bias"}
    assert program.parameters()["total"] - program.parameters()["trainable"] == 4 * 4 + 4


def test_weights_of_the_user_load_and_save(exported: File) -> None:
    built = read(exported("resnet")).build()
    torch.manual_seed(9)
    module, inputs = ARCHITECTURES["resnet"]()
    built.load_state_dict(module.state_dict())
    file = io.BytesIO()
    torch.save(built.state_dict(), file)
    file.seek(0)
    module.load_state_dict(torch.load(file, weights_only=True))
    batch = inputs(2)
    assert torch.equal(built.eval()(*batch), module.eval()(*batch))


def test_a_copy_has_weights_of_its_own(exported: File) -> None:
    built = read(exported("mlp")).build().eval()
    other = copy.deepcopy(built)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    batch = torch.randn(2, 6)
    assert other(batch).abs().sum() == 0
    assert built(batch).abs().sum() > 0


def test_it_moves_to_another_device(exported: File) -> None:
    built = read(exported("transformer_encoder_with_masks")).build().to("meta")
    outputs = built(torch.zeros(3, 6, dtype=torch.int64, device="meta"))
    assert outputs.device.type == "meta"
    assert outputs.shape == (3, 6, 20)


def test_building_draws_no_random_numbers(exported: File) -> None:
    path = exported("variational_autoencoder")
    before = torch.get_rng_state()
    read(path).build()
    assert torch.equal(before, torch.get_rng_state())


def test_a_wrong_number_of_inputs_is_said(exported: File) -> None:
    with pytest.raises(TypeError, match="takes 2 inputs, not 1"):
        read(exported("siamese_with_two_inputs")).build()(torch.zeros(2, 6))


def test_more_rows_than_it_could_hold_are_refused_on_the_meta_device(exported: File) -> None:
    with pytest.raises(UnreadableProgram, match="elements are allowed"):
        read(exported("mlp")).run_on_meta("train", 10**9)


class Names(nn.Module):
    """Parameters under names that a module with methods of its own might take."""

    def __init__(self) -> None:
        super().__init__()
        self.use, self.hold, self.run = (nn.Parameter(torch.randn(3)) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.use + self.hold - self.run


def test_names_of_its_own_do_not_get_in_the_way(tmp_path: Path) -> None:
    postgrad.export(Names(), torch.zeros(2, 3), tmp_path / "names.pt2")
    assert list(read(tmp_path / "names.pt2").build().state_dict()) == ["use", "hold", "run"]


def test_sparse_gradients_stay_sparse(tmp_path: Path) -> None:
    module = nn.Embedding(10, 3, sparse=True)
    postgrad.export(module, torch.tensor([[1, 2], [3, 3]]), tmp_path / "sparse.pt2")
    built = read(tmp_path / "sparse.pt2").build()
    for model in (built, module):
        model(torch.tensor([[1, 1]])).sum().backward()
    weight = next(built.parameters())
    assert weight.grad is not None
    assert module.weight.grad is not None
    assert weight.grad.is_sparse
    assert torch.equal(weight.grad.to_dense(), module.weight.grad.to_dense())


def test_a_module_under_two_names_is_one_module(tmp_path: Path) -> None:
    shared = nn.Linear(4, 4)
    module = nn.Sequential(shared, nn.ReLU(), shared)
    postgrad.export(module, torch.zeros(2, 4), tmp_path / "shared.pt2")
    built = read(tmp_path / "shared.pt2").build()
    assert [name for name, _ in built.named_parameters()] == [name for name, _ in module.named_parameters()]
    assert list(built.state_dict()) == list(module.state_dict())
