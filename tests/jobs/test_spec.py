"""Reading a spec: strict types, pointers, short forms, and everything that is not supported yet refused by name."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from jobs.spec import LATER, LATER_TYPES, InvalidSpec, parse

GOOD: dict[str, Any] = {
    "epochs": 2,
    "dataset": {"name": "iris", "type": "builtin"},
    "model": {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 3}, "ReLU"]},
    "loss": "CrossEntropyLoss",
    "optimizer": {"lr": 0.1, "type": "Adam"},
    "batch_size": 16,
    "metrics": ["MulticlassAccuracy"],
}
FILE = {"type": "file", "id": "file_" + "0" * 24, "target": "y"}
GONE = object()


def changed(pointer: str, value: Any) -> dict[str, Any]:
    body = copy.deepcopy(GOOD)
    *parents, last = pointer.split("/")[1:]
    holder: Any = body
    for key in parents:
        if isinstance(holder, list):
            holder = holder[int(key)]
        else:
            if isinstance(holder.get(key), str):
                holder[key] = {"type": holder[key]}
            holder = holder.setdefault(key, {})
    if value is GONE:
        del holder[last]
    else:
        holder[int(last) if isinstance(holder, list) else last] = value
    return body


def problems(body: object) -> list[tuple[str, str, str]]:
    with pytest.raises(InvalidSpec) as caught:
        parse(body)
    for problem in caught.value.problems:
        problem.pointer.encode()  # can be sent
        problem.detail.encode()
    return [(p.pointer, p.code, p.detail) for p in caught.value.problems]


@pytest.mark.parametrize(
    ("pointer", "value", "code"),
    [
        ("/batch_size", True, "wrong_type"),
        ("/batch_size", "16", "wrong_type"),
        ("/batch_size", 16.0, "wrong_type"),
        ("/batch_size", 65537, "out_of_range"),
        ("/epochs", 0, "out_of_range"),
        ("/seed", 2**63, "out_of_range"),
        ("/seed", -1, "out_of_range"),
        ("/shuffle", 1, "wrong_type"),
        ("/shuffle", "true", "wrong_type"),
        ("/max_grad_norm", "1", "wrong_type"),
        ("/max_grad_norm", True, "wrong_type"),
        ("/max_grad_norm", 0, "out_of_range"),
        ("/timeout_seconds", float("inf"), "out_of_range"),
        ("/threads", 65, "out_of_range"),
        ("/name", "", "out_of_range"),
        ("/metadata", {"a": 1}, "wrong_type"),
        ("/optimizer/lr", "0.1", "wrong_type"),
        ("/optimizer/lr", True, "wrong_type"),
        ("/optimizer/lr", float("nan"), "wrong_type"),
        ("/optimizer/amsgrad", 1, "wrong_type"),
        ("/model/layers/0/out_features", 3.0, "wrong_type"),
        ("/model/layers/0/out_features", 65537, "out_of_range"),
        ("/model/layers/0/bias", 0, "wrong_type"),
        ("/optimizer/betas", [0.9, True], "wrong_type"),
        ("/dataset/name", "mnist", "unknown_choice"),
        ("/lr_scheduler", {"type": "StepLR", "step_size": 1, "interval": "week"}, "unknown_choice"),
        ("/checkpoint/keep", 0, "out_of_range"),
        ("/split", {"train": 0.5, "val": 0.6}, "out_of_range"),
        ("/split", {"val": 1.0}, "out_of_range"),
        ("/split", {}, "out_of_range"),
        ("/model/layers", ["ReLU"] * 201, "out_of_range"),
        ("/metrics", ["MulticlassAccuracy"] * 2, "duplicate"),
    ],
)
def test_values_are_strict_and_bounded(pointer: str, value: Any, code: str) -> None:
    found = problems(changed(pointer, value))
    asked = {"/metadata": "/metadata/a", "/lr_scheduler": "/lr_scheduler/interval"}.get(pointer, pointer)
    assert [(p, c) for p, c, _ in found] == [(asked, code)]


@pytest.mark.parametrize(
    ("pointer", "hint"),
    [
        ("/epoch", "epochs"),
        ("/dataset/normalise", "normalize"),
        ("/split/trian", "train"),
        ("/checkpoint/kep", "keep"),
        ("/optimizer/weight_deacy", "weight_decay"),
        ("/model/layers/0/out_feature", "out_features"),
        ("/loss/reducton", "reduction"),
    ],
)
def test_an_unknown_field_is_told_with_the_nearest(pointer: str, hint: str) -> None:
    found = [p for p in problems(changed(pointer, 1)) if p[1] == "unknown_field"]
    assert [p for p, _, _ in found] == [pointer]
    assert f'did you mean "{hint}"?' in found[0][2]


@pytest.mark.parametrize("pointer", ["/dataset", "/model", "/loss", "/optimizer", "/batch_size", "/epochs", "/dataset/type",
                                     "/model/layers", "/optimizer/type", "/model/layers/0/out_features"])  # fmt: skip
def test_a_missing_member_is_told_with_the_pointer_it_would_have(pointer: str) -> None:
    assert [(p, c) for p, c, _ in problems(changed(pointer, GONE))] == [(pointer, "missing")]


def test_every_problem_is_told_at_once() -> None:
    body = {**changed("/optimizer/lr", -1), "epochs": "2", "sede": 1, "loss": "MSELos"}
    assert {p for p, _, _ in problems(body)} == {"/optimizer/lr", "/epochs", "/sede", "/loss/type"}


@pytest.mark.parametrize("pointer", LATER)
def test_what_comes_later_is_refused_by_name(pointer: str) -> None:
    assert (pointer, "not_supported", LATER[pointer]) in problems(changed(pointer, True))


@pytest.mark.parametrize(("pointer", "value"), [(p, v) for p, values in LATER_TYPES.items() for v in values])
def test_forms_that_come_later_are_refused_by_name(pointer: str, value: str) -> None:
    assert problems(changed(pointer, value))[0][:2] == (pointer, "not_supported")


def test_inexact_training_is_refused_by_name() -> None:
    assert [(p, c) for p, c, _ in problems(changed("/exact", False))] == [("/exact", "not_supported")]


def test_short_forms_are_stored_long_in_the_order_they_came() -> None:
    spec = parse(copy.deepcopy(GOOD))
    long = spec.long_form()
    assert list(long) == list(GOOD)
    assert list(long["optimizer"]) == ["lr", "type"]
    assert long["loss"] == {"type": "CrossEntropyLoss"}
    assert long["metrics"] == [{"type": "MulticlassAccuracy"}]
    assert long["model"]["layers"][1] == {"type": "ReLU"}
    assert parse({**GOOD, "dataset": FILE}).long_form()["dataset"]["target"] == ["y"]
    assert spec.optimizer.arguments() == {"lr": 0.1}


def test_the_canonical_text_parses_to_itself_and_the_body_is_left_alone() -> None:
    body = copy.deepcopy(GOOD) | {"metadata": {"größe": "日本"}, "seed": 2**63 - 1, "max_grad_norm": 1}
    before = copy.deepcopy(body)
    spec = parse(body)
    again = parse(json.loads(spec.canonical()))
    assert body == before
    assert again == spec
    assert again.canonical() == spec.canonical()


@pytest.mark.parametrize(
    "split",
    [
        {"train": 1},
        {"train": 0.5, "val": 0.5},
        {"train": 0.7, "val": 0.2, "test": 0.1},
        {"train": 0.5, "test": 0.5, "seed": 0},
    ],
)
def test_fractions_that_sum_to_one_are_taken(split: dict[str, Any]) -> None:
    assert parse({**GOOD, "split": split}).split.train == split["train"]


HUGE, LONE = 10**5000, "\ud800"


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        *((p, HUGE) for p in ("/epochs", "/seed", "/max_grad_norm", "/optimizer/lr", "/dataset/name",
                              "/loss/type", "/split/train", "/model/layers/0/out_features")),
        ("/dataset/type", 10**4000),  # one of more digits is no JSON to Python
        *((p, LONE) for p in ("/name", "/loss", "/optimizer/type", "/dataset/type", "/device", "/metadata/a")),
        (f"/{LONE}", 1), (f"/optimizer/{LONE}", 1), (f"/metadata/{LONE}", "a"),
        ("/metrics/0", {"type": "MulticlassAccuracy", "name": LONE}),
    ],
    ids=lambda v: ascii(v)[:30] if not isinstance(v, int) else "huge",
)  # fmt: skip
def test_huge_numbers_and_lone_surrogates_are_problems_not_crashes(pointer: str, value: Any) -> None:
    assert problems(changed(pointer, value))


@pytest.mark.parametrize("member", ["dataset", "split", "model", "loss", "optimizer", "metrics", "checkpoint", "metadata"])
@pytest.mark.parametrize("value", [None, 7, "?", [], [[]], {"type": []}, {"type": {}}, True])
def test_any_json_in_any_place_is_answered(member: str, value: Any) -> None:
    try:
        parse({**GOOD, member: value})
    except InvalidSpec as error:
        pointers = [p.pointer for p in error.problems]
    else:
        pointers = []
    assert all(p == "" or p.startswith("/") for p in pointers)


@pytest.mark.parametrize("body", [None, [], 7, "?", True])
def test_a_spec_is_an_object(body: object) -> None:
    assert [(p, c) for p, c, _ in problems(body)] == [("", "wrong_type")]
