"""What a process takes away from itself before it runs a stranger's job; docs/sandbox.md has the whole.

`plain` is for jobs of named layers. `strict` is for a user's own Python: it must hold when every line of it is hostile.
"""

from __future__ import annotations

from workers.sandbox.disposable import Disposed, in_disposable_child
from workers.sandbox.kernel import SandboxError, die_with
from workers.sandbox.landlock import landlock_abi
from workers.sandbox.limits import Limits
from workers.sandbox.plain import apply_plain, layers
from workers.sandbox.strict import apply_strict, is_strict, strict_layers, strict_refusal
from workers.sandbox.usage import Usage

__all__ = [
    "Disposed",
    "Limits",
    "SandboxError",
    "Usage",
    "apply_plain",
    "apply_strict",
    "die_with",
    "in_disposable_child",
    "is_strict",
    "landlock_abi",
    "layers",
    "strict_layers",
    "strict_refusal",
]
