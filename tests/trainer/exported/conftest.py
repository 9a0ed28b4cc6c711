"""Files that `postgrad.export` made, each once a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import postgrad
from tests.trainer.exported import convolutional, dense, sequential
from tests.trainer.exported.architectures import ARCHITECTURES

ENTERED = (convolutional, dense, sequential)  # importing them fills ARCHITECTURES


@pytest.fixture(autouse=True)
def _plain_torch() -> Iterator[None]:
    """One thread, and torch's transformers without their fused way in eval mode (docs/exported.md)."""
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """From an architecture's name to its file."""
    folder = tmp_path_factory.mktemp("exported")

    def file(name: str) -> Path:
        path = folder / f"{name}.pt2"
        if not path.exists():
            torch.manual_seed(0)
            module, inputs = ARCHITECTURES[name]()
            postgrad.export(module, inputs(4), path)
        return path

    return file
