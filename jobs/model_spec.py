"""Step 2 of a spec: the model, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from jobs.arguments import SpecProblem, check_component
from jobs.components import LayerComponent, Strict, long_component, own_members

MAX_LAYERS = 200


class SequentialModel(Strict):
    type: Literal["Sequential"]
    layers: Annotated[list[LayerComponent], Field(min_length=1, max_length=MAX_LAYERS)]


def long_model(model: Any) -> Any:
    """The model with short forms written long."""
    if isinstance(model, dict) and isinstance(model.get("layers"), list):
        return {**model, "layers": [long_component(layer) for layer in model["layers"]]}
    return model


def check_model(model: Any) -> Iterator[SpecProblem]:
    """Every problem with the arguments of a long-form model's layers."""
    layers = model.get("layers") if isinstance(model, dict) else None
    for index, layer in enumerate(layers[:MAX_LAYERS] if isinstance(layers, list) else []):
        yield from check_component("layers", layer, f"/model/layers/{index}", own_members(LayerComponent))
