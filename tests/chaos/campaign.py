"""Jobs posted while processes are killed, and afterwards every promise counted: lost, doubled, changed."""

from __future__ import annotations

import hashlib
import random
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.chaos import specs
from tests.chaos.cluster import KINDS, Cluster

IN_FLIGHT = 5  # jobs that have not ended, at any time
RETRY_SECONDS = 0.1
PATIENCE_SECONDS = 900.0  # without any job ending: something is stuck
SEEDS = 2

Curve = dict[str, tuple[list[int], list[Any]]]


@dataclass(frozen=True)
class Result:
    """What a job left behind: every point of every series, and the SHA-256 of its weights by file name."""

    curve: Curve
    weights: dict[str, str]


@dataclass
class Report:
    """The counts. All of the second group must be 0."""

    kills: dict[str, int]
    jobs: int
    attempts: int
    resumed: int  # attempts that took up a checkpoint
    seconds: float
    lost: list[str] = field(default_factory=list)  # posted and not there, or ended otherwise than succeeded
    doubled: list[str] = field(default_factory=list)  # two jobs of one POST, or one job run twice at once
    changed_curves: list[str] = field(default_factory=list)
    changed_weights: list[str] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        return bool(self.lost or self.doubled or self.changed_curves or self.changed_weights)


class Campaign:
    """Needs a running cluster; the same `seed` posts and kills in the same order, at other moments."""

    def __init__(self, cluster: Cluster, seed: int, kinds: list[str]) -> None:
        self._cluster, self._random = cluster, random.Random(seed)
        self._client = httpx.Client(base_url=cluster.url, timeout=30)
        self._kinds = kinds
        self._posted: dict[str, tuple[str, int]] = {}  # by job id: kind of spec, seed
        self._ended: set[str] = set()
        self._undisturbed: set[str] = set()
        self._stopping = threading.Event()

    def undisturbed(self) -> dict[tuple[str, int], Result]:
        """The results that no kill has had a part in, by kind and seed."""
        wanted = [(kind, seed) for kind in self._kinds for seed in range(SEEDS)]
        ids = {self._post(*which): which for which in wanted}
        self._undisturbed = set(ids)
        self._until_ended(ids)
        for job_id in ids:
            job = self._get(f"/v1/jobs/{job_id}")
            assert job["status"] == "succeeded", f"{job['name']} does not even succeed undisturbed: {job['failure']}"
        return {which: self.result(job_id) for job_id, which in ids.items()}

    def run(self, jobs: int, kills: int, every_seconds: float) -> float:
        """Posts at least `jobs` and kills at least `kills` times; the seconds until every job had ended."""
        began = time.monotonic()
        killer = threading.Thread(target=self._kill_on, args=(kills, every_seconds), name="killer", daemon=True)
        killer.start()
        while len(self._posted) < jobs or killer.is_alive():
            self._until(lambda: len(self._posted) - len(self._seen_ended()) < IN_FLIGHT or not killer.is_alive())
            if len(self._posted) < jobs or killer.is_alive():
                which = self._kinds[len(self._posted) % len(self._kinds)], self._random.randrange(SEEDS)
                self._posted[self._post(*which)] = which
        self._until_ended(self._posted)
        return time.monotonic() - began

    def report(self, expected: dict[tuple[str, int], Result], seconds: float) -> Report:
        """Compares every job with its undisturbed twin."""
        attempts, resumed = self._attempts()
        report = Report(dict(self._cluster.killed), len(self._posted), attempts, resumed, seconds)
        report.doubled += [f"{job} ran twice at once" for job in sorted(self._cluster.twice_at_once)]
        report.doubled += [f"{job} was never posted" for job in sorted(self._listed() - set(self._posted))]
        for job_id, which in self._posted.items():
            job = self._get(f"/v1/jobs/{job_id}")
            if job.get("status") != "succeeded":
                report.lost.append(f"{job_id}: {job.get('status')}, {job.get('failure')}")
                continue
            result = self.result(job_id)
            if result.curve != expected[which].curve:
                report.changed_curves.append(f"{job_id} ({which})")
            if result.weights != expected[which].weights:
                report.changed_weights.append(f"{job_id} ({which})")
        return report

    def result(self, job_id: str) -> Result:
        """Of a job that has succeeded."""
        series = self._get(f"/v1/jobs/{job_id}/metrics?max_points=0")["series"]
        curve = {one["name"]: (one["steps"], one["values"]) for one in series}
        weights = {}
        for name in ("model.safetensors", "model.best.safetensors"):
            body = self._answer("GET", f"/v1/jobs/{job_id}/artifacts/{name}").content
            weights[name] = hashlib.sha256(body).hexdigest()
        return Result(curve, weights)

    # ---- killing

    def _kill_on(self, kills: int, every_seconds: float) -> None:
        while sum(self._cluster.killed.values()) < kills:
            time.sleep(self._random.expovariate(1 / every_seconds))
            self._until(lambda: bool(self._cluster.trainers()))
            # One in ten is a power cut; the rest are shared out evenly.
            self._cluster.kill("all" if self._random.random() < 0.1 else self._random.choice(KINDS))

    # ---- HTTP, however often the other side dies

    def _post(self, kind: str, seed: int) -> str:
        key = {"Idempotency-Key": secrets.token_hex(16)}
        return str(self._answer("POST", "/v1/jobs", json=specs.spec(kind, seed), headers=key).json()["id"])

    def _get(self, path: str) -> dict[str, Any]:
        body: dict[str, Any] = self._answer("GET", path).json()
        return body

    def _answer(self, method: str, path: str, **more: Any) -> httpx.Response:
        answers: list[httpx.Response] = []

        def tried() -> bool:
            try:
                answers.append(self._client.request(method, path, **more))
            except httpx.TransportError:
                return False
            return answers[-1].status_code not in (409, 503)  # still at the first try; the checker is on its way

        self._until(tried)
        assert answers[-1].is_success, f"{method} {path}: {answers[-1].status_code} {answers[-1].text[:500]}"
        return answers[-1]

    def _seen_ended(self) -> set[str]:
        for job_id in set(self._posted) - self._ended:
            if self._get(f"/v1/jobs/{job_id}")["finished_at"] is not None:
                self._ended.add(job_id)
        return self._ended

    def _until_ended(self, jobs: Iterable[str]) -> None:
        for job_id in jobs:
            self._until(lambda job_id=job_id: self._get(f"/v1/jobs/{job_id}")["finished_at"] is not None)  # type: ignore[misc]

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"nothing came true for {PATIENCE_SECONDS:g} s"
            time.sleep(RETRY_SECONDS)

    # ---- what the database says

    def _listed(self) -> set[str]:
        found: set[str] = set()
        page: dict[str, Any] = {"has_more": True, "last_id": None}
        while page["has_more"]:
            after = f"&after={page['last_id']}" if page["last_id"] else ""
            page = self._get(f"/v1/jobs?limit=100&order=asc{after}")
            found |= {job["id"] for job in page["data"]}
        return found - self._undisturbed

    def _attempts(self) -> tuple[int, int]:
        marks = ",".join("?" * len(self._posted))
        query = f"SELECT COUNT(*), SUM(resumed_from > 0) FROM attempts WHERE job_id IN ({marks})"
        with sqlite3.connect(f"file:{self._cluster.folder / 'postgrad.db'}?mode=ro", uri=True) as database:
            total, resumed = database.execute(query, list(self._posted)).fetchone()
        return total, resumed or 0


def lines(report: Report) -> list[str]:
    """The report for a reader: counts first, then what each broken one was."""
    kills = ", ".join(f"{count} {kind}" for kind, count in sorted(report.kills.items()))
    broken = {
        "lost": report.lost,
        "doubled": report.doubled,
        "changed curves": report.changed_curves,
        "changed weights": report.changed_weights,
    }
    return [
        f"{sum(report.kills.values())} kills ({kills}) over {report.jobs} jobs in {report.seconds:.0f} s",
        f"{report.attempts} attempts, {report.resumed} of them from a checkpoint",
        ", ".join(f"{name} {len(found)}" for name, found in broken.items()),
        *(f"{name}: {one}" for name, found in broken.items() for one in found),
    ]
