"""The catalog names what the installed torch has, in a form a client can check against."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from jobs import supplement
from jobs.catalog import SECTIONS, Entry, catalog

ENTRIES = [entry for section in SECTIONS for entry in catalog().section(section).values()]


def entry(section: str, name: str) -> Entry:
    return catalog().section(section)[name]


def test_all_of_torch_is_named() -> None:
    assert {"BCELoss", "CTCLoss", "CrossEntropyLoss", "TripletMarginLoss"} <= set(catalog().section("losses"))
    assert {"Adam", "LBFGS", "Muon", "SGD"} <= set(catalog().section("optimizers"))
    assert {"Conv2d", "LSTM", "Linear", "Transformer", "LazyLinear"} <= set(catalog().section("layers"))
    assert {"LambdaLR", "OneCycleLR", "ReduceLROnPlateau"} <= set(catalog().section("lr_schedulers"))
    assert {"BinaryAUROC", "MulticlassAUROC", "R2Score", "Accuracy"} <= set(catalog().section("metrics"))


@pytest.mark.parametrize(
    ("section", "name"),
    [
        *(("metrics", name) for name in ("BinaryAUROC", "MulticlassAUROC", "MulticlassF1Score", "MeanSquaredError")),
        *(("losses", name) for name in ("BCELoss", "CrossEntropyLoss", "HuberLoss")),
        *(("layers", name) for name in ("Conv2d", "BatchNorm1d", "Dropout", "Flatten", "Linear")),
        *(("lr_schedulers", name) for name in ("CosineAnnealingLR", "OneCycleLR", "ReduceLROnPlateau")),
    ],
)
def test_what_everybody_uses_may_be_used(section: str, name: str) -> None:
    assert entry(section, name).refused is None


def test_adams_arguments_carry_torchs_defaults() -> None:
    adam = entry("optimizers", "Adam").arguments
    assert {n: adam[n].default for n in ("lr", "betas", "eps", "weight_decay", "amsgrad")} == {
        "lr": 0.001,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": 0,
        "amsgrad": False,
    }


def test_a_schema_says_forms_bounds_and_lengths() -> None:
    betas = entry("optimizers", "Adam").json_schema()["properties"]["betas"]
    assert betas["items"] == {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
    assert (betas["minItems"], betas["maxItems"]) == (2, 2)
    conv = entry("layers", "Conv2d").json_schema()
    assert conv["required"] == ["type", "out_channels", "kernel_size"]  # in_channels follows from the layer before
    assert "device" not in conv["properties"]
    assert entry("layers", "Conv1d").arguments["kernel_size"].length == 1
    assert entry("layers", "ZeroPad2d").arguments["padding"].length == 4


@pytest.mark.parametrize("found", ENTRIES, ids=lambda e: f"{e.section}-{e.name}")
def test_every_entry_has_a_schema_that_holds_together(found: Entry) -> None:
    schema = json.loads(json.dumps(found.json_schema(), allow_nan=False))
    assert schema["properties"]["type"] == {"const": found.name}
    assert set(schema["required"]) <= set(schema["properties"])
    assert found.refused is None or len(found.refused.split()) > 3


@pytest.mark.parametrize("argument", ["device", "dtype", "foreach", "fused", "capturable", "size_average", "last_epoch"])
def test_what_postgrad_decides_is_refused_everywhere(argument: str) -> None:
    having = [found.arguments[argument] for found in ENTRIES if argument in found.arguments]
    assert having
    assert all(a.refused for a in having)


def test_recurrent_layers_have_the_arguments_their_signature_hides() -> None:
    assert {"input_size", "hidden_size", "num_layers", "bidirectional"} <= set(entry("layers", "LSTM").arguments)


@pytest.mark.parametrize("table", [supplement.FORMS, supplement.CHOICES, supplement.BOUNDS])
def test_the_supplement_speaks_of_nothing_that_is_gone(table: dict[str, object]) -> None:
    arguments = {a for found in ENTRIES for a in found.arguments} | {
        f"{found.name}.{a}" for found in ENTRIES for a in found.arguments
    }
    assert set(table) <= arguments


def test_the_supplement_refuses_nothing_that_is_gone() -> None:
    for section, names in supplement.REFUSED.items():
        assert set(names) <= set(catalog().section(section))
    assert set(supplement.REFUSED_ARGUMENTS) <= {a for found in ENTRIES for a in found.arguments}


def test_reading_the_catalog_and_the_spec_loads_no_torch() -> None:
    code = "import sys, jobs.spec, jobs.catalog; jobs.catalog.catalog(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
