"""One layer of torch.nn: sizes that follow from what comes in are filled in, given ones are checked, and it is constructed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from jobs.catalog import catalog
from jobs.model_spec import NESTED
from jobs.spec import Component
from workers.trainer.place import Place, first_line, plain

Filled = tuple[dict[str, Any], frozenset[str]]  # arguments, and the names of those that were inferred


class Follows(NamedTuple):
    """A size that equals a dimension of an input: which one, the batch counted, and how many the input has (0: any)."""

    argument: str
    dimension: int
    dimensions: int = 0
    input: int = 0


FOLLOWS: dict[str, tuple[Follows, ...]] = {
    "Linear": (Follows("in_features", -1),),
    **{f"Conv{d}d": (Follows("in_channels", 1, d + 2),) for d in (1, 2, 3)},
    **{f"ConvTranspose{d}d": (Follows("in_channels", 1, d + 2),) for d in (1, 2, 3)},
    "BatchNorm1d": (Follows("num_features", 1),),
    **{f"BatchNorm{d}d": (Follows("num_features", 1, d + 2),) for d in (2, 3)},
    **{f"InstanceNorm{d}d": (Follows("num_features", 1, d + 2),) for d in (1, 2, 3)},
    "GroupNorm": (Follows("num_channels", 1),),
    **dict.fromkeys(("RNN", "LSTM", "GRU"), (Follows("input_size", -1, 3),)),
    **dict.fromkeys(("RNNCell", "LSTMCell", "GRUCell"), (Follows("input_size", -1, 2),)),
    "MultiheadAttention": (Follows("embed_dim", -1, 3),),
    **dict.fromkeys(
        ("Transformer", "TransformerEncoderLayer", "TransformerDecoderLayer"),
        (Follows("d_model", -1, 3), Follows("d_model", -1, 3, input=1)),
    ),
    "Bilinear": (Follows("in1_features", -1), Follows("in2_features", -1, input=1)),
}
WHOLE_SHAPE = frozenset({"LayerNorm", "RMSNorm"})
OF_TOKENS = frozenset({"Embedding", "EmbeddingBag"})
# They only move numbers about, whatever their type.
ANY_TYPE = frozenset({"Flatten", "Unflatten", "Identity", "Sequential"})


def fill(place: Place) -> Filled:
    """The arguments with inferred sizes added, and which were. Raises BuildProblem when a given size does not fit."""
    _check_types(place)
    component, given = place.component, place.component.arguments()
    if component.type in WHOLE_SHAPE:
        return _fill_shape(given, place)
    added: dict[str, Any] = {}
    for rule in FOLLOWS.get(component.type, ()):
        if rule.input < len(place.values):
            size = _size(rule, place)
            if given.get(rule.argument, added.get(rule.argument, size)) != size:
                asked = given.get(rule.argument, added.get(rule.argument))
                raise place.misfit(f"so {rule.argument} is {size}, not {asked}", f"/{rule.argument}" * (rule.argument in given))
            added[rule.argument] = size
    if component.type in OF_TOKENS:
        added["num_embeddings"] = _vocabulary(given, place)
    if component.type == "MultiheadAttention":
        added |= _key_sizes(given, place)
    if "batch_first" in catalog().section("layers")[component.type].arguments:
        if given.get("batch_first") is False:
            raise place.misfit("the batch first: batch_first is true", "/batch_first")
        added["batch_first"] = True
    for name in NESTED:
        if isinstance(given.get(name), dict):
            given = {**given, name: _nested(given[name], name, place)}
    inferred = frozenset(added) - frozenset(n for n, v in given.items() if v is not None)
    return _in_order(component, {**added, **{n: v for n, v in given.items() if n not in inferred}}), inferred


def _check_types(place: Place) -> None:
    kind = place.component.type
    if kind in OF_TOKENS and (place.values[0].is_float or place.values[0].is_mask):
        what = "a mask" if place.values[0].is_mask else "float numbers"
        raise place.misfit(f"{what}, but it wants whole-number tokens (int64)")
    if kind.startswith("MaxUnpool") and not place.values[1].indices:
        raise place.misfit("but its second input is the indices of a pooling node, <node>.indices", "/inputs/1")
    floats = place.values[1:] if kind in OF_TOKENS else place.values[:1] if kind.startswith("MaxUnpool") else place.values
    if kind not in ANY_TYPE and not all(value.is_float for value in floats):
        raise place.misfit(place.not_numbers)


def _size(rule: Follows, place: Place) -> int:
    shape = place.values[rule.input].shape
    if (rule.dimensions and len(shape) != rule.dimensions) or len(shape) < 2:
        wanted = f"{rule.dimensions} dimensions" if rule.dimensions else "at least 2 dimensions"
        raise place.misfit(f"but it wants {wanted}, the batch counted")
    return shape[rule.dimension]


def _fill_shape(arguments: dict[str, Any], place: Place) -> Filled:
    given = arguments.get("normalized_shape")
    if given is None:
        return {"normalized_shape": list(place.shape[1:]), **arguments}, frozenset({"normalized_shape"})
    shape = tuple(given) if isinstance(given, list) else (given,)
    if not shape or place.shape[-len(shape) :] != shape:
        detail = f"so normalized_shape is {list(place.shape[1:])} or its end, not {str(given)[:60]}"
        raise place.misfit(detail, "/normalized_shape")
    return arguments, frozenset()


def _vocabulary(given: Mapping[str, Any], place: Place) -> int:
    """How many different tokens come in. A smaller table would fail in the middle of a run."""
    known, asked = place.values[0].integers, given.get("num_embeddings")
    if known is None and asked is None:
        detail = f"{place.node.title} needs num_embeddings: how many tokens its input holds is not known"
        raise place.problem("/num_embeddings", "missing", detail)
    if known is not None and asked is not None and asked < known:
        detail = f"{place.node.title} gets tokens 0 to {known - 1}, so num_embeddings is at least {known}, not {asked}"
        raise place.problem("/num_embeddings", "shape_mismatch", detail)
    return int(asked if asked is not None else known or 0)


def _key_sizes(given: Mapping[str, Any], place: Place) -> dict[str, int]:
    """kdim and vdim where key and value are not as wide as the query."""
    query, key, value = place.values[0], place.values[min(1, len(place.values) - 1)], place.values[-1]
    found = {}
    for name, source in (("kdim", key), ("vdim", value)):
        size = source.shape[-1]
        if given.get(name) not in (None, size):
            raise place.misfit(f"so {name} is {size}, not {given[name]}", f"/{name}")
        if size != query.shape[-1] and given.get(name) is None:
            found[name] = size
    return found


def _nested(body: dict[str, Any], name: str, place: Place) -> dict[str, Any]:
    """A layer inside a layer, its sizes filled in: all of them go by the width of what comes in."""
    shape = place.shape
    if len(shape) != 3:
        raise place.misfit("but it wants 3 dimensions, the batch counted")
    body = {k: v for k, v in body.items() if k != "mask"}  # the outer layer's mask is passed on to it
    if name == "norm":
        given = body.get("normalized_shape", shape[-1])
        if given not in (shape[-1], [shape[-1]]):
            raise place.misfit(f"so normalized_shape is {shape[-1]}", f"/{name}/normalized_shape")
        return {"type": body["type"], "normalized_shape": shape[-1], **body}
    for argument, value in (("d_model", shape[-1]), ("batch_first", True)):
        if body.get(argument, value) != value:
            raise place.misfit(f"so {argument} is {str(value).lower()}", f"/{name}/{argument}")
    return {"type": body["type"], "d_model": shape[-1], **body, "batch_first": True}


def _in_order(component: Component, arguments: dict[str, Any]) -> dict[str, Any]:
    known = catalog().section("layers")[component.type].arguments
    return {name: arguments[name] for name in known if name in arguments}


# ---- the module


def construct(kind: str, arguments: Mapping[str, Any]) -> nn.Module:
    """One layer of torch.nn, nested ones first, in the order of its arguments. Raises whatever the constructor raises."""
    known = catalog().section("layers")[kind].arguments
    made = {name: _made(value) for name, value in arguments.items() if not (name in known and known[name].of_call)}
    module: nn.Module = getattr(nn, kind)(**made)
    return module


def _made(value: Any) -> Any:
    if isinstance(value, dict):
        return construct(value["type"], {k: v for k, v in value.items() if k != "type"})
    return plain(value)


def construct_on_meta(place: Place, arguments: Mapping[str, Any]) -> nn.Module:
    """The layer without memory. Raises BuildProblem in the constructor's own words, at the argument they name."""
    try:
        with torch.device("meta"):
            return construct(place.component.type, arguments)
    except Exception as error:
        text = first_line(error)
        named = next((n for n in place.component.arguments() if re.search(rf"\b{re.escape(n)}\b", text)), None)
        member = f"/{named}" if named else ""
        raise place.problem(member, "invalid_argument", f"{place.node.title} cannot be built: {text}") from error


def read_back(kind: str, arguments: Mapping[str, Any], module: nn.Module | None) -> dict[str, Any]:
    """Every argument's value as the live module has it; what a module does not keep is what its constructor was given."""
    layers = catalog().section("layers")
    known = layers[kind].arguments if kind in layers else catalog().section("operations")[kind].arguments
    found = {}
    for name, argument in known.items():
        if argument.refused is not None or {"layer", "layers"} & set(argument.forms):
            continue
        told = arguments.get(name, argument.default)
        value = told if argument.of_call or module is None else getattr(module, name, told)
        if callable(value):  # a Dropout in place of its rate, a function in place of its name
            value = getattr(value, "p", told)
        # `bias=True` becomes a parameter called bias, `bias=False` the attribute None.
        if (name in arguments and isinstance(arguments[name], bool)) or isinstance(argument.default, bool):
            value = value is not None and value is not False
        found[name] = value
    return found
