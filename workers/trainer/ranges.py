"""Which values an output of the model can have, by the layers that lead to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.trainer.model import ModelOutput

# Layers whose output lies in [0, 1], and layers behind them that leave it there.
PROBABILITIES = frozenset({"Sigmoid", "Hardsigmoid", "Softmax", "Softmax2d", "Softmin"})
TRANSPARENT = frozenset(
    {"Flatten", "Unflatten", "Identity", "flatten", "reshape", "view", "squeeze", "unsqueeze", "permute", "transpose", "select"}
)
POSITIVE = frozenset({"Softplus", "Sigmoid", "Softmax", "Softmax2d", "Softmin"})  # greater than 0 but for float32's underflow
NOT_NEGATIVE = PROBABILITIES | POSITIVE | {"ReLU", "ReLU6"}


def ends_with(kinds: frozenset[str], name: str, outputs: Sequence[ModelOutput]) -> bool:
    """Whether the last layer that computes an output is one of these; True for an output that nothing is known of."""
    output = next((output for output in outputs if output.name == name), None)
    if output is None or not output.layers:
        return True
    return next((layer.type for layer in output.layers if layer.type not in TRANSPARENT), "") in kinds


def last_layer(name: str, outputs: Sequence[ModelOutput]) -> str:
    """Pointer to the last layer of an output."""
    return next(output.layers[0].pointer for output in outputs if output.name == name)
