"""Every class of the installed torch and torchmetrics, posted to the live service: it trains, or a 422 says why it cannot.

With POSTGRAD_TABLE set to a file the findings are written there as Markdown (`make table`).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.catalog import DATASETS, catalog
from jobs.example_data import TABLE, TABLE_ID
from jobs.examples import example
from tests.e2e.conftest import Service
from workers.trainer import introspect

TITLES = {
    "losses": "Losses",
    "optimizers": "Optimizers",
    "lr_schedulers": "Schedulers",
    "layers": "Layers",
    "metrics": "Metrics",
    "initializers": "Initialisers",
    "operations": "Operations of a Graph",
    "datasets": "Built-in data sets",
}
HEAD = """# Every class

What `make table` found: every class of torch {torch} and torchmetrics {torchmetrics}, each in a job of its own on the running
service. The jobs are the examples of `GET /v1/catalog/<section>`. First and last loss are `train/loss` at the first and the
last iteration; value is the metric's at the last epoch, the first of several. What cannot be used is refused with a 422, whose
sentence stands here.
"""


@dataclass
class Found:
    """What the service made of a class: a state and its numbers, or the sentence of its 422."""

    state: str
    job_id: str = ""
    numbers: tuple[Any, ...] = ()  # the first and the last loss, of a metric its own last value too
    reason: str = ""

    @property
    def trained(self) -> bool:
        finite = all(isinstance(n, int | float) and math.isfinite(n) for n in self.numbers)
        return self.state == "succeeded" and len(self.numbers) >= 2 and finite


def names() -> dict[str, list[str]]:
    """Of every section what the installed libraries have, and what is postgrad's own."""
    installed = {section: list(classes) for section, classes in introspect.classes().items()}
    return installed | {"operations": list(catalog().section("operations")), "datasets": list(DATASETS)}


def refused_spec(section: str, name: str) -> dict[str, Any]:
    """A job that would be right but for the class."""
    job = example("metrics", "MulticlassAccuracy")
    assert job is not None
    linear = {"type": "Linear", "out_features": 3}
    member: dict[str, dict[str, Any]] = {
        "losses": {"loss": name},
        "layers": {"model": {"type": "Sequential", "layers": [{"type": name}, linear]}},
        "metrics": {"metrics": [name]},
    }
    return job.spec | member[section]


def post(service: Service, section: str, name: str) -> Found:
    made = example(section, name)
    answer = service.client.post("/v1/jobs", json=made.spec if made is not None else refused_spec(section, name))
    if answer.status_code == 201:
        return Found("queued", answer.json()["id"])
    assert answer.status_code == 422, answer.text
    return Found("refused", reason="; ".join(problem["detail"] for problem in answer.json()["errors"]))


def follow(service: Service, found: Found, metric: str | None) -> None:
    job = service.finished(found.job_id, 240)
    found.state = job["status"]
    found.reason = (job["failure"] or {}).get("message", "")
    losses = service.series(found.job_id)[1]
    found.numbers = (losses[0], losses[-1]) if losses else ()
    if metric is not None:
        curve = service.client.get(f"/v1/jobs/{found.job_id}/metrics").json()["series"]
        own = [series for series in curve if series["name"].split("/")[:2] == ["val", metric]]
        found.numbers += tuple(series["last"]["value"] for series in own[:1])


@pytest.fixture(scope="module")
def findings(service: Service) -> dict[str, dict[str, Found]]:
    answer = service.client.post("/v1/files", files={"file": ("table.csv", TABLE)})
    assert answer.json()["id"] == TABLE_ID, answer.text
    found = {section: {name: post(service, section, name) for name in classes} for section, classes in names().items()}
    for section, classes in found.items():
        for name, one in classes.items():
            if one.job_id:
                follow(service, one, name if section == "metrics" else None)
    return found


@pytest.mark.slow
@pytest.mark.timeout(360)
def test_every_class_trains_or_says_why_it_cannot(findings: dict[str, dict[str, Found]]) -> None:
    for section, title in TITLES.items():
        print(f"{title}: {counts(findings[section])}")
    if "POSTGRAD_TABLE" in os.environ:
        Path(os.environ["POSTGRAD_TABLE"]).write_text(table(findings), encoding="utf-8")
    for section, classes in findings.items():
        for name, found in classes.items():
            if example(section, name) is not None:
                assert found.trained, (section, name, found)
                assert section not in {"losses", "optimizers"} or found.numbers[1] < found.numbers[0], (name, found)
                assert len(found.numbers) == (3 if section == "metrics" else 2), (section, name, found)
            else:
                assert found.state == "refused"
                assert (catalog().section(section)[name].refused or "no reason") in found.reason


def counts(classes: dict[str, Found]) -> str:
    refused = sum(found.state == "refused" for found in classes.values())
    trained = sum(found.trained for found in classes.values())
    return f"{trained}/{len(classes) - refused}" + (f", and {refused} refused" if refused else "")


def table(findings: dict[str, dict[str, Found]]) -> str:
    versions = {"torch": catalog().torch_version, "torchmetrics": catalog().torchmetrics_version}
    lines = [HEAD.format(**versions)]
    for section, title in TITLES.items():
        classes = findings[section]
        value = (" value |", "---|") if section == "metrics" else ("", "")
        lines += [f"## {title}: {counts(classes)}", ""]
        lines += [f"| class | job | first loss | last loss |{value[0]}", f"|---|---|---|---|{value[1]}"]
        lines += [f"| {name} | {found.state} | {row(found)} |" for name, found in classes.items() if found.state != "refused"]
        if refused := {n: f.reason for n, f in classes.items() if f.state == "refused"}:
            lines += ["", "| class | 422 |", "|---|---|", *(f"| {name} | {reason} |" for name, reason in refused.items())]
        lines.append("")
    return "\n".join(lines)


def row(found: Found) -> str:
    return " | ".join(f"{n:.6g}" for n in found.numbers) if found.trained else f"{found.numbers} {found.reason}"
