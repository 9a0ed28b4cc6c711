"""The schemas in the catalog let through what the server takes, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from jobs.arguments import check_arguments
from jobs.catalog import DATASETS, SECTIONS, Argument, Entry, catalog
from jobs.components import LayerComponent
from jobs.entry_schemas import dataset_schema, entry_schema
from jobs.examples import example

USABLE = [e for section in SECTIONS for e in catalog().section(section).values() if e.refused is None]
VALUES: list[Any] = [
    None, True, "none", "macro", "mean", "", -1, 0, 1, 2, 70_000, -0.5, 0.5, 1.5, 1e9 + 0.5, [], [1], [1, 1], [1, 1, 1],
    [0.5, 0.25], [-1, 70_000], [None, 1], [1, "x"], [True], {}, [0] * 1001,
]  # fmt: skip
# Their inside is checked one level further down.
APART = {"layer", "layers", "schedulers", "expression", "expressions"}


def valid(schema: dict[str, Any], value: Any) -> bool:
    return Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize("entry", USABLE, ids=lambda e: f"{e.section}-{e.name}")
def test_the_example_fits_the_schema(entry: Entry) -> None:
    made = example(entry.section, entry.name)
    assert made is not None
    schema = entry_schema(entry)
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(made.component)
    assert not valid(schema, made.component | {"lrr": 1})
    for name in schema["required"]:
        assert not valid(schema, {n: v for n, v in made.component.items() if n != name})


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_fits_its_schema(name: str) -> None:
    made = example("datasets", name)
    assert made is not None
    augmented = made.component | {"transforms": [{"type": "GaussianNoise", "sigma": 0.1}]}
    assert valid(dataset_schema(name), augmented)
    assert not valid(dataset_schema(name), augmented | {"name": "mnist"})


def comparable(entry: Entry, argument: Argument, value: Any) -> bool:
    """A whole number that a layer takes as a number is bounded, the same with a fraction is not: no schema tells them apart."""
    numbers = value if isinstance(value, list) else [value]
    return not (entry.section == "layers" and 70_000 in numbers and {"number", "numbers"} & set(argument.forms))


@pytest.mark.parametrize("entry", USABLE, ids=lambda e: f"{e.section}-{e.name}")
def test_schema_and_server_agree_on_every_argument(entry: Entry) -> None:
    properties = entry_schema(entry)["properties"]
    for name, argument in entry.usable().items():
        validator = Draft202012Validator(properties[name])
        for value in VALUES if not APART & set(argument.forms) else []:
            taken = not list(check_arguments(entry, {name: value}, "", whole=False))
            assert not comparable(entry, argument, value) or validator.is_valid(value) == taken, (name, value)


OWN: list[tuple[str, str, dict[str, Any], bool]] = [
    ("losses", "MSELoss", {"inputs": {"target": "x"}}, True),
    ("losses", "MSELoss", {"inputs": {"targets": "x"}}, False),
    ("lr_schedulers", "StepLR", {"step_size": 1, "interval": "iteration"}, True),
    ("lr_schedulers", "StepLR", {"step_size": 1, "interval": "batch"}, False),
    ("lr_schedulers", "StepLR", {"step_size": 1, "monitor": "val/loss"}, False),
    ("lr_schedulers", "ReduceLROnPlateau", {"monitor": "val/loss"}, True),
    ("metrics", "MeanSquaredError", {"name": "mse", "inputs": {"preds": "head"}}, True),
    ("metrics", "MeanSquaredError", {"name": "a b"}, False),
    (
        "optimizers",
        "Adam",
        {"param_groups": [{"params": "*.bias", "weight_decay": 0}, {"params": ["0"], "frozen": True}]},
        True,
    ),
    ("optimizers", "Adam", {"param_groups": [{"params": ["0"], "frozen": True, "lr": 1}]}, False),
    ("optimizers", "Adam", {"param_groups": [{"params": ["0"], "momentum": 1}]}, False),
    ("optimizers", "Adam", {"rest": "SGD"}, False),
    ("optimizers", "LBFGS", {"param_groups": [{"params": ["0"]}]}, False),
    ("optimizers", "Muon", {"rest": {"type": "SGD", "lr": 1, "params": "*.bias"}}, True),
    ("optimizers", "Muon", {"rest": "LBFGS"}, False),
    ("initializers", "zeros_", {"params": "0"}, True),
    ("initializers", "zeros_", {}, False),
    ("layers", "Linear", {"out_features": 3, "inputs": ["x", "y"]}, False),
    ("layers", "Bilinear", {"out_features": 3}, False),
    ("operations", "cat", {"inputs": ["x"]}, False),
    ("operations", "split", {"inputs": ["x"], "split_size": 1}, True),
]


@pytest.mark.parametrize(("section", "name", "members", "fits"), OWN)
def test_postgrads_own_members_are_in_the_schema(section: str, name: str, members: dict[str, Any], fits: bool) -> None:
    assert valid(entry_schema(catalog().section(section)[name]), {"type": name, **members}) is fits


def test_a_layer_of_a_sequential_has_no_inputs() -> None:
    schema = LayerComponent.model_json_schema()
    assert valid(schema, {"type": "Linear", "out_features": 3})
    assert not valid(schema, {"type": "Linear", "out_features": 3, "inputs": ["x"]})
