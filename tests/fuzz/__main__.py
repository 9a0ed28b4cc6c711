"""`python -m tests.fuzz [--cases N] [--seed S] [reader ...]`: made-up files for every reader of uploads, and what came of them.

Prints a line for each reader; ends with 1 if there was a crash or a hang. A file that ended badly is kept, and said where.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.readers import READERS, makers
from tests.fuzz.reading import fuzz, seconds_since


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1000, help="files for each reader")
    parser.add_argument("--seed", type=int, default=0, help="number of the first file; every number is always the same file")
    parser.add_argument("--keep", type=Path, help="folder for the files that ended badly")
    parser.add_argument("readers", nargs="*", choices=[[], *READERS], help="all of them when none is named")
    given = parser.parse_args(arguments)
    kept = given.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    bad = 0
    for name, (make, asked) in makers(given.readers or list(READERS), kept).items():
        began, folder = time.monotonic(), kept / name
        folder.mkdir(parents=True, exist_ok=True)
        found = fuzz(make, folder, range(given.seed, given.seed + given.cases), asked)
        print(f"{found.line(name)} ({seconds_since(began)})", flush=True)
        for sentence in found.crashes + found.hangs + found.died:
            print(f"  {folder}/{sentence}")
        bad += len(found.crashes) + len(found.hangs)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
