"""`precision`: in 32 bits as written, or mixed: autocast to a 16-bit type around forward and loss, weights in float32.

The recipe is PyTorch's own (docs, "Automatic Mixed Precision examples"): with float16 the loss is scaled before backward, the
gradients are unscaled before they are clipped, and a step with an overflow is left out.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Precision:
    """How one run computes. `32-true` adds nothing to the plain loop."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._dtype, self._device = DTYPES.get(name), device.type
        # float16 has 5 bits of exponent: small gradients would become 0 without a scale.
        self._scaler = torch.amp.GradScaler(device.type) if self._dtype is torch.float16 else None

    def autocast(self) -> AbstractContextManager[Any]:
        """For forward and loss."""
        return nullcontext() if self._dtype is None else torch.autocast(self._device, self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss, scaled until `unscale` or `step`."""
        scaled = loss if self._scaler is None else self._scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]

    def unscale(self, optimizer: Optimizer) -> None:
        """The gradients as they are, for clipping."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """One step of the optimizer; none when a gradient overflowed, after which the scale is halved."""
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(optimizer)
            self._scaler.update()

    def state(self) -> dict[str, Any]:
        """The scale and its history, for a checkpoint."""
        return {} if self._scaler is None else self._scaler.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        if self._scaler is not None:
            self._scaler.load_state_dict(state)
