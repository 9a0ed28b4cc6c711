"""What a child process that meets strangers' input is told of its parent's environment."""

from __future__ import annotations

import re
from collections.abc import Mapping

SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|DATABASE_URL|CREDENTIAL|PRIVATE_KEY", re.IGNORECASE)


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what looks like a secret by its name."""
    return {name: value for name, value in environment.items() if not SECRET.search(name)}
