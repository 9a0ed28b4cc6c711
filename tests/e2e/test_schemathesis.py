"""Schemathesis against the real service: the document is what the service does, and no request of any kind breaks it.

Each run prints its cases and failures; docs/testing.md has the command to run it by hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Service, mlp

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
SEED = os.environ.get("POSTGRAD_TEST_SEED", "1")  # the same requests every time, unless others are asked for
KEY = "pg_" + "k" * 40


class Target:
    """A service with ended jobs and an upload, and the schemathesis that is let loose on it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.service = Service(folder / "data", settings=settings)
        self._folder = folder
        self._headers = {"Authorization": f"Bearer {settings['api_key']}"} if "api_key" in settings else {}
        self.service.client.headers.update(self._headers)
        self.service.start()
        jobs = [self.service.submit(mlp(epochs=2)), self.service.submit(mlp(epochs=2, loss="MSELoss"))]
        for job in jobs:
            assert self.service.finished(job)["status"] == "succeeded"
        sent = self.service.client.post("/v1/files", files={"file": ("a.csv", b"a,b,y\n1,2,0\n3,4,1\n5,6,0\n")})
        self._environment = {"POSTGRAD_TEST_JOBS": ",".join(jobs), "POSTGRAD_TEST_FILE": sent.json()["id"]}

    def run(self, *flags: str, **environment: str) -> dict[str, Any]:
        """The report of one `schemathesis run`, after its counts were printed."""
        report = self._folder / "report.json"
        report.unlink(missing_ok=True)
        program = str(Path(sys.executable).with_name("schemathesis"))
        command = [program, "--config-file", str(HERE / "schemathesis.toml"), "run", f"{self.service.url}/openapi.json"]
        command += ["--report", "json", "--report-json-path", str(report), "--no-color", "--seed", SEED, *flags]
        command += [f"--header={name}: {value}" for name, value in self._headers.items()]
        hooks = {"SCHEMATHESIS_HOOKS": "tests.e2e.schemathesis_hooks", "PYTHONPATH": str(HERE.parents[1])}
        ran = subprocess.run(
            command,
            env={**os.environ, **hooks, **self._environment, **environment},
            cwd=self._folder,
            capture_output=True,
            text=True,
        )
        assert report.exists(), ran.stdout + ran.stderr
        found: dict[str, Any] = json.loads(report.read_text())
        cases = found["test_cases"]
        done = [name for name, phase in found["phases"].items() if phase["status"] != "skip"]
        print(f"\nschemathesis {'+'.join(done)}: cases {cases['generated']}, failures {cases['unique_failures']}")
        assert (cases["unique_failures"], cases["errored"], found["errors"], ran.returncode) == (0, 0, [], 0), ran.stdout
        return found

    def stop(self) -> None:
        self.service.stop()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    running = Target(tmp_path_factory.mktemp("open"))
    yield running
    running.stop()


def test_every_answer_is_as_documented_at_the_edges_of_every_parameter(target: Target) -> None:
    found = target.run("--phases", "examples,coverage")
    assert found["operations"]["tested"] == found["operations"]["total"]
    assert found["test_cases"]["generated"] > 5000


@pytest.mark.parametrize("classes", ["first", "second"])
def test_made_up_requests_break_nothing(target: Target, classes: str) -> None:
    found = target.run("--phases", "fuzzing", "--max-examples", "100", POSTGRAD_TEST_CLASSES=classes)
    assert found["operations"]["tested"] == found["operations"]["total"]


@pytest.mark.parametrize("classes", ["fourth", "fifth"])
def test_made_up_specs_break_nothing(target: Target, classes: str) -> None:
    name = "POST /v1/jobs"
    target.run("--phases", "fuzzing", "--include-name", name, "--max-examples", "500", POSTGRAD_TEST_CLASSES=classes)
    assert target.service.client.get("/health/ready").status_code == 200


def test_made_up_sequences_of_requests_break_nothing(target: Target) -> None:
    target.run("--phases", "stateful", "--max-examples", "100", POSTGRAD_TEST_CLASSES="first")
    assert target.service.client.get("/health/ready").status_code == 200
    assert "Traceback" not in target.service.log()


def test_no_answer_without_the_key_where_the_document_wants_one(tmp_path: Path) -> None:
    target = Target(tmp_path, api_key=KEY)
    try:
        document = httpx.get(f"{target.service.url}/openapi.json").json()
        closed = [one for path, found in document["paths"].items() if path.startswith("/v1") for one in found.values()]
        assert all(len(one["security"]) == 1 and "key" in one["security"][0] for one in closed)
        target.run("--phases", "coverage,fuzzing", "--mode", "positive", "--max-examples", "10", POSTGRAD_TEST_CLASSES="first")
    finally:
        target.stop()
