"""`python -m migrations`: brings the database that POSTGRAD_* names up to date, and says what it did."""

from __future__ import annotations

import sys

from jobs.database import open_engine
from jobs.errors import DatabaseUnfit
from jobs.settings import Settings
from migrations.schema import current, head, upgrade

__all__ = ["current", "head", "main", "upgrade"]


def main() -> None:
    """Ends with a sentence when the database cannot be opened."""
    try:
        engine = open_engine(Settings())
    except DatabaseUnfit as problem:
        sys.exit(f"postgrad: {problem}")
    before = upgrade(engine)
    print(f"schema is at {head()}" if before == head() else f"schema went from {before or 'nothing'} to {head()}")


if __name__ == "__main__":
    main()
