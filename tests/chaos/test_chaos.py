"""The campaign of `python -m tests.chaos`, cut short."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.campaign import Campaign, lines
from tests.chaos.cluster import Cluster
from tests.e2e.conftest import free_port

JOBS, KILLS = 8, 24
SHORT = ["one cycle, per iteration", "plateau", "lbfgs", "images, augmented"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_lost_doubled_or_changed_however_the_processes_are_killed(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "data", free_port(), workers=2)
    cluster.start()
    try:
        campaign = Campaign(cluster, seed=0, kinds=SHORT)
        expected = campaign.undisturbed()
        report = campaign.report(expected, campaign.run(JOBS, KILLS, every_seconds=2.0))
    finally:
        cluster.stop()
    print(*lines(report), sep="\n")
    assert not report.broken, lines(report)
    assert report.resumed
