"""Changes of a good file that attack its reader, each with the sentence that it meets."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from typing import Any

import torch

from tests.trainer.exported.forging import TRAIN, WEIGHTS, Records, edited, nodes, step, tensor, with_first

ATTACKS: dict[str, tuple[Callable[[Records], None], str | None]] = {}  # a change of a good file, and the sentence it meets
X = tensor("input")


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


PICKLED = pickle.dumps(Payload())


def attack(sentence: str | None) -> Callable[[Callable[[Records], None]], Callable[[Records], None]]:
    """Enters a change of a good file under its name; `sentence` None: it is ignored and the file works."""

    def enter(change: Callable[[Records], None]) -> Callable[[Records], None]:
        ATTACKS[change.__name__] = (change, sentence)
        return change

    return enter


# ---- code in the file


@attack("pickled sample inputs, which are never read")
def pickled_sample_inputs(changed: Records) -> None:
    changed["data/sample_inputs/train.pt"] = PICKLED


@attack("it is pickled, and pickles are never read")
def pickled_weights(changed: Records) -> None:
    with edited(changed, WEIGHTS) as document:
        item = next(iter(document["config"].values()))
        item["use_pickle"] = True
    file = io.BytesIO()
    torch.save(Payload(), file)
    changed[f"data/weights/{item['path_name']}"] = file.getvalue()


@attack("opaque constants, which are never read")
def opaque_constant(changed: Records) -> None:
    changed["data/constants/opaque_obj_0"] = PICKLED


@attack("opaque constants, which are never read")
def custom_object(changed: Records) -> None:
    changed["data/constants/custom_obj_0"] = PICKLED


@attack("it is pickled, and pickles are never read")
def constant_said_to_be_pickled(changed: Records) -> None:
    changed["data/constants/tensor_0"] = PICKLED
    with edited(changed, "data/constants/train_constants_config.json") as document:
        document["config"]["c"] = {"path_name": "tensor_0", "is_param": False, "use_pickle": True, "tensor_meta": None}


@attack("compiled code, which are never read")
def compiled_code(changed: Records) -> None:
    changed["data/aotinductor/model/a.so"] = b"\x7fELF"


CODE = "__import__('os').system('touch executed')"


@attack(None)
def shape_expression(changed: Records) -> None:
    with edited(changed, TRAIN) as document:
        graph = document["graph_module"]["graph"]
        graph["sym_int_values"]["s0"] = {"as_expr": {"expr_str": CODE, "hint": None}}
        graph["tensor_values"]["input"]["sizes"][0] = {"as_expr": {"expr_str": CODE, "hint": None}}
        document["range_constraints"] = {CODE: {"min_val": 0, "max_val": None}}


@attack("code that checks its inputs, which is never run")
def guard_code(changed: Records) -> None:
    with edited(changed, TRAIN) as document:
        document["guards_code"] = [CODE]


@attack(None)
def containers_and_source_lines(changed: Records) -> None:
    with edited(changed, TRAIN) as document:
        document["graph_module"]["module_call_graph"] = [{"fqn": CODE, "signature": {"in_spec": CODE, "out_spec": CODE}}]
        document["graph_module"]["metadata"] = {"custom": CODE}
        document["graph_module"]["treespec_namedtuple_fields"] = {"os.system": {"field_names": ["x"]}}
        document["graph_module"]["graph"]["nodes"][0]["metadata"] = {"stack_trace": CODE, "nn_module_stack": CODE}


# ---- operators

FORBIDDEN = [
    "os.system",
    "builtins.eval",
    "torch.load",
    "_operator.attrgetter",
    "torch.ops.aten.from_file.default",
    "torch.ops.aten._print.default",
    "torch.ops.aten.set_.source_Storage",
    "torch.ops.aten.resize_.default",
    "torch.ops.aten.as_strided.default",
    "torch.ops.aten.record_stream.default",
    "torch.ops.aten.item.default",
    "torch.ops.aten.nonzero.default",
    "torch.ops.aten.__class__",
    "torch.ops.aten.add.__init__",
    "torch.ops.higher_order.cond",
    "torch.ops.higher_order.while_loop",
    "torch.ops.higher_order.call_torchbind",
    "torch.ops.profiler._record_function_enter_new.default",
    "torch.ops.load_library",
    "#torch._higher_order_ops.effects.with_effects",
    "",
]
for target in FORBIDDEN:
    ATTACKS[f"operator {target}"] = with_first(step(target, {"self": X})), "this operator is not allowed"


def operator_attack(name: str, sentence: str, *steps: dict[str, Any]) -> None:
    ATTACKS[name] = with_first(*steps), sentence


ATEN = "torch.ops.aten"
operator_attack("itself", "which no step before it defines", step(f"{ATEN}.relu.default", {"self": tensor("forged")}))
operator_attack("a later one", "which no step before it defines", step(f"{ATEN}.relu.default", {"self": tensor("relu")}))
operator_attack("undefined", "which no step before it defines", step(f"{ATEN}.relu.default", {"self": tensor("nobody")}))
operator_attack("defined twice", "two steps define", step(f"{ATEN}.relu.default", {"self": X}, "input"))
operator_attack("no argument", "self is missing", step(f"{ATEN}.relu.default", {}))
operator_attack("a new argument", "has no argument", step(f"{ATEN}.relu.default", {"self": X, "out": X}))
operator_attack(
    "another device",
    "a device other than the CPU",
    step(
        f"{ATEN}.to.device", {"self": X, "device": {"as_device": {"type": "cuda", "index": 0}}, "dtype": {"as_scalar_type": 7}}
    ),
)
operator_attack(
    "a generator",
    "of the kind 'as_custom_obj'",
    step(f"{ATEN}.bernoulli.default", {"self": X, "generator": {"as_custom_obj": {"name": "g", "class_fqn": "os.system"}}}),
)
operator_attack("a huge tensor", "elements are allowed", step(f"{ATEN}.zeros.default", {"size": {"as_ints": [2**20, 2**20]}}))
operator_attack("a size over 64 bits", "is allowed", step(f"{ATEN}.zeros.default", {"size": {"as_ints": [2**70]}}))
operator_attack("twenty dimensions", "16 dimensions", step(f"{ATEN}.zeros.default", {"size": {"as_ints": [1] * 20}}))
operator_attack("a long list", "longer than 4,096", step(f"{ATEN}.zeros.default", {"size": {"as_ints": [1] * 5000}}))
operator_attack(
    "a step of zero",
    "its argument stride is 0",
    step(f"{ATEN}.max_pool1d.default", {"self": X, "kernel_size": {"as_ints": [1]}, "stride": {"as_ints": [0]}}),
)
operator_attack(
    "a string of its own",
    "which is not allowed",
    step(f"{ATEN}.einsum.default", {"equation": {"as_string": CODE}, "tensors": {"as_tensors": [X["as_tensor"]]}}),
)
operator_attack("another kind", "it takes ", step(f"{ATEN}.relu.default", {"self": {"as_string": "input"}}))
operator_attack("not a union", "not written as", step(f"{ATEN}.relu.default", {"self": {"as_tensor": 1, "as_int": 2}}))
operator_attack("a graph", "of the kind 'as_graph'", step(f"{ATEN}.relu.default", {"self": {"as_graph": {}}}))
operator_attack("complex", "no dtype", step(f"{ATEN}.to.dtype", {"self": X, "dtype": {"as_scalar_type": 9}}))


def on_long_rows(*steps: dict[str, Any]) -> Callable[[Records], None]:
    """Rows of 100 million numbers, which is allowed, and steps that would make something of each."""

    def change(changed: Records) -> None:
        for record in (TRAIN, "models/eval.json"):
            with edited(changed, record) as document:
                graph = document["graph_module"]["graph"]
                graph["tensor_values"]["input"]["sizes"][1] = {"as_int": 100_000_000}
                graph["nodes"][:0] = steps

    return change


PIECES = {"outputs": [{"as_tensors": [{"name": "piece"}]}]}
ATTACKS["a tensor for every number"] = (
    on_long_rows(step(f"{ATEN}.unbind.int", {"self": X, "dim": {"as_int": 1}}) | PIECES),
    "more than 4,096 tensors come out",
)
ATTACKS["a split for every number"] = (
    on_long_rows(step(f"{ATEN}.split.Tensor", {"self": X, "split_size": {"as_int": 1}, "dim": {"as_int": 1}}) | PIECES),
    "more than 4,096 tensors come out",
)


@attack("a size is over 64 bits")
def numbers_without_end(changed: Records) -> None:
    size = {"target": f"{ATEN}.sym_size.int", "inputs": [{"name": "self", "arg": X}, {"name": "dim", "arg": {"as_int": 0}}]}
    steps = [size | {"outputs": [{"as_sym_int": {"as_name": "n0"}}]}]
    for i in range(200):
        operands = [{"name": name, "arg": {"as_sym_int": {"as_name": f"n{i}"}}} for name in "ab"]
        steps.append({"target": "_operator.mul", "inputs": operands, "outputs": [{"as_sym_int": {"as_name": f"n{i + 1}"}}]})
    with nodes(changed) as found:
        found[:0] = steps


@attack("nested more than 4 deep")
def graphs_in_graphs(changed: Records) -> None:
    target = "torch.ops.higher_order.wrap_with_set_grad_enabled"
    inner: dict[str, Any] = {"inputs": [X], "outputs": [X], "nodes": []}
    for _ in range(50):
        arguments = [{"as_bool": False}, {"as_graph": {"name": "g", "graph": inner}}, X]
        node = {"target": target, "inputs": [{"name": "", "arg": a} for a in arguments], "outputs": [tensor("y")]}
        inner = {"inputs": [X], "outputs": [tensor("y")], "nodes": [node]}
    with nodes(changed) as steps:
        steps.insert(0, inner["nodes"][0])


@attack("more than 20,000|longer than 20,000")
def too_many_steps(changed: Records) -> None:
    with nodes(changed) as steps:
        steps[:0] = [step(f"{ATEN}.relu.default", {"self": X}, f"y{i}") for i in range(20_001)]


# ---- weights, names and dtypes


def weight_attack(name: str, sentence: str, **changes: Any) -> None:
    def change(changed: Records) -> None:
        with edited(changed, WEIGHTS) as document:
            item = next(iter(document["config"].values()))
            item.update({key: value for key, value in changes.items() if key in item})
            item["tensor_meta"].update({key: value for key, value in changes.items() if key not in item})

    ATTACKS[name] = change, sentence


weight_attack("a path outside", "no record data/weights/../../../../etc/passwd", path_name="../../../../etc/passwd")
weight_attack("an absolute path", "no record data/weights//etc/passwd", path_name="/etc/passwd")
weight_attack("a path that is no string", "not described as a tensor", path_name=["weight_0"])
weight_attack("a huge weight", "its shape is no list", sizes=[{"as_int": 2**62}, {"as_int": 2}])
weight_attack("a weight larger than its record", "not what its shape takes", sizes=[{"as_int": 10}], strides=[{"as_int": 1}])
weight_attack("a negative size", "its shape is no list", sizes=[{"as_int": -1}])
weight_attack("a size that is an expression", "its shape is no list", sizes=[{"as_expr": {"expr_str": CODE}}])
weight_attack("overlapping strides", "is not dense", strides=[{"as_int": 0}, {"as_int": 0}])
weight_attack("a storage offset", "is not dense", storage_offset={"as_int": 2**40})
weight_attack("half", "its dtype is not", dtype=6)
weight_attack("quantised", "its dtype is not", dtype=29)
weight_attack("a dtype that is no number", "its dtype is not", dtype="torch.float32")
weight_attack("integers that ask for gradients", "cannot be trained", dtype=4)
weight_attack("sparse", "is not dense", layout=1)


@attack("the constants hold over")
def one_constant_ten_thousand_times(changed: Records) -> None:
    changed["data/constants/tensor_0"] = bytes(400_000)
    meta = {
        "dtype": 7,
        "layout": 7,
        "storage_offset": {"as_int": 0},
        "sizes": [{"as_int": 100_000}],
        "strides": [{"as_int": 1}],
    }
    item = {"path_name": "tensor_0", "use_pickle": False, "tensor_meta": meta}
    with edited(changed, "data/constants/train_constants_config.json") as document:
        document["config"] = {f"c{i}": item for i in range(10_000)}


def renamed(name: str, sentence: str) -> None:
    def change(changed: Records) -> None:
        for record in (TRAIN, "models/eval.json", WEIGHTS):
            changed[record] = changed[record].replace(b'"0.weight"', json.dumps(name).encode())

    ATTACKS[f"parameter {name!r}"] = change, sentence


for own in ("forward", "__class__", "_parameters", "training", "_exported_graphs", "0.forward.x"):
    renamed(own, "cannot be the name")
renamed("", "no proper name")
renamed("a\x00b", "no proper name")
renamed("a..b", "cannot be the name")
renamed(".".join("a" * 100), "more than 64 deep")


@attack("neither float32 nor int64")
def input_of_float64(changed: Records) -> None:
    for record in (TRAIN, "models/eval.json"):
        with edited(changed, record) as document:
            document["graph_module"]["graph"]["tensor_values"]["input"]["dtype"] = 8


@attack("has a size that is not fixed")
def huge_input(changed: Records) -> None:
    with edited(changed, TRAIN) as document:
        document["graph_module"]["graph"]["tensor_values"]["input"]["sizes"][1] = {"as_int": 2**62}


@attack("not JSON")
def deep_json(changed: Records) -> None:
    changed[TRAIN] = b"[" * 100_000 + b"]" * 100_000


@attack("not JSON")
def member_twice(changed: Records) -> None:
    changed[TRAIN] = b'{"graph_module": {}, "graph_module": {}}'


@attack("not JSON")
def not_a_number(changed: Records) -> None:
    changed[TRAIN] = b'{"graph_module": NaN}'


@attack("not JSON")
def number_of_a_million_digits(changed: Records) -> None:
    changed[TRAIN] = b'{"graph_module": ' + b"9" * 1_000_000 + b"}"


@attack("was written by another torch")
def another_schema(changed: Records) -> None:
    with edited(changed, TRAIN) as document:
        document["schema_version"]["major"] = 9
