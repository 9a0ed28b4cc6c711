"""Padding masks: bool (n, T), True where a row's sequence is padding, and which input of a layer each of them is for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from workers.trainer.place import BuildProblem, Place, Value, written

# The place among a layer's inputs of the sequence that a mask is for, where that is not the first.
SECOND: frozenset[tuple[str, str]] = frozenset(
    {
        ("Transformer", "tgt_key_padding_mask"),
        ("TransformerDecoder", "memory_key_padding_mask"),
        ("TransformerDecoderLayer", "memory_key_padding_mask"),
        ("MultiheadAttention", "key_padding_mask"),
    }
)


def padding_mask(sequence: Tensor, lengths: Tensor, *, prefix: int = 0) -> Tensor:
    """bool (n, T) for a sequence (n, T, ...) and lengths, int64 (n,) or (n, 1)."""
    return torch.arange(sequence.shape[1], device=lengths.device) >= lengths.reshape(-1, 1) + prefix


def masked_mean(x: Tensor, mask: Tensor, *, keepdim: bool = False) -> Tensor:
    """The mean of x (n, T, ...) over the positions of dimension 1 that `mask` (n, T) leaves; 0 for a row without any."""
    real = (~mask).reshape(*mask.shape, *(1 for _ in x.shape[2:]))
    total = x.masked_fill(~real, 0).sum(1, keepdim=keepdim)
    return total / real.sum(1, keepdim=keepdim).clamp(min=1)


def check(kind: str, place: Place, arguments: Mapping[str, object]) -> None:
    """Raises BuildProblem for a mask that is none, is not as long as its sequence, or may leave a row nothing to look at."""
    for name, value in place.masks.items():
        sequence = place.values[min((kind, name) in SECOND, len(place.values) - 1)]
        if arguments.get(name) == "lengths":
            member, long = f"/{name}", (value.integers or 0) - 1
            if long > sequence.shape[1]:
                raise place.misfit(f"but the data's sequences have up to {long} positions", member)
            empty = value.least == 0
        else:
            member, wanted = f"/inputs/{name}", (len(sequence.tensors[0]), sequence.shape[1])
            if not value.is_mask or value.shape != wanted:
                detail = f"{name} is a mask of shape {written(wanted)}, as padding_mask gives it, but it is "
                raise _problem(place, member, detail + ("" if value.is_mask else "no mask, of shape ") + written(value.shape))
            empty = value.hides_rows
        if empty:
            detail = f"a row of length 0 leaves {place.node.title} nothing to look at, which gives NaN in eval mode; "
            raise _problem(place, member, detail + "leave such rows out of the data")


def _problem(place: Place, member: str, detail: str) -> BuildProblem:
    return place.problem(member, "shape_mismatch", detail)


def check_operation(name: str, place: Place, arguments: Mapping[str, object]) -> None:
    """Raises BuildProblem where an operation does not get the mask or the lengths that it wants as its second input."""
    if name == "padding_mask":
        _check_lengths(place, int(str(arguments.get("prefix", 0))))
    elif name in {"mean", "masked_fill"} and len(place.values) > 1:
        value, x = place.values[1], place.values[0]
        if not value.is_mask:
            raise place.misfit("but its second input is a mask, such as padding_mask gives", "/inputs/1")
        if name == "mean" and (arguments.get("dim") not in (1, [1]) or value.shape != x.shape[:2]):
            raise place.misfit("but a mean over real positions has dim 1 and a mask (n, T) for an input (n, T, ...)")


def _check_lengths(place: Place, prefix: int) -> None:
    sequence, lengths = place.values
    if lengths.is_float or lengths.is_mask or lengths.shape not in {lengths.shape[:1], (*lengths.shape[:1], 1)}:
        raise place.misfit("but its second input is the lengths of the rows, one whole number each", "/inputs/1")
    if len(sequence.shape) < 2:
        raise place.misfit("but its first input is a sequence (n, T, ...)", "/inputs/0")
    if lengths.integers is not None and lengths.integers - 1 + prefix > sequence.shape[1]:
        detail = f"but the lengths go up to {lengths.integers - 1 + prefix}" + f", the prefix of {prefix} counted" * bool(
            prefix
        )
        raise place.misfit(detail, "/inputs/1")


def hides_rows(name: str, place: Place, arguments: Mapping[str, object]) -> bool:
    """Whether an operation's mask may be True all over a row."""
    if name == "padding_mask":
        least = place.values[1].least
        return least is not None and least + int(str(arguments.get("prefix", 0))) < 1
    return any(value.hides_rows for value in place.values)


def least(values: tuple[Value, ...]) -> float | None:
    """The smallest whole number among several inputs that are only moved about."""
    known = [value.least for value in values]
    return None if None in known else min((n for n in known if n is not None), default=None)
