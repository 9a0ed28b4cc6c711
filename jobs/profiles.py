"""The two sandbox profiles under which a job's process runs; docs/sandbox.md has what each takes away.

A worker offers one thing more than it has profiles: `python` is strict and its operator's leave to run a user's Python.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Profile: TypeAlias = Literal["plain", "strict"]
Offer: TypeAlias = Literal["plain", "strict", "python"]

PLAIN: Final = "plain"  # named layers: nothing of the user's is executed
STRICT: Final = "strict"  # what the user brought: an exported program or their own Python
PYTHON: Final = "python"


def profile_under(offer: str) -> Profile:
    """The sandbox of a job that needs this offer."""
    return PLAIN if offer == PLAIN else STRICT
