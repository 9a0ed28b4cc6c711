"""The user's side of postgrad. `postgrad.export` makes a file of an nn.Module; only that needs torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from postgrad.exporting import ExportError, export

__all__ = ["ExportError", "export"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from postgrad import exporting

    return getattr(exporting, name)
