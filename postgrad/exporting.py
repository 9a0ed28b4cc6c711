"""`postgrad.export`: an nn.Module as a file that the service can train, without any of the module's Python in it.

torch is imported inside the functions, so that the rest of the client needs none.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import sys
import warnings
from collections.abc import Iterator
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    Batches = list[tuple[Tensor, ...]]
    Observed = dict[str, list[bytes]]

MODES = ("train", "eval")
BY_VALUES = "forward decides by the values of a tensor, which a graph cannot"
DOCUMENTATION = "docs/exported.md"


class ExportError(ValueError):
    """This module cannot be carried by an exported file, for the reason given."""


def export(module: nn.Module, example: Tensor | tuple[Tensor, ...], path: str | PathLike[str]) -> None:
    """Writes `module` to the `.pt2` file `path`: a graph for training, one for evaluation, and its parameters and buffers.

    `example` is what `forward` takes: a tensor, or a tuple of tensors, float32 or int64, the first dimension of each the
    batch. Its values do not matter, its shape beside the batch size does. The module may be on any device and is left as it
    is, and so are torch's generators.

    Before it is written, the file's program is compared with the module: outputs, gradients, buffers and random numbers of
    two batches must be the same to the last bit. Raises ExportError when they are not, or when torch.export cannot carry what
    `forward` does, and OSError when the file cannot be written.
    """
    import torch

    if not fspath(path).endswith(".pt2"):
        raise ExportError("the file's name must end in .pt2")
    batches = _batches(example)
    _check_tensors(module)
    try:
        own = copy.deepcopy(module).cpu()
    except Exception as error:
        raise ExportError(f"the module cannot be copied: {_first_line(error)}") from error
    with torch.random.fork_rng([]), warnings.catch_warnings(), torch.enable_grad(), _no_fast_path():
        warnings.simplefilter("ignore")
        programs = {mode: _checked(own.train(mode == "train"), batches, mode) for mode in MODES}
    _write(programs, list(own.state_dict()), fspath(path))


# ---- before: what the module and the example are


def _batches(example: Any) -> list[tuple[Tensor, ...]]:
    """The example with at least two rows, and the same with one row more: two batches of different sizes."""
    import torch

    inputs = example if isinstance(example, tuple) else (example,)
    for value in inputs:
        if not isinstance(value, torch.Tensor) or value.dtype not in (torch.float32, torch.int64) or value.dim() == 0:
            raise ExportError("the example must be a tensor or a tuple of tensors, float32 or int64, with a batch dimension")
    rows = {len(value) for value in inputs}
    if len(rows) != 1 or rows == {0}:
        raise ExportError(f"the example's tensors must have one number of rows, at least 1; they have {sorted(rows)}")
    cpu = [value.detach().cpu() for value in inputs]
    # torch.export treats a size of one as fixed.
    first = [torch.cat([value, value]) if rows == {1} else value for value in cpu]
    return [tuple(first), tuple(torch.cat([value, value[:1]]) for value in first)]


def _check_tensors(module: nn.Module) -> None:
    import torch

    memory: dict[int, str] = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        parameter = isinstance(tensor, torch.nn.Parameter)
        allowed = (torch.float32,) if parameter else (torch.float32, torch.int64, torch.int32, torch.uint8, torch.bool)
        if tensor.dtype not in allowed:
            kind = "parameter" if parameter else "buffer"
            raise ExportError(
                f"the {kind} {name} is {tensor.dtype}; {', '.join(str(dtype) for dtype in allowed)} can be carried"
            )
        if type(tensor.data) is not torch.Tensor or tensor.layout is not torch.strided:
            raise ExportError(
                f"{name} is a {type(tensor).__name__} of layout {tensor.layout}; only plain dense tensors can be carried"
            )
        storage = tensor.untyped_storage()
        other = memory.setdefault(storage.data_ptr(), name) if tensor.numel() else name
        if other != name or storage.nbytes() != tensor.numel() * tensor.element_size():
            raise ExportError(
                f"{name} shares its memory with {other if other != name else 'a larger tensor'}; give it its own (clone())"
            )


# ---- the program of one mode, and the proof that it does what the module does


def _checked(module: nn.Module, batches: Batches, mode: str) -> ExportedProgram:
    """The module in its present mode as a program that was seen to do the same. Raises ExportError."""
    import torch

    before = copy.deepcopy(module.state_dict())
    eager = _observed(module, batches, mode)
    module.load_state_dict(before)
    if _observed(module, batches, mode) != eager:
        detail = "something in it is random, or counts, in a way that torch does not know of"
        raise ExportError(f"in {mode} mode two runs of the module with the same seed give different values: {detail}")
    try:
        # torch.export prints the whole graph to stderr when it gives up; the ExportError says what is needed.
        with torch.set_grad_enabled(mode == "train"), contextlib.redirect_stderr(io.StringIO()), _causality(module, batches[0]):
            module.load_state_dict(before)
            program = _exported(module, batches[0])
            again = program.module()
    except ExportError as error:
        raise ExportError(f"in {mode} mode {error}") from error
    except Exception as error:
        raise ExportError(f"in {mode} mode {_reason(error)}: {_first_line(error)}") from error
    replayed = _run(again, batches, mode)
    for what, found in eager.items():
        if replayed[what] != found:
            raise ExportError(
                f"in {mode} mode the exported program's {what} are not the module's; {DOCUMENTATION} says what may differ"
            )
    module.load_state_dict(before)
    return program


def _exported(module: nn.Module, batch: tuple[Tensor, ...]) -> ExportedProgram:
    from torch.export import Dim
    from torch.export import export as torch_export
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    rows = Dim("batch", min=1)
    program = torch_export(module, batch, dynamic_shapes=({0: rows},) * len(batch), strict=False)
    kinds = {spec.kind.name for spec in program.graph_signature.output_specs}
    if kinds != {"USER_OUTPUT"}:
        raise ExportError("forward must return tensors, and change nothing but its module's buffers")
    if any(free_unbacked_symbols(node.meta.get("val")) for node in program.graph.nodes):
        raise ExportError(f"{BY_VALUES} (`.item()`, a boolean index, nonzero)")
    return program


def _reason(error: Exception) -> str:
    text = f"{type(error).__name__} {error}"
    if "DataDependent" in text or "data-dependent" in text or "Unbacked" in text:
        return f"{BY_VALUES} (an `if`, `.item()`, a boolean index)"
    if "Constraint" in text or "specialized" in text:
        return "forward works for this number of rows only; take it from x.shape[0], or use -1 in a view"
    return "torch.export cannot carry forward"


def _observed(module: nn.Module, batches: Batches, mode: str) -> Observed:
    """What the module does with the batches. Raises ExportError for what changes in it that a file cannot hold."""
    before = _attributes(module)
    with _no_foreign_randomness():
        found = _run(module, batches, mode)
    after = _attributes(module)
    changed = [name for name in after if name not in before or after[name] != before[name]]
    if changed:
        raise ExportError(
            f"forward changes {changed[0]}; make it a persistent buffer (register_buffer), so that the file can hold it"
        )
    return found


def _run(module: nn.Module, batches: Batches, mode: str) -> Observed:
    """The bytes of outputs, gradients, buffers and generator state, with a forward and backward for each batch."""
    import torch

    found: Observed = {"outputs": [], "gradients": [], "buffers": [], "random numbers": []}
    torch.manual_seed(0)
    for batch in batches:
        # torch.export prints the whole graph to stderr when it gives up; the ExportError says what is needed.
        with torch.set_grad_enabled(mode == "train"):
            outputs = _outputs(module, batch)
        found["outputs"] += [_bytes(value) for value in outputs]
        losses = [value.square().sum() for value in outputs if value.requires_grad]
        if losses:
            module.zero_grad()
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            gradients = {name: p.grad for name, p in module.named_parameters(remove_duplicate=False)}
            found["gradients"] += [_bytes(gradients[name]) for name in sorted(gradients)]
        found["random numbers"].append(_bytes(torch.get_rng_state()))
    state = module.state_dict()
    found["buffers"] = [_bytes(state[name]) for name in sorted(state)]
    return found


def _outputs(module: nn.Module, batch: tuple[Tensor, ...]) -> list[Tensor]:
    import torch

    try:
        outputs = module(*(value.clone() for value in batch))
    except Exception as error:
        raise ExportError(f"forward fails for a batch of {len(batch[0])} rows: {_first_line(error)}") from error
    flat = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    if not flat or not all(isinstance(value, torch.Tensor) for value in flat):
        raise ExportError("forward must return a tensor, or a flat tuple or list of tensors")
    return flat


def _bytes(value: Tensor | None) -> bytes:
    import torch

    if value is None:
        return b""
    dense = value if value.layout is torch.strided else value.to_dense()
    plain = torch.view_as_real(dense) if dense.is_complex() else dense
    return f"{value.dtype} {tuple(value.shape)} ".encode() + plain.detach().contiguous().numpy().tobytes()


def _attributes(module: nn.Module) -> dict[str, object]:
    """What a module holds beside its persistent state: plain values, tensors, buffers that are not persistent."""
    import torch

    found: dict[str, object] = {}
    for path, part in module.named_modules():
        hidden = {name: part._buffers[name] for name in part._non_persistent_buffers_set}
        for name, value in (vars(part) | hidden).items():
            where = f"{path}.{name}" if path else name
            if isinstance(value, torch.Tensor):
                found[where] = _bytes(value)
            elif isinstance(value, (bool, int, float, str, type(None))):
                found[where] = value
            elif isinstance(value, (list, tuple, dict, set)) and not name.startswith("_"):
                found[where] = len(value)
    return found


@contextlib.contextmanager
def _no_foreign_randomness() -> Iterator[None]:
    """Raises ExportError when Python's or numpy's global generator was used."""
    numpy = sys.modules.get("numpy")
    drawn, drawn_by_numpy = random.getstate(), str(numpy.random.get_state()) if numpy else ""
    yield
    for name, used in (
        ("Python's `random`", random.getstate() != drawn),
        ("numpy's", numpy is not None and str(numpy.random.get_state()) != drawn_by_numpy),
    ):
        if used:
            raise ExportError(f"forward draws from {name} generator, which a graph cannot carry; draw with torch instead")


@contextlib.contextmanager
def _no_fast_path() -> Iterator[None]:
    """In eval mode torch's own transformer layers take a fused way that cannot be exported and has other last bits."""
    from torch.backends import mha

    enabled = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(enabled)


@contextlib.contextmanager
def _causality(module: nn.Module, batch: tuple[Tensor, ...]) -> Iterator[None]:
    """torch's transformers look at a mask's values to see whether it is causal. Their answers, taken from a run of the module,
    are given again while it is exported; a mask that depends on the batch is found out when the program is compared."""
    from torch.nn.modules import transformer

    detect = transformer._detect_is_causal_mask
    answers: list[bool] = []

    def record(*arguments: Any, **keywords: Any) -> bool:
        answers.append(detect(*arguments, **keywords))
        return answers[-1]

    transformer._detect_is_causal_mask = record
    try:
        module(*batch)
        replayed = iter(answers)
        transformer._detect_is_causal_mask = lambda *_, **__: next(replayed)
        yield
    finally:
        transformer._detect_is_causal_mask = detect


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


# ---- the file


def _write(programs: dict[str, ExportedProgram], names: list[str], path: str) -> None:
    """One archive in torch's own layout with two programs and one copy of the weights, nothing in it pickled."""
    from torch.export.pt2_archive import PT2ArchiveReader, PT2ArchiveWriter

    archives = {mode: PT2ArchiveReader(_saved(program)) for mode, program in programs.items()}
    with PT2ArchiveWriter(path) as writer:
        weights = json.loads(archives["train"].read_bytes("data/weights/model_weights_config.json"))
        # torch groups them by memory; in the module's own order the optimizer sees the same parameters in the same order.
        weights["config"] = {name: weights["config"][name] for name in names}
        for record in sorted({item["path_name"] for item in weights["config"].values()}):
            writer.write_bytes(f"data/weights/{record}", archives["train"].read_bytes(f"data/weights/{record}"))
        constants = 0
        for mode, archive in archives.items():
            writer.write_string(f"data/weights/{mode}_weights_config.json", json.dumps(weights))
            config = json.loads(archive.read_bytes("data/constants/model_constants_config.json"))
            for item in config["config"].values():
                data = archive.read_bytes(f"data/constants/{item['path_name']}")
                item["path_name"] = f"tensor_{constants}"
                writer.write_bytes(f"data/constants/tensor_{constants}", data)
                constants += 1
            writer.write_string(f"data/constants/{mode}_constants_config.json", json.dumps(config))
            writer.write_string(f"models/{mode}.json", _without_source(archive.read_bytes("models/model.json")))
            writer.write_bytes(f"data/sample_inputs/{mode}.pt", b"")


def _saved(program: ExportedProgram) -> io.BytesIO:
    import torch

    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return file


def _without_source(document: bytes) -> str:
    """torch writes lines of the user's source beside every step, and guards as Python code; both stay at home."""

    def strip(value: dict[str, Any]) -> dict[str, Any]:
        if "target" in value and "metadata" in value:
            value["metadata"] = {}
        return value

    return json.dumps(json.loads(document, object_hook=strip) | {"guards_code": []})
