"""The JSON Schema of each entry of the catalog as it stands in a spec, with the members that are postgrad's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.catalog import Entry
from jobs.components import Component, LossComponent, MetricComponent
from jobs.data_spec import BuiltinDataset
from jobs.model_spec import Initializer, NodeComponent
from jobs.optimizer_spec import OptimizerComponent
from jobs.scheduler_spec import SchedulerComponent

KINDS: Mapping[str, type[Component]] = {
    "losses": LossComponent,
    "optimizers": OptimizerComponent,
    "lr_schedulers": SchedulerComponent,
    "layers": NodeComponent,
    "operations": NodeComponent,
    "initializers": Initializer,
    "metrics": MetricComponent,
}


def entry_schema(entry: Entry) -> dict[str, Any]:
    """JSON Schema of `{"type": name, ...}`. A layer of one input may stand in a Sequential, where it has no `inputs`."""
    schema = KINDS[entry.section].schema_of(entry)
    if entry.section == "layers" and entry.inputs[0] == 1:
        schema["required"].remove("inputs")
    return schema


def dataset_schema(name: str) -> dict[str, Any]:
    """JSON Schema of a built-in data set in a spec."""
    schema = BuiltinDataset.model_json_schema()
    return schema | {"properties": schema["properties"] | {"name": {"const": name}}}
