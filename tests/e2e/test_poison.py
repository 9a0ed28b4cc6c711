"""A job that kills its process every time: it ends with the reason after its attempts, and nobody waits for it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.conftest import Service, mlp
from tests.e2e.user_service import user_service

pytestmark = pytest.mark.slow

# Sound on the checker's meta device and in its first look; in training it takes the process with it.
POISON = b"""
import ctypes
import os

import torch
from torch import nn


class Poison(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.layer, self.calls = how, nn.Linear(30, 1), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls > 20 and torch.is_grad_enabled() and not x.is_meta:
            if self.how == "abort":
                os.abort()
            if self.how == "exit":
                os._exit(7)
            ctypes.string_at(0)
        return torch.sigmoid(self.layer(x))
"""


def poison(service: Service, how: str) -> dict[str, Any]:
    answer = service.client.post("/v1/files", files={"file": ("poison.py", POISON)})
    assert answer.status_code in (200, 201), answer.text
    model = {"type": "python", "id": answer.json()["id"], "class": "Poison", "kwargs": {"how": how}}
    return mlp(name=how, model=model, epochs=50, max_attempts=2)


@pytest.mark.parametrize(
    ("how", "sentence"), [("abort", "killed by SIGABRT"), ("segfault", "killed by SIGSEGV"), ("exit", "ended with status 7")]
)
def test_a_poison_job_stops_after_its_attempts_and_others_run(poisoned: Service, how: str, sentence: str) -> None:
    bad = poisoned.submit(poison(poisoned, how))
    good = [poisoned.submit(mlp()) for _ in range(2)]
    assert [poisoned.finished(job_id)["status"] for job_id in good] == ["succeeded"] * 2
    job = poisoned.finished(bad)
    assert (job["status"], job["failure"]["reason"], job["attempt"]) == ("failed", "crashed", 2), job["failure"]
    assert sentence in job["failure"]["message"]
    kinds = [event["kind"] for event in poisoned.client.get(f"/v1/jobs/{bad}/events").json()["data"]]
    assert [kinds.count(kind) for kind in ("claimed", "requeued", "failed")] == [2, 1, 1]
    steps, _ = poisoned.series(bad)
    assert steps == list(range(1, len(steps) + 1))  # what it measured before its end is kept


@pytest.fixture(scope="module")
def poisoned() -> Any:
    with user_service(allow_python="1", cpu_slots="1") as service:
        yield service
