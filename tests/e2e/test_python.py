"""A user's own nn.Module as a source file, through the front door: it trains, and what is hostile in it reaches nothing."""

from __future__ import annotations

import os
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.e2e.conftest import Service, wait_for
from tests.e2e.user_service import user_service
from tests.trainer import textbook
from tests.trainer.textbook import Built, Recipe

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, hidden: int, drop: float = 0.2):
        super().__init__()
        self.first = nn.Linear(30, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.drop = nn.Dropout(drop)
        self.last = nn.Linear(hidden, 1)

    def forward(self, x):
        return self.last(self.drop(self.norm(torch.relu(self.first(x)))))
"""
MEMORY, DISK = 2**29, 2**26


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with user_service(allow_python="1", python_memory_bytes=str(MEMORY), python_disk_bytes=str(DISK)) as running:
        yield running


def upload(service: Service, source: str) -> str:
    answer = service.client.post("/v1/files", files={"file": ("net.py", source.encode())})
    assert answer.status_code in (200, 201), answer.text
    assert answer.json()["preview"]["format"] == "python"
    return str(answer.json()["id"])


def spec(file_id: str, kwargs: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "dataset": {"type": "builtin", "name": "breast_cancer", "normalize": "standard"},
        "split": {"train": 0.8, "val": 0.2},
        "model": {"type": "python", "id": file_id, "class": "Net", "kwargs": {"hidden": 16} if kwargs is None else kwargs},
        "loss": "BCEWithLogitsLoss",
        "optimizer": {"type": "Adam", "lr": 0.01},
        "batch_size": 32,
        "epochs": 2,
        "seed": 3,
    }
    return body | changes


def refused(service: Service, body: dict[str, Any]) -> dict[str, str]:
    answer = service.client.post("/v1/jobs", json=body)
    assert answer.status_code == 422, answer.text
    return {problem["pointer"]: problem["detail"] for problem in answer.json()["errors"]}


def test_it_trains_to_the_bits_of_the_textbook_loop(service: Service) -> None:
    def build() -> Built:
        module = types.ModuleType("net")
        exec(NET, vars(module))
        model: nn.Module = module.Net(hidden=16)
        return model, nn.BCEWithLogitsLoss(), torch.optim.Adam(model.parameters(), lr=0.01), None

    torch.set_num_threads(1)
    recipe = Recipe(batch_size=32, epochs=2, seed=3, val=0.2, normalize=True)
    oracle = textbook.run(textbook.breast_cancer(), recipe, build)
    file_id = upload(service, NET)
    job = service.finished(service.submit(spec(file_id)))
    assert job["status"] == "succeeded", job["failure"]
    assert service.series(job["id"])[1] == oracle.train
    assert service.series(job["id"], "val/loss")[1] == oracle.val
    model = job["effective_spec"]["model"]
    assert (model["class"]["value"], model["kwargs"]["hidden"]["value"]) == ("Net", 16)


def test_the_preflight_counts_its_parameters(service: Service) -> None:
    answer = service.client.post("/v1/jobs", params={"validate_only": True}, json=spec(upload(service, NET))).json()
    numbers = 30 * 16 + 16 + 2 * 16 + 16 + 1
    assert answer["parameters"] == {"total": numbers, "trainable": numbers}
    assert answer["layers"] == [{"name": "", "type": "model", "output_shape": [1], "parameters": numbers}]


@pytest.mark.parametrize(
    ("kwargs", "source", "pointer", "said"),
    [
        ({"hiden": 4}, NET, "/model/kwargs/hiden", "hidden"),
        ({}, NET, "/model/kwargs/hidden", "needs the argument"),
        (None, NET.replace("class Net", "class Network"), "/model/class", "Network"),
        (None, NET.replace("(nn.Module)", ""), "/model/class", "does not inherit torch.nn.Module"),
        (None, NET.replace("nn.Linear(30", "nn.Linear(31"), "/model/class", "model.py, line 15"),
        (None, NET.replace("hidden, 1)", "hidden, 2)"), "/model", "(n, 2)"),
        (None, "raise OSError('early')\n" + NET, "/model/id", "OSError: early"),
        (None, NET.replace("        super", "        while True: pass\n        super"), "/model/id", "longer than 3 s"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_queued(
    service: Service, kwargs: dict[str, Any] | None, source: str, pointer: str, said: str
) -> None:
    found = refused(service, spec(upload(service, source), kwargs))
    assert said in found.get(pointer, ""), found


def test_python_that_does_not_parse_is_not_taken(service: Service) -> None:
    broken = {"file": ("net.py", NET.replace("def forward(self, x):", "def forward(self, x)").encode())}
    answer = service.client.post("/v1/files", params={"format": "python"}, files=broken)
    assert (answer.status_code, "line 14" in answer.json()["detail"]) == (422, True), answer.text


# ---- hostile code: it waits until it trains, since the checker's sandbox would stop it before

WAIT = """
    calls = 0

    def forward(self, x):
        self.calls += 1
        if self.training and self.calls == 12:
            attack()
        return self.last(x)
"""
HOSTILE = (
    """
import ctypes, os, signal, socket, subprocess
import torch
from torch import nn
OUTSIDE = {outside!r}
JOB = os.path.dirname(os.readlink("/proc/self/fd/1"))

def attack():
{attack}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(30, 1)
"""
    + WAIT
)
DENIED = "PermissionError"
ATTACKS: dict[str, tuple[str, str, str]] = {
    # name: (what it does, the failure's reason, what its message says)
    "reads_a_secret": ("open(OUTSIDE + '/secret').read()", "error", DENIED),
    "writes_outside": ("open(OUTSIDE + '/new', 'w').write('x')", "error", DENIED),
    "opens_a_tcp_socket": ("socket.create_connection(('127.0.0.1', 80))", "error", DENIED),
    "opens_a_udp_socket": ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "error", DENIED),
    "runs_a_shell": ("subprocess.run(['/bin/sh', '-c', 'id'], check=True)", "error", DENIED),
    "forks_without_end": ("while True: os.fork()", "error", DENIED),
    "eats_memory": ("hoard = [torch.ones(2**24) for _ in range(10**6)]", "out_of_memory", "allocate memory"),
    "eats_disk": (
        "for number in range(10**6): open(JOB + '/' + str(number), 'wb').write(bytes(2**20))",
        "error",
        f"it may have {DISK}",
    ),
    "fills_one_file": ("file = open(JOB + '/one', 'wb')\n    while True: file.write(bytes(2**20))", "error", "too large"),
    "kills_its_parent": ("os.kill(os.getppid(), signal.SIGKILL)", "error", DENIED),
    "reads_its_parents_environment": ("open(f'/proc/{os.getppid()}/environ').read()", "error", DENIED),
    "makes_a_user_namespace": (
        "if ctypes.CDLL(None, use_errno=True).unshare(0x10000000): raise OSError(ctypes.get_errno(), 'unshare')",
        "error",
        DENIED,
    ),
}


@pytest.fixture
def outside(service: Service) -> Iterator[Path]:
    """A folder that the service's own user may read and write, as everything of his."""
    folder = service.folder.parent / "outside"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    (folder / "secret").write_text("kept")
    (folder / "secret").chmod(0o666)
    yield folder
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("secret", "kept")]


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_code_fails_its_own_job_and_no_other(service: Service, outside: Path, name: str) -> None:
    attack, reason, said = ATTACKS[name]
    worker = service.client.get("/v1/workers").json()["data"][0]["id"]
    source = HOSTILE.format(outside=str(outside), attack=f"    {attack}")
    job = service.finished(service.submit(spec(upload(service, source), {})))
    assert (job["status"], job["failure"]["reason"]) == ("failed", reason), job
    assert said in job["failure"]["message"], job["failure"]
    good = service.finished(service.submit(spec(upload(service, NET), epochs=1)))
    assert good["status"] == "succeeded"
    assert [one["id"] for one in service.client.get("/v1/workers").json()["data"]] == [worker]


def test_code_that_never_comes_back_is_cancelled(service: Service) -> None:
    source = HOSTILE.format(outside="", attack="    while True: pass")
    job_id = service.submit(spec(upload(service, source), {}))
    wait_for(lambda: service.job(job_id)["status"] == "running", 30)
    service.client.post(f"/v1/jobs/{job_id}/cancel")
    assert service.finished(job_id)["status"] == "cancelled"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server refuses strict here")
def test_a_server_of_roots_runs_none_of_it(tmp_path: Path) -> None:
    running = Service(tmp_path / "data", settings={"allow_python": "1"})
    running.start()
    try:
        assert "runs as root" in refused(running, spec(upload(running, NET)))["/model/type"]
    finally:
        running.stop()
