"""Random damage never brings the reader down: whatever is in a file, it is read or refused with a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FILES = ["mlp", "cnn_with_batch_norm_and_dropout", "gru", "text_classifier_with_embedding_bag", "spectral_norm_discriminator"]
MORE = [
    "inception",
    "shufflenet",
    "spatial_transformer",
    "fourier_network",
    "mixture_of_experts",
    "gpt_with_tied_weights",
    "vgg",
]
SECONDS = 5  # what the API gives its checker for one question


def fuzz(paths: list[Path], seed: int, count: int) -> dict[str, int]:
    """The outcomes of `count` damaged files in a process of its own."""
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "tests.trainer.exported.mutating",
        str(seed),
        str(count),
        *map(str, paths),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    lines = ran.stdout.splitlines()
    assert ran.returncode == 0, f"mutation {lines[-1] if lines else seed} ended the process:\n{ran.stderr[-3000:]}"
    found = json.loads(lines[-1])
    assert found["slowest_seconds"] < SECONDS
    outcomes: dict[str, int] = found["outcomes"]
    assert sum(outcomes.values()) == count
    return outcomes


@pytest.mark.slow
def test_four_hundred_damaged_files(exported: Callable[[str], Path]) -> None:
    outcomes = fuzz([exported(name) for name in FILES], seed=0, count=400)
    assert set(outcomes) == {"refused", "accepted"}, outcomes
    assert outcomes["refused"] > 200, "most damage should be seen"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_five_thousand_damaged_files(exported: Callable[[str], Path]) -> None:
    outcomes = fuzz([exported(name) for name in FILES + MORE], seed=10_000, count=5000)
    assert set(outcomes) == {"refused", "accepted"}, outcomes
