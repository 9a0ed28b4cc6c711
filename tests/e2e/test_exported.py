"""A module of the user's own, exported at home, through the front door: the worker runs it under profile strict."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import postgrad
from tests.e2e.conftest import Service, wait_for
from tests.e2e.user_service import user_service
from tests.trainer import textbook
from tests.trainer.textbook import Built, Recipe


class Net(nn.Module):
    """Batch norm, dropout and a forward that no list of layers has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8 * 64, 10)

    def forward(self, image: Tensor) -> Tensor:
        found = torch.relu(self.norm(self.conv(image)))
        return self.head(self.drop((found + image).flatten(1)))  # type: ignore[no-any-return]


def net() -> Net:
    torch.manual_seed(21)
    return Net()


@pytest.fixture(scope="module")
def strict_service() -> Iterator[Service]:
    with user_service() as running:
        yield running


def upload(service: Service, path: Path) -> dict[str, Any]:
    answer = service.client.post("/v1/files", files={"file": (path.name, path.read_bytes())})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


@pytest.fixture(scope="module")
def file(strict_service: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("export") / "net.pt2"
    postgrad.export(net(), torch.zeros(4, 1, 8, 8), path)
    return upload(strict_service, path)


def spec(file_id: str, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "dataset": {"type": "builtin", "name": "digits"},
        "split": {"train": 0.8, "val": 0.2},
        "model": {"type": "exported", "id": file_id},
        "loss": "CrossEntropyLoss",
        "optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9},
        "batch_size": 64,
        "epochs": 2,
    }
    return body | changes


def problems(service: Service, body: dict[str, Any]) -> list[tuple[str, str]]:
    answer = service.client.post("/v1/jobs", json=body)
    assert answer.status_code == 422, answer.text
    return [(problem["pointer"], problem["detail"]) for problem in answer.json()["errors"]]


def test_the_preview_says_what_the_program_takes_and_gives(file: dict[str, Any]) -> None:
    numbers = sum(p.numel() for p in net().parameters())
    assert file["preview"] == {
        "format": "exported",
        "inputs": [{"name": "image", "dtype": "float32", "shape": [None, 1, 8, 8]}],
        "outputs": [{"name": "output", "dtype": "float32", "shape": [None, 10]}],
        "parameters": {"total": numbers, "trainable": numbers},
        "torch": torch.__version__,
    }


def test_it_trains_to_the_modules_own_bits_under_strict(strict_service: Service, file: dict[str, Any]) -> None:
    def build() -> Built:
        model = net()
        torch.manual_seed(0)
        return model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), None

    torch.set_num_threads(1)
    oracle = textbook.run(textbook.digits(), Recipe(batch_size=64, epochs=2, val=0.2), build)
    job = strict_service.finished(strict_service.submit(spec(file["id"])))
    assert job["status"] == "succeeded", job["failure"]
    assert strict_service.series(job["id"])[1] == oracle.train
    assert strict_service.series(job["id"], "val/loss")[1] == oracle.val
    assert job["parameters"] == file["preview"]["parameters"]
    assert job["effective_spec"]["model"]["id"] == {"value": file["id"], "source": "given"}
    assert job["device"] == "cpu"


def test_the_preflight_has_one_row_for_it(strict_service: Service, file: dict[str, Any]) -> None:
    answer = strict_service.client.post("/v1/jobs", params={"validate_only": True}, json=spec(file["id"])).json()
    numbers = file["preview"]["parameters"]["total"]
    assert answer["layers"] == [{"name": "", "type": "model", "output_shape": [10], "parameters": numbers}]
    assert answer["memory"]["activations"] > 64 * 8 * 64 * 4


def test_it_starts_from_another_jobs_weights(strict_service: Service, file: dict[str, Any]) -> None:
    first = strict_service.submit(spec(file["id"]))
    strict_service.finished(first)
    model = {"type": "exported", "id": file["id"], "init_from": {"job": first}}
    second = strict_service.finished(strict_service.submit(spec(file["id"], model=model)))
    assert second["status"] == "succeeded", second["failure"]
    assert strict_service.series(second["id"])[1][0] < strict_service.series(first)[1][0] / 2


def test_a_last_batch_that_batch_norm_cannot_take_is_told_before(strict_service: Service, tmp_path: Path) -> None:
    torch.manual_seed(1)
    path = tmp_path / "normed.pt2"
    postgrad.export(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), torch.zeros(4, 4), path)
    body = spec(upload(strict_service, path)["id"], dataset={"type": "builtin", "name": "iris"}, split={"train": 1.0})
    found = problems(strict_service, body | {"batch_size": 149})
    assert [(at, "1 row" in said and "drop_last" in said) for at, said in found] == [("/batch_size", True)]
    strict_service.finished(strict_service.submit(body | {"batch_size": 149, "drop_last": True}))


@pytest.mark.parametrize(
    ("changes", "pointer", "said"),
    [
        ({"dataset": {"type": "builtin", "name": "iris"}}, "/model/id", "(n, 1, 8, 8), but the data's x has shape (n, 4)"),
        ({"dataset": {"type": "builtin", "name": "diabetes"}, "loss": "MSELoss"}, "/model/id", "has shape (n, 10)"),
        ({"loss": "MSELoss"}, "/loss", "CrossEntropyLoss"),
        ({"device": "cuda"}, "/device", "has no GPU"),
        ({"model": {"type": "exported", "id": "file_" + "0" * 24}}, "/model/id", "no file with this id"),
        ({"model": {"type": "exported"}}, "/model/id", ""),
        ({"model": {"type": "exported", "id": "x"}}, "/model/id", ""),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_queued(
    strict_service: Service, file: dict[str, Any], changes: dict[str, Any], pointer: str, said: str
) -> None:
    found = problems(strict_service, spec(file["id"], **changes))
    assert any(at == pointer and said in detail for at, detail in found), found


def test_data_is_no_model_and_a_model_no_data(strict_service: Service, file: dict[str, Any], tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n3,4\n")
    data = upload(strict_service, table)["id"]
    both = spec(data, dataset={"type": "file", "id": file["id"], "target": "b"})
    assert {pointer for pointer, _ in problems(strict_service, both)} == {"/model/id", "/dataset/id"}


def test_an_archive_that_holds_anything_else_is_not_taken(strict_service: Service, tmp_path: Path) -> None:
    path = tmp_path / "pickled.pt2"
    torch.export.save(torch.export.export(net().eval(), (torch.zeros(4, 1, 8, 8),)), path)
    answer = strict_service.client.post("/v1/files", files={"file": (path.name, path.read_bytes())})
    assert answer.status_code == 422
    assert "postgrad.export" in answer.json()["detail"]


def test_the_worker_says_which_profiles_it_offers(strict_service: Service) -> None:
    worker = strict_service.client.get("/v1/workers").json()["data"][0]
    assert worker["profiles"]["strict"]["refusal"] is None
    assert {"no_new_privs", "rlimits", "seccomp"} <= set(worker["profiles"]["strict"]["layers"])


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server refuses strict here")
def test_a_server_of_roots_refuses_it_and_says_why(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    postgrad.export(net(), torch.zeros(4, 1, 8, 8), path)
    wait_for(lambda: bool(service.client.get("/v1/workers").json()["data"]), 30)
    found = problems(service, spec(upload(service, path)["id"]))
    assert [(at, "runs as root" in said) for at, said in found] == [("/model/type", True)]
    plain = service.submit(
        spec("", model={"type": "Sequential", "layers": ["Flatten", {"type": "Linear", "out_features": 10}]})
    )
    assert service.finished(plain)["status"] == "succeeded"
    assert "runs as root" in service.client.get("/v1/workers").json()["data"][0]["profiles"]["strict"]["refusal"]
