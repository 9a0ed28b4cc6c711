"""The API process is light: neither torch nor workers is ever imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.app.conftest import Server

PROBE = """
import json, sys
import app.main
from jobs.settings import Settings
app.main.create_app(Settings())
heavy = {"torch", "torchmetrics", "workers", "sklearn", "pyarrow", "numpy.f2py", "alembic"}
print(json.dumps(sorted(heavy & set(sys.modules))))
"""


def test_importing_the_app_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == []


def test_a_signal_stops_it_cleanly(tmp_path: Path) -> None:
    running = Server(tmp_path)
    assert running.stop() == 0
