"""The spec: what is accepted and kept, and that everything wrong is said at once, where it is."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from jobs.model_spec import SequentialModel
from jobs.spec import FileDataset, InvalidSpec, JobSpec, SpecProblem, parse, posted, threads_for

GOOD: dict[str, Any] = {
    "name": "breast-cancer-mlp",
    "dataset": {"type": "builtin", "name": "breast_cancer", "normalize": "standard"},
    "split": {"train": 0.8, "val": 0.2},
    "model": {
        "type": "Sequential",
        "layers": [
            {"type": "Linear", "out_features": 64},
            {"type": "ReLU"},
            {"type": "Linear", "out_features": 1},
            {"type": "Sigmoid"},
        ],
    },
    "loss": {"type": "BCELoss", "reduction": "sum"},
    "optimizer": {"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0, "amsgrad": False},
    "lr_scheduler": {"type": "CosineAnnealingLR", "T_max": 20},
    "metrics": ["BinaryAccuracy"],
    "batch_size": 32,
    "epochs": 20,
    "metadata": {"team": "onboarding"},
}
GONE = object()
FILE = {"type": "file", "id": "file_" + "0" * 24, "target": "y"}


def changed(**members: Any) -> dict[str, Any]:
    """The good spec with members set; a `__` in a name goes one level down, GONE takes the member out."""
    body: Any = copy.deepcopy(GOOD)
    for path, value in members.items():
        *way, last = (int(step) if step.isdigit() else step for step in path.split("__"))
        holder = body
        for step in way:
            holder = holder[step]
        if value is GONE:
            del holder[last]
        else:
            holder[last] = value
    return dict(body)


def problems(body: object) -> list[SpecProblem]:
    with pytest.raises(InvalidSpec) as raised:
        parse(body)
    for problem in raised.value.problems:
        json.dumps([problem.pointer, problem.detail], ensure_ascii=False).encode()  # it can be answered as JSON
        assert problem.detail
    return raised.value.problems


def found(body: object) -> set[tuple[str, str]]:
    return {(problem.pointer, problem.code) for problem in problems(body)}


def test_the_stored_text_is_the_long_form_in_the_order_it_came() -> None:
    body = {"epochs": 3, **changed(loss="BCELoss", model__layers__1="ReLU", epochs=GONE)}
    stored = json.loads(parse(body).canonical())
    assert list(stored) == list(body)
    assert stored["loss"] == {"type": "BCELoss"}
    assert stored["model"]["layers"][1] == {"type": "ReLU"}
    assert stored["metrics"] == [{"type": "BinaryAccuracy"}]
    assert "seed" not in stored  # given fields only


def test_what_is_stored_reads_back_equal() -> None:
    spec = parse(changed(dataset=FILE, loss="BCELoss"))
    again = parse(json.loads(spec.canonical()))
    assert again == spec
    assert again.canonical() == spec.canonical()


def test_a_spec_is_not_changed_through_the_body_it_came_from() -> None:
    body = changed()
    spec = parse(body)
    body["optimizer"]["lr"] = 5
    assert json.loads(spec.canonical())["optimizer"]["lr"] == 1e-4
    assert spec.optimizer.arguments()["lr"] == 1e-4


def test_arguments_are_the_given_ones_under_torchs_names() -> None:
    spec = parse(changed(lr_scheduler={"type": "StepLR", "step_size": 2, "interval": "iteration"}))
    assert spec.lr_scheduler is not None
    assert (spec.lr_scheduler.interval, spec.lr_scheduler.arguments()) == ("iteration", {"step_size": 2})
    assert isinstance(spec.model, SequentialModel)
    assert spec.model.layers[0].arguments() == {"out_features": 64}
    assert spec.metrics[0].arguments() == {}


def test_defaults_are_those_of_the_contract() -> None:
    spec = parse(changed(split=GONE, metrics=GONE, lr_scheduler=GONE, name=GONE, metadata=GONE))
    assert (spec.seed, spec.shuffle, spec.drop_last, spec.device, spec.max_attempts) == (0, True, False, "auto", 3)
    assert (spec.precision, spec.exact, spec.on_nonfinite.type) == ("32-true", True, "fail")
    assert (spec.split.train, spec.split.val, spec.split.test, spec.split.seed) == (1.0, 0.0, 0.0, None)
    assert (spec.checkpoint.every_n_epochs, spec.checkpoint.every_seconds, spec.checkpoint.keep) == (None, 30.0, 2)


def test_threads_follow_from_the_spec_alone() -> None:
    assert threads_for(parse(changed())) == 1
    assert threads_for(parse(changed(threads=3))) == 3


def test_one_target_column_is_short_for_a_list() -> None:
    spec = parse(changed(dataset=FILE))
    assert isinstance(spec.dataset, FileDataset)
    assert spec.dataset.target == ["y"]


ACCEPTED: list[dict[str, Any]] = [
    {"optimizer__lr": 1},  # a whole number where torch wants a float
    {"optimizer__lr": 0},
    {"seed": 2**63 - 1},
    {"device": "cuda:1"},
    {"lr_scheduler": None},
    {"checkpoint": {"every_n_epochs": 1, "every_seconds": None}},
    {"split": {"train": 0.7, "val": 0.2, "test": 0.1}},  # 0.9999999999999999
    {"optimizer": {"type": "Adafactor", "eps": [None, 0.001]}},
    {"loss": {"type": "BCEWithLogitsLoss", "pos_weight": [2.5]}},
    {"metrics": [{"type": "MulticlassAccuracy", "average": "micro", "name": "top1"}, "MulticlassAccuracy"]},
    {"model__layers__0": {"type": "AdaptiveAvgPool2d", "output_size": [None, 3]}},
    {"model__layers__0": {"type": "Conv2d", "out_channels": 4, "kernel_size": [3, 5], "padding": "same"}},
]


@pytest.mark.parametrize("members", ACCEPTED, ids=json.dumps)
def test_it_is_accepted(members: dict[str, Any]) -> None:
    parse(changed(**members))


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"loss": "BCELos"}, "/loss", "unknown_type"),
    ({"loss__reduction": "none"}, "/loss/reduction", "unknown_choice"),
    ({"loss": {}}, "/loss/type", "missing"),
    ({"loss": 5}, "/loss", "wrong_type"),
    ({"loss": "NLLLoss2d"}, "/loss", "not_supported"),
    ({"loss": {"type": "NLLLoss2d"}}, "/loss/type", "not_supported"),
    ({"loss__size_average": True}, "/loss/size_average", "not_supported"),
    ({"loss__weight": [1, "a"]}, "/loss/weight/1", "wrong_type"),
    ({"optimizer__lr": True}, "/optimizer/lr", "wrong_type"),
    ({"optimizer__lr": "1"}, "/optimizer/lr", "wrong_type"),
    ({"optimizer__lr": None}, "/optimizer/lr", "wrong_type"),
    ({"optimizer__lr": float("nan")}, "/optimizer/lr", "out_of_range"),
    ({"optimizer__lr": float("inf")}, "/optimizer/lr", "out_of_range"),
    ({"optimizer__lr": 10**5000}, "/optimizer/lr", "out_of_range"),
    ({"optimizer__lr": -1}, "/optimizer/lr", "out_of_range"),
    ({"optimizer__betas": [0.9, 1.0]}, "/optimizer/betas/1", "out_of_range"),
    ({"optimizer__betas": [0.9]}, "/optimizer/betas", "out_of_range"),
    ({"optimizer__betas": 0.9}, "/optimizer/betas", "wrong_type"),
    ({"optimizer__fused": True}, "/optimizer/fused", "not_supported"),
    ({"optimizer": "Optimizer"}, "/optimizer", "unknown_type"),
    ({"optimizer": "LBFGS", "max_grad_norm": 1.0}, "/max_grad_norm", "not_supported"),
    ({"optimizer": "LBFGS", "accumulate_grad_batches": 2}, "/accumulate_grad_batches", "not_supported"),
    ({"optimizer__rest": "SGD"}, "/optimizer/rest", "not_supported"),
    ({"optimizer": {"type": "Muon", "rest": "LBFGS"}}, "/optimizer/rest", "not_supported"),
    ({"optimizer": {"type": "Muon", "rest": {"type": "SGD", "beta": 1}}}, "/optimizer/rest/beta", "unknown_field"),
    ({"optimizer__param_groups": {}}, "/optimizer/param_groups", "wrong_type"),
    ({"optimizer__param_groups": []}, "/optimizer/param_groups", "out_of_range"),
    ({"optimizer__param_groups": [{"lr": 1}]}, "/optimizer/param_groups/0/params", "missing"),
    ({"optimizer__param_groups": [{"params": []}]}, "/optimizer/param_groups/0/params", "out_of_range"),
    ({"optimizer__param_groups": [{"params": 5}]}, "/optimizer/param_groups/0/params", "wrong_type"),
    ({"optimizer__param_groups": [{"params": ["0", 1]}]}, "/optimizer/param_groups/0/params/1", "wrong_type"),
    ({"optimizer__param_groups": [{"params": "0", "lr": -1}]}, "/optimizer/param_groups/0/lr", "out_of_range"),
    ({"optimizer__param_groups": [{"params": "0", "momentum": 1}]}, "/optimizer/param_groups/0/momentum", "unknown_field"),
    ({"optimizer__param_groups": [{"params": "0", "fused": True}]}, "/optimizer/param_groups/0/fused", "not_supported"),
    ({"optimizer__param_groups": [{"params": "0", "frozen": 1}]}, "/optimizer/param_groups/0/frozen", "wrong_type"),
    ({"optimizer__param_groups": [{"params": "0", "frozen": True, "lr": 1}]}, "/optimizer/param_groups/0/lr", "out_of_range"),
    ({"lr_scheduler": "LambdaLR"}, "/lr_scheduler/lr_lambda", "missing"),
    ({"lr_scheduler": {"type": "LambdaLR", "lr_lambda": "lambda: 1"}}, "/lr_scheduler/lr_lambda", "out_of_range"),
    ({"lr_scheduler": {"type": "LambdaLR", "lr_lambda": ["1", "step"]}}, "/lr_scheduler/lr_lambda/1", "out_of_range"),
    ({"lr_scheduler": {"type": "LambdaLR", "lr_lambda": 5}}, "/lr_scheduler/lr_lambda", "wrong_type"),
    ({"lr_scheduler": {"type": "ChainedScheduler", "schedulers": "StepLR"}}, "/lr_scheduler/schedulers", "wrong_type"),
    ({"lr_scheduler": {"type": "ChainedScheduler", "schedulers": ["LR"]}}, "/lr_scheduler/schedulers/0", "unknown_type"),
    ({"lr_scheduler": {"type": "ChainedScheduler", "schedulers": [5]}}, "/lr_scheduler/schedulers/0", "wrong_type"),
    ({"lr_scheduler": "StepLR"}, "/lr_scheduler/step_size", "missing"),
    ({"lr_scheduler__interval": "step"}, "/lr_scheduler/interval", "unknown_choice"),
    ({"lr_scheduler__last_epoch": 3}, "/lr_scheduler/last_epoch", "not_supported"),
    ({"batch_size": True}, "/batch_size", "wrong_type"),
    ({"batch_size": 32.0}, "/batch_size", "wrong_type"),
    ({"batch_size": 65_537}, "/batch_size", "out_of_range"),
    ({"epochs": 100_001}, "/epochs", "out_of_range"),
    ({"epoch": 3}, "/epoch", "unknown_field"),
    ({"a~b/c": 1}, "/a~0b~1c", "unknown_field"),
    ({"seed": 2**63}, "/seed", "out_of_range"),
    ({"max_grad_norm": 10**400}, "/max_grad_norm", "out_of_range"),
    ({"timeout_seconds": float("nan")}, "/timeout_seconds", "out_of_range"),
    ({"name": "x" * 201}, "/name", "out_of_range"),
    ({"name": "\ud800"}, "/name", "not_text"),
    ({"metadata": {"\ud800": "x"}}, "/metadata", "not_text"),
    ({"metadata": {"a": "x" * 2001}}, "/metadata/a", "out_of_range"),
    ({"metadata": {str(n): "x" * 2000 for n in range(9)}}, "/metadata", "out_of_range"),
    ({"loss": {"type": "BCELoss", "\udfff": 1}}, "/loss", "not_text"),
    ({"model__layers": []}, "/model/layers", "out_of_range"),
    ({"model__layers": ["ReLU"] * 201}, "/model/layers", "out_of_range"),
    ({"model__layers__1": "Liner"}, "/model/layers/1", "unknown_type"),
    ({"model__layers__0__out_features": 0}, "/model/layers/0/out_features", "out_of_range"),
    ({"model__layers__0__out_features": 10**12}, "/model/layers/0/out_features", "out_of_range"),
    ({"model__layers__0__out_features": GONE}, "/model/layers/0/out_features", "missing"),
    ({"model__layers__0__device": "cuda"}, "/model/layers/0/device", "not_supported"),
    ({"model__layers__0": {"type": "RNNBase"}}, "/model/layers/0/type", "not_supported"),
    ({"model__layers__0": {"type": "LazyLinear"}}, "/model/layers/0/type", "not_supported"),
    ({"model__layers__0": {"type": "SyncBatchNorm"}}, "/model/layers/0/type", "not_supported"),
    (
        {"model__layers__0": {"type": "Conv2d", "out_channels": 3, "kernel_size": [3, 3, 3]}},
        "/model/layers/0/kernel_size",
        "out_of_range",
    ),
    ({"metrics": ["ROC"]}, "/metrics/0", "not_supported"),
    ({"metrics": ["Accuracy"]}, "/metrics/0", "not_supported"),
    ({"metrics": ["BinaryAccuracy"] * 2}, "/metrics", "duplicate"),
    ({"metrics": [{"type": "BinaryAccuracy", "name": "loss"}]}, "/metrics", "duplicate"),
    ({"metrics": [{"type": "MulticlassAccuracy", "average": "mean"}]}, "/metrics/0/average", "unknown_choice"),
    ({"split": {"train": 0.5, "val": 0.4}}, "/split", "out_of_range"),
    ({"split": {"val": 1.0}}, "/split", "out_of_range"),
    ({"split__val": -0.2}, "/split/val", "out_of_range"),
    ({"dataset__name": "irs"}, "/dataset/name", "unknown_choice"),
    ({"dataset": {"type": "fil"}}, "/dataset/type", "unknown_type"),
    ({"dataset": {}}, "/dataset/type", "missing"),
    ({"dataset": {**FILE, "target": ""}}, "/dataset/target", "out_of_range"),
    ({"dataset": {**FILE, "features": ["a", "a"]}}, "/dataset/features", "duplicate"),
    ({"dataset": {**FILE, "builtin": 1}}, "/dataset/builtin", "unknown_field"),
    # what belongs to a later release
    ({"accumulate_grad_batches": 0}, "/accumulate_grad_batches", "out_of_range"),
    ({"early_stopping": {"patience": 0}}, "/early_stopping/patience", "out_of_range"),
    ({"early_stopping": {"patient": 3}}, "/early_stopping/patient", "unknown_field"),
    ({"early_stopping": {"monitor": "val/acuracy"}}, "/early_stopping/monitor", "unknown_choice"),
    ({"priority": 1}, "/priority", "not_supported"),
    ({"precision": "bf16-mixed", "loss": "MSELoss"}, "/precision", "out_of_range"),
    ({"precision": "16"}, "/precision", "unknown_choice"),
    ({"precision": "bf16-mixed", "exact": False, "loss": "BCELoss"}, "/loss", "not_supported"),
    ({"exact": False}, "/exact", "not_supported"),
    ({"on_nonfinite": "ignore"}, "/on_nonfinite", "unknown_choice"),
    ({"on_nonfinite": {"lr_factor": 0.5}}, "/on_nonfinite/type", "missing"),
    ({"on_nonfinite": {"type": "skip", "lr_factor": 0.5}}, "/on_nonfinite/lr_factor", "not_supported"),
    ({"on_nonfinite": {"type": "rollback", "lr_factor": 0}}, "/on_nonfinite/lr_factor", "out_of_range"),
    ({"on_nonfinite": {"type": "rollback", "lr_factr": 1}}, "/on_nonfinite/lr_factr", "unknown_field"),
    ({"model": {"type": "python", "id": "file_" + "0" * 24}}, "/model/class", "missing"),
    ({"model__init_from": "job_1"}, "/model/init_from", "wrong_type"),
    ({"dataset": {"type": "python", "id": "file_" + "0" * 24}}, "/dataset/class", "missing"),
    ({"dataset": {"type": "python", "id": "x", "class": "D"}}, "/dataset/id", "out_of_range"),
    ({"dataset": {"type": "python", "id": "file_" + "0" * 24, "class": "D", "size": 3}}, "/dataset/size", "unknown_field"),
    ({"dataset": {"type": "python", "id": "file_" + "0" * 24, "class": "D"}, "device": "cuda"}, "/device", "not_supported"),
    ({"dataset__transforms": ["RandomFlip"]}, "/dataset/transforms/0", "unknown_type"),
    ({"dataset__transforms": [{"p": 1}]}, "/dataset/transforms/0/type", "missing"),
    ({"dataset__transforms": [{"type": "RandomCrop", "padding": 0}]}, "/dataset/transforms/0/padding", "out_of_range"),
    (
        {"dataset__transforms": ["RandomErasing", {"type": "RandomErasing", "ratio": [3, 0.3]}]},
        "/dataset/transforms/1",
        "out_of_range",
    ),
    ({"dataset": {**FILE, "missing": "median"}}, "/dataset/missing", "unknown_choice"),
    ({"dataset": {**FILE, "inputs": {"x": {"columns": ["a"], "array": "b"}}}}, "/dataset/inputs/x", "out_of_range"),
    ({"dataset": {**FILE, "inputs": {"X": {"columns": ["a"]}}}}, "/dataset/inputs/X", "out_of_range"),
    ({"dataset": {**FILE, "targets": {"y": {"columns": ["a"]}}}}, "/dataset", "out_of_range"),
    ({"split__stratify": 1}, "/split/stratify", "wrong_type"),
]


@pytest.mark.parametrize(("members", "pointer", "code"), REFUSED, ids=[f"{list(m)}-{p}-{c}" for m, p, c in REFUSED])
def test_it_is_refused_where_it_is_wrong(members: dict[str, Any], pointer: str, code: str) -> None:
    assert found(changed(**members)) == {(pointer, code)}


@pytest.mark.parametrize("members", [m for m, _, code in REFUSED if code != "missing"], ids=lambda m: str(list(m)))
def test_every_pointer_names_a_member_of_the_body(members: dict[str, Any]) -> None:
    body = changed(**members)
    for problem in problems(body):
        at: Any = body
        for step in problem.pointer.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            at = at[int(name)] if isinstance(at, list) else at[name]


def test_everything_wrong_is_said_at_once() -> None:
    body = changed(epochs=0, seed="x", optimizer__lr=-1, loss="BCELos", model__layers__0__out_feature=3, early_stopping=3)
    assert found(body) == {
        ("/epochs", "out_of_range"),
        ("/seed", "wrong_type"),
        ("/optimizer/lr", "out_of_range"),
        ("/loss", "unknown_type"),
        ("/model/layers/0/out_feature", "unknown_field"),
        ("/early_stopping", "wrong_type"),
    }


def test_what_is_required_is_named() -> None:
    required = {"dataset", "model", "loss", "optimizer", "batch_size", "epochs"}
    assert found({}) == {(f"/{name}", "missing") for name in required}


@pytest.mark.parametrize("body", [None, [], 3, "spec", True])
def test_a_spec_is_an_object(body: object) -> None:
    assert found(body) == {("", "wrong_type")}


def test_nesting_without_end_is_a_problem_not_a_crash() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    assert {code for _, code in found(changed(optimizer__betas=deep))} == {"too_deep"}


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"loss": "BCELos"}, "BCELoss"),
        ({"optimizer__type": "adamm"}, "Adam"),
        ({"model__layers__0__in_feature": 3}, "in_features"),
        ({"epoch": 3}, "epochs"),
        ({"dataset__nam": "x"}, "name"),
        ({"dataset__name": "irs"}, "iris"),
        ({"checkpoint": {"keeep": 1}}, "keep"),
        ({"loss__reduction": "man"}, "mean"),
    ],
)
def test_a_wrong_word_comes_with_the_right_one(members: dict[str, Any], word: str) -> None:
    [problem] = problems(changed(**members))
    assert f'did you mean "{word}"?' in problem.detail


def test_a_value_in_metadata_is_not_repeated() -> None:
    [problem] = problems(changed(metadata={"token": "pg_secret" + "x" * 2000}))
    assert "pg_secret" not in problem.detail


def test_the_checkers_pointers_are_cut_back_to_the_body_too() -> None:
    body = changed(loss="BCELoss", model__layers__1="ReLU")
    long = [SpecProblem(p, "bad", "x") for p in ("/loss/type", "/model/layers/1/inplace", "/model/layers/0/out_features")]
    assert [posted(p, body).pointer for p in long] == ["/loss", "/model/layers/1", "/model/layers/0/out_features"]


def test_the_json_schema_names_every_class_and_no_later_field() -> None:
    schema = JobSpec.model_json_schema()
    text = json.dumps(schema)
    assert '"const": "Adam"' in text
    assert '"const": "NLLLoss2d"' not in text
    assert "priority" not in text
    assert set(schema["required"]) == {"dataset", "model", "loss", "optimizer", "batch_size", "epochs"}


def test_what_is_wrong_without_end_is_cut_short() -> None:
    assert len(problems(changed(**{f"field{number}": 1 for number in range(10_000)}))) == 100
    (problem,) = problems(changed(**{"x" * 2_000_000: 1}))
    assert len(problem.pointer) + len(problem.detail) < 200
