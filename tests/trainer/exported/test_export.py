"""What `postgrad.export` refuses, and why."""

from __future__ import annotations

import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import postgrad
from postgrad import ExportError
from workers.trainer.exported.program import read


class Forward(nn.Module):
    """A linear layer and a function of the module and its output."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.function, self.steps = nn.Linear(3, 3), function, 0
        self.noise = np.random.default_rng(0)
        self.register_buffer("seen", torch.zeros(3), persistent=False)
        self.total = torch.zeros(3)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, self.layer(x))


def counted(self: Any, y: Tensor) -> Tensor:
    self.steps += 1
    return torch.mul(y, self.steps)


def remembered(self: Any, y: Tensor) -> Tensor:
    self.seen.add_(y.detach().mean(0))
    return torch.add(y, self.seen)


def summed(self: Any, y: Tensor) -> Tensor:
    self.total.add_(1)
    return torch.add(y, self.total)


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "Python's random": (lambda _, y: y * random.random(), "draws from Python's `random` generator"),
    "numpy's random": (lambda _, y: y * float(np.random.rand()), "draws from numpy's generator"),
    "a generator of numpy's own": (lambda self, y: y * float(self.noise.random()), "two runs of the module with the same seed"),
    "control flow on values": (lambda _, y: y if y.sum() > 0 else -y, "decides by the values of a tensor"),
    "item": (lambda _, y: y * y.max().item(), "decides by the values of a tensor"),
    "a boolean index": (lambda _, y: y[y > 0], "decides by the values of a tensor"),
    "a counter": (counted, "changes steps"),
    "a buffer that is not kept": (remembered, "changes seen; make it a persistent buffer"),
    "a tensor that is no buffer": (summed, "changes total; make it a persistent buffer"),
    "a fixed batch": (lambda _, y: y.view(4, 3), "fails for a batch of 5 rows"),
    "a choice by the batch size": (lambda _, y: y if y.shape[0] == 4 else y.relu(), "this number of rows only"),
    "a dict": (lambda _, y: {"y": y}, "must return a tensor"),
    "nothing": (lambda *_: None, "must return a tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_carried_is_said(tmp_path: Path, name: str) -> None:
    function, sentence = REFUSED[name]
    with pytest.raises(ExportError, match=sentence):
        postgrad.export(Forward(function), torch.randn(4, 3), tmp_path / "m.pt2")
    assert not (tmp_path / "m.pt2").exists()


def test_batch_norm_with_a_cumulative_average_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="in train mode forward decides by the values"):
        postgrad.export(nn.BatchNorm1d(3, momentum=None), torch.randn(4, 3), tmp_path / "m.pt2")


def test_a_name_that_torch_export_has_taken_is_refused(tmp_path: Path) -> None:
    module = Forward(lambda self, y: y * self.graph)
    module.graph = nn.Parameter(torch.ones(3))
    with pytest.raises(ExportError, match="attribute 'graph' already exists"):
        postgrad.export(module, torch.randn(4, 3), tmp_path / "m.pt2")


def test_dtypes_and_shared_memory_are_refused(tmp_path: Path) -> None:
    path, example = tmp_path / "m.pt2", torch.randn(4, 3)
    with pytest.raises(ExportError, match=r"parameter weight is torch.float64"):
        postgrad.export(nn.Linear(3, 3).double(), example, path)
    half = nn.Linear(3, 3)
    half.register_buffer("scale", torch.ones(1, dtype=torch.float16))
    with pytest.raises(ExportError, match=r"buffer scale is torch.float16"):
        postgrad.export(half, example, path)
    view = nn.Linear(3, 3)
    view.bias = nn.Parameter(view.weight.data[0])
    with pytest.raises(ExportError, match="bias shares its memory with weight"):
        postgrad.export(view, example, path)


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        (torch.zeros(4, 3, dtype=torch.float64), "float32 or int64"),
        ([torch.zeros(4, 3)], "a tensor or a tuple"),
        (torch.zeros(0, 3), "one number of rows"),
        ((torch.zeros(4, 3), torch.zeros(5, 3)), "one number of rows"),
    ],
)
def test_a_bad_example_is_refused(tmp_path: Path, example: Any, sentence: str) -> None:
    with pytest.raises(ExportError, match=sentence):
        postgrad.export(nn.Linear(3, 3), example, tmp_path / "m.pt2")


def test_the_name_must_end_in_pt2(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"\.pt2"):
        postgrad.export(nn.Linear(3, 3), torch.zeros(2, 3), tmp_path / "model.pt")


def test_an_example_of_one_row_is_enough(tmp_path: Path) -> None:
    postgrad.export(nn.Linear(3, 2), torch.zeros(1, 3), tmp_path / "m.pt2")
    assert read(tmp_path / "m.pt2").build()(torch.zeros(7, 3)).shape == (7, 2)


def test_module_and_generators_are_left_as_they_were(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    before, example = {k: v.clone() for k, v in module.state_dict().items()}, torch.randn(4, 3)
    fast, generator = torch.backends.mha.get_fastpath_enabled(), torch.get_rng_state()
    postgrad.export(module.eval(), example, tmp_path / "m.pt2")
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in before.items())
    assert torch.equal(generator, torch.get_rng_state())
    assert not module.training
    assert all(p.grad is None for p in module.parameters())
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_no_line_of_source_and_no_pickle_is_in_the_file(tmp_path: Path) -> None:
    postgrad.export(Forward(lambda _, y: y.relu()), torch.randn(4, 3), tmp_path / "m.pt2")
    with zipfile.ZipFile(tmp_path / "m.pt2") as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist()}
    assert not any(b"test_export" in data or b"lambda" in data or b".py" in data for data in contents.values())
    assert [name for name, data in contents.items() if "sample_inputs" in name and data] == []
    assert sum("data/weights/weight_" in name for name in contents) == 2, "the weights are held once"


def test_importing_the_client_needs_no_torch() -> None:
    program = "import sys, postgrad, postgrad.client; assert 'torch' not in sys.modules; print(postgrad.export.__name__)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "export"
