"""How a layer of torch.nn is called: most with one tensor; here are those with states, masks, several inputs or tuples.

A call is given the module and the node's inputs, and gives its output, or a tuple of it and of what else the layer has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workers.trainer.masks import masked_mean, padding_mask

Call = Callable[..., Tensor | tuple[Tensor, ...]]


def call_of(kind: str, arguments: Mapping[str, Any], masks: Sequence[str] = ()) -> Call:
    """How a layer of this class is called; `arguments` holds those that no constructor takes (`output`, `mask`).

    `masks` are the names of the last of its inputs.
    """
    if kind in ("RNN", "LSTM", "GRU"):
        return functools.partial(recurrent, last=arguments.get("output") == "last")
    if kind in MASKED:
        call = functools.partial(MASKED[kind], causal=arguments.get("mask") == "causal")
        mean = arguments.get("output") == "mean"
        return functools.partial(_with_masks, call, tuple(masks), mean) if masks or mean else call
    return OTHERS.get(kind, plain)


def plain(module: nn.Module, *inputs: Tensor) -> Any:
    return module(*inputs)


def recurrent(module: nn.RNNBase, x: Tensor, *state: Tensor, last: bool) -> tuple[Tensor, ...]:
    """All time steps or the last, and the final states; states have the batch first, (n, layers * directions, size)."""
    if x.is_meta:
        return _recurrent_shapes(module, x, *state, last=last)
    first = tuple(s.transpose(0, 1).contiguous() for s in state)
    output, final = module(x, None if not first else first if len(first) > 1 else first[0])
    states = final if isinstance(final, tuple) else (final,)
    return (output[:, -1] if last else output, *(s.transpose(0, 1) for s in states))


def _recurrent_shapes(module: nn.RNNBase, x: Tensor, *state: Tensor, last: bool) -> tuple[Tensor, ...]:
    """What the sizes say: on the meta device torch walks through the time steps, seconds for a thousand of them.

    Laid out as the kernels do, the time first in memory: a `view` that they cannot give fails here too, and Flatten copies.
    """
    layers = module.num_layers * (2 if module.bidirectional else 1)
    size = module.proj_size or module.hidden_size
    sizes = [size, module.hidden_size] if isinstance(module, nn.LSTM) else [size]
    if x.dim() != 3 or x.shape[2] != module.input_size:
        raise ValueError(f"it wants (n, time steps, {module.input_size})")
    states = tuple(x.new_empty(layers, len(x), s).transpose(0, 1) for s in sizes)
    if state and [s.shape for s in state] != [s.shape for s in states]:
        raise ValueError(f"it wants a state of {' and '.join(str((layers, s)) for s in sizes)} for each row, or none")
    output = x.new_empty(x.shape[1], len(x), layers // module.num_layers * size).transpose(0, 1)
    return (output[:, -1] if last else output, *states)


def _lstm_cell(module: nn.LSTMCell, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
    hidden, cell = module(x, state or None)
    return hidden, cell


def _bilinear(module: nn.Bilinear, first: Tensor, second: Tensor) -> Tensor:
    if not first.is_meta:
        output: Tensor = module(first, second)
        return output
    if first.shape[:-1] != second.shape[:-1]:  # else the sizes say it all: torch would walk through the output's features
        raise ValueError("both inputs have the same sizes but for the last")
    return first.new_empty(*first.shape[:-1], module.out_features)


def _embedding_bag(module: nn.EmbeddingBag, tokens: Tensor, *weights: Tensor) -> Any:
    return module(tokens, per_sample_weights=weights[0] if weights else None)


def causal_mask(x: Tensor) -> Tensor:
    """-inf above the diagonal, (T, T) for the T time steps of `x`: no step looks at a later one."""
    return nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)


def _with_masks(call: Callable[..., Any], names: tuple[str, ...], mean: bool, module: nn.Module, *given: Tensor) -> Any:
    """The call with the last tensors under their names, lengths made into masks; of its output the `mean` over time steps."""
    inputs, last = given[: len(given) - len(names)], given[len(given) - len(names) :]
    masks = {n: m if m.dtype == torch.bool else padding_mask(inputs[0], m) for n, m in zip(names, last, strict=True)}
    # On the meta device eval mode's way through nested tensors has no kernels; its sizes are the same without a mask.
    output = call(module, *inputs, **({} if inputs[0].is_meta and not module.training else masks))
    if not mean:
        return output
    return masked_mean(output, next(iter(masks.values()))) if masks else output.mean(1)


def _attention(module: nn.MultiheadAttention, *inputs: Tensor, causal: bool, **padding: Tensor) -> Tensor:
    query = inputs[0]
    key = inputs[1] if len(inputs) > 1 else query
    mask = causal_mask(query) if causal else None
    output: Tensor = module(query, key, inputs[-1], need_weights=False, attn_mask=mask, is_causal=causal, **padding)[0]
    return output


def _encoder_layer(module: nn.Module, x: Tensor, *, causal: bool, **padding: Tensor) -> Any:
    return module(x, src_mask=causal_mask(x), is_causal=True, **padding) if causal else module(x, **padding)


def _encoder(module: nn.Module, x: Tensor, *, causal: bool, **padding: Tensor) -> Any:
    return module(x, mask=causal_mask(x), is_causal=True, **padding) if causal else module(x, **padding)


def _decoder(module: nn.Module, first: Tensor, second: Tensor, *, causal: bool, target: int, **padding: Tensor) -> Any:
    if not causal:
        return module(first, second, **padding)
    return module(first, second, tgt_mask=causal_mask((first, second)[target]), tgt_is_causal=True, **padding)


MASKED: dict[str, Callable[..., Any]] = {
    "MultiheadAttention": _attention,
    "TransformerEncoderLayer": _encoder_layer,
    "TransformerEncoder": _encoder,
    "TransformerDecoderLayer": functools.partial(_decoder, target=0),
    "TransformerDecoder": functools.partial(_decoder, target=0),
    "Transformer": functools.partial(_decoder, target=1),
}
OTHERS: dict[str, Call] = {"LSTMCell": _lstm_cell, "Bilinear": _bilinear, "EmbeddingBag": _embedding_bag}


def reach(kind: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Numbers of the largest tensor inside attention: the scores of all heads, or the feed-forward part."""
    x, other = inputs[0], inputs[1] if len(inputs) > 1 else inputs[0]
    if kind not in MASKED or x.dim() != 3 or other.dim() != 3:
        return 0
    attentions = [m for m in module.modules() if isinstance(m, nn.MultiheadAttention)]
    heads = max((m.num_heads for m in attentions), default=1)
    longest = max(x.shape[1], other.shape[1])
    wide = max((m.out_features for m in module.modules() if isinstance(m, nn.Linear)), default=0)
    return len(x) * max(heads * longest * longest, longest * wide)
