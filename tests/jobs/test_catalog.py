"""The catalog names what the installed torch has, in a form a client can check against."""

from __future__ import annotations

from jobs.catalog import SECTIONS, catalog


def test_all_of_torch_is_named() -> None:
    losses = set(catalog().section("losses"))
    assert {"BCELoss", "CTCLoss", "CrossEntropyLoss", "TripletMarginLoss"} <= losses
    assert {"Adam", "LBFGS", "Muon", "SGD"} <= set(catalog().section("optimizers"))
    assert {"Conv2d", "LSTM", "Linear", "Transformer"} <= set(catalog().section("layers"))
    assert {"LambdaLR", "OneCycleLR", "ReduceLROnPlateau"} <= set(catalog().section("lr_schedulers"))
    assert {"BinaryAccuracy", "MulticlassAUROC", "R2Score"} <= set(catalog().section("metrics"))


def test_adams_arguments_carry_torchs_defaults() -> None:
    adam = catalog().section("optimizers")["Adam"].arguments
    assert {n: adam[n].default for n in ("lr", "betas", "eps", "weight_decay", "amsgrad")} == {
        "lr": 0.001,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": 0,
        "amsgrad": False,
    }


def test_every_usable_argument_has_a_schema() -> None:
    for section in SECTIONS:
        for entry in catalog().section(section).values():
            if entry.refused is None:
                schema = entry.json_schema()
                assert schema["properties"]["type"] == {"const": entry.name}
                assert all(required in schema["properties"] for required in schema["required"])


def test_what_the_loop_cannot_drive_says_why() -> None:
    for section, name in (("optimizers", "LBFGS"), ("losses", "CTCLoss"), ("lr_schedulers", "LambdaLR"), ("layers", "LSTM")):
        assert len((catalog().section(section)[name].refused or "").split()) > 4
