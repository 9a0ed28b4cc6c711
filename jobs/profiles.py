"""The two sandbox profiles under which a job's process runs; docs/sandbox.md has what each takes away."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Profile: TypeAlias = Literal["plain", "strict"]

PLAIN: Final = "plain"  # named layers: nothing of the user's is executed
STRICT: Final = "strict"  # what the user brought: an exported program or their own Python
