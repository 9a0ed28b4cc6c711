"""`python -m tests.chaos [--jobs 60] [--kills 200]`: prints the counts; exit code 1 when anything was lost or changed."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos import specs
from tests.chaos.campaign import Campaign, lines
from tests.chaos.cluster import Cluster
from tests.e2e.conftest import free_port


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=60, help="jobs at least")
    parser.add_argument("--kills", type=int, default=200, help="kills at least")
    parser.add_argument(
        "--every-seconds",
        type=float,
        default=1.5,
        help="mean time between two kills, beside the time until something trains again",
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    # Not removed when something broke: the logs and the database are the evidence.
    folder = Path(tempfile.mkdtemp(prefix="postgrad-chaos-"))
    cluster = Cluster(folder / "data", free_port(), given.workers)
    cluster.start()
    try:
        campaign = Campaign(cluster, given.seed, list(specs.SPECS))
        expected = campaign.undisturbed()
        report = campaign.report(expected, campaign.run(given.jobs, given.kills, given.every_seconds))
    finally:
        cluster.stop()
    print(*lines(report), sep="\n")
    if report.broken:
        print(f"logs and database: {folder}")
    else:
        shutil.rmtree(folder)
    return int(report.broken)


if __name__ == "__main__":
    sys.exit(main())
