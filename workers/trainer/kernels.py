"""What torch's kernels refuse in the first iteration, though constructors and the meta device let it pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workers.trainer.place import Place


def check(place: Place, arguments: Mapping[str, Any]) -> None:
    """Raises BuildProblem for arguments of a layer that no kernel takes."""
    if place.component.type in RULES:
        RULES[place.component.type](place, arguments)


def _transposed(place: Place, arguments: Mapping[str, Any]) -> None:
    dimensions = len(place.shape) - 2
    added, stride, dilation = (
        _each(arguments.get(name, default), dimensions)
        for name, default in (("output_padding", 0), ("stride", 1), ("dilation", 1))
    )
    for more, step, gap in zip(added, stride, dilation, strict=False):
        if more >= max(step, gap):
            detail = (
                f"{place.node.title}: output_padding must be smaller than stride or dilation ({step} and {gap}), got {more}"
            )
            raise place.problem("/output_padding", "out_of_range", detail)


def _each(value: Any, dimensions: int) -> list[int]:
    return value if isinstance(value, list) else [value] * dimensions


def _celu(place: Place, arguments: Mapping[str, Any]) -> None:
    if arguments.get("alpha") == 0:
        raise place.problem("/alpha", "out_of_range", f"{place.node.title} divides by alpha, which must not be 0")
    _slope("alpha")(place, arguments)


def _slope(name: str) -> Callable[[Place, Mapping[str, Any]], None]:
    """Backward sees the output only, and by a negative slope no longer knows the input's sign."""

    def rule(place: Place, arguments: Mapping[str, Any]) -> None:
        if arguments.get("inplace") and arguments.get(name, 1) < 0:
            detail = f"{place.node.title} works in place, for which {name} must not be negative; set inplace to false"
            raise place.problem("/inplace", "out_of_range", detail)

    return rule


RULES: dict[str, Callable[[Place, Mapping[str, Any]], None]] = {
    **{f"ConvTranspose{d}d": _transposed for d in (1, 2, 3)},
    "CELU": _celu,
    "ELU": _slope("alpha"),
    "LeakyReLU": _slope("negative_slope"),
}
