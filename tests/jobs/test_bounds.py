"""Numbers that torch's constructors take and that end a run later: they are out of bounds."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.arguments import check_component

CONVOLUTIONS = [f"Conv{kind}{d}d" for kind in ("", "Transpose") for d in (1, 2, 3)]


def problems(section: str, body: dict[str, Any]) -> list[tuple[str, str]]:
    return [(p.pointer, p.code) for p in check_component(section, body, "")]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_no_convolution_has_a_negative_padding(name: str) -> None:
    body = {"type": name, "out_channels": 2, "kernel_size": 3, "padding": -1}
    assert problems("layers", body) == [("/padding", "out_of_range")]
    assert problems("layers", {**body, "padding": 0}) == []


@pytest.mark.parametrize("body", [{"type": "Unfold"}, {"type": "Fold", "output_size": 4}], ids=lambda b: b["type"])
def test_blocks_have_no_negative_padding(body: dict[str, Any]) -> None:
    body = {**body, "kernel_size": 2}
    assert problems("layers", {**body, "padding": -1}) == [("/padding", "out_of_range")]
    assert problems("layers", {**body, "padding": [0, -1]}) == [("/padding/1", "out_of_range")]
    assert problems("layers", {**body, "padding": 1}) == []


def test_a_layer_that_pads_may_cut_off_instead() -> None:
    assert problems("layers", {"type": "ZeroPad2d", "padding": -1}) == []


@pytest.mark.parametrize(
    ("body", "member"),
    [
        ({"type": "ConstantLR", "factor": 0}, "/factor"),
        ({"type": "LinearLR", "start_factor": 0}, "/start_factor"),
        ({"type": "PolynomialLR", "power": -1}, "/power"),
    ],
)
def test_no_schedule_divides_by_zero(body: dict[str, Any], member: str) -> None:
    assert problems("lr_schedulers", body) == [(member, "out_of_range")]
