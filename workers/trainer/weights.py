"""What the weights start from: initialisers of torch.nn.init by the parameters' names, then another job's weights (rule 4)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from jobs.model_spec import InitFrom, Initializer
from jobs.spec import JobSpec, SpecProblem
from workers.trainer.param_groups import matches
from workers.trainer.place import first_line

MAX_TOLD = 10  # parameters that are named in one answer
DTYPES = {"F32": torch.float32, "I64": torch.int64}

# How many dimensions a parameter must have, least and most, where torch's function does not take any.
DIMENSIONS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "orthogonal_"), (2, 16)),
    **dict.fromkeys(("eye_", "sparse_"), (2, 2)),
    "dirac_": (3, 5),
}


def matching(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The names that one of the patterns means, in their own order."""
    return [name for name in names if any(matches(name, pattern) for pattern in patterns)]


def initialize(module: nn.Module, initializers: Sequence[Initializer]) -> None:
    """Applies them in order, each to its parameters in the model's order. Draws from torch's default generator."""
    parameters = dict(module.named_parameters())
    for initializer in initializers:
        function = getattr(nn.init, initializer.type)
        for name in matching(initializer.params, parameters):
            function(parameters[name], **initializer.arguments())


def check_initializers(spec: JobSpec, module: nn.Module) -> Iterator[SpecProblem]:
    """Patterns that match nothing, and parameters that a function cannot fill. `module` may be on the meta device."""
    parameters = dict(module.named_parameters())
    for index, initializer in enumerate(spec.model.initializers):
        pointer = f"/model/initializers/{index}"
        yield from _unmatched(initializer.params, parameters, f"{pointer}/params")
        for name in matching(initializer.params, parameters)[:MAX_TOLD]:
            reason = _unfit(initializer, parameters[name])
            if reason is not None:
                detail = f"{initializer.type} cannot fill {name} of shape {tuple(parameters[name].shape)}: {reason}"
                yield SpecProblem(pointer, "shape_mismatch", detail)


def _unmatched(patterns: Sequence[str], names: Iterable[str], pointer: str) -> Iterator[SpecProblem]:
    known = list(names)
    for index, pattern in enumerate(patterns):
        if not matching([pattern], known):
            detail = f"{pattern!r} matches no parameter; there are {', '.join(known[:MAX_TOLD])}"
            yield SpecProblem(f"{pointer}/{index}", "unknown_parameter", detail)


def _unfit(initializer: Initializer, parameter: Tensor) -> str | None:
    least, most = DIMENSIONS.get(initializer.type, (0, 16))
    if not least <= parameter.dim() <= most:
        return f"it wants {least} dimensions" if least == most else f"it wants {least} to {most} dimensions"
    groups = initializer.arguments().get("groups", 1)
    if parameter.shape and parameter.shape[0] % groups:
        return f"its first dimension is not a multiple of groups, {groups}"
    # Tried on the smallest tensor of as many dimensions: some of them take time by the size.
    with torch.random.fork_rng(devices=[]):
        try:
            getattr(nn.init, initializer.type)(torch.empty(*[groups] * parameter.dim()), **initializer.arguments())
        except Exception as error:
            return first_line(error)
    return None


# ---- another job's weights


def chosen(init_from: InitFrom, module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers that are to be taken over."""
    state = module.state_dict()
    names = state if init_from.params is None else matching(init_from.params, state)
    return {name: state[name] for name in names}


def take_over(init_from: InitFrom, module: nn.Module, source: Path) -> None:
    """Copies the chosen weights from the pinned artifact `source`. Raises ValueError when it is not the pinned bytes."""
    with source.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != init_from.sha256:
            raise ValueError("the weights to start from are damaged: their digest is not the one that was pinned")
    with safe_open(source, framework="pt") as weights, torch.no_grad():
        known = set(weights.keys())
        for name, tensor in chosen(init_from, module).items():
            if name in known:
                tensor.copy_(weights.get_tensor(name))


def check_init_from(spec: JobSpec, module: nn.Module, source: Path | None) -> list[SpecProblem]:
    """What keeps the weights in `source` from being taken over, from its header alone; None where there is no such file."""
    init_from = spec.model.init_from
    if init_from is None:
        return []
    if source is None:
        return [SpecProblem("/model/init_from", "unknown_artifact", "the weights to start from are not there")]
    try:
        with safe_open(source, framework="pt") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 (it is no dictionary)
            found = {name: (tuple(s.get_shape()), str(s.get_dtype())) for name, s in slices.items()}
    except (OSError, SafetensorError) as error:
        detail = f"the artifact cannot be read: {first_line(error)}"
        return [SpecProblem("/model/init_from/artifact", "unknown_artifact", detail)]
    patterns = init_from.params or []
    problems = list(_unmatched(patterns, module.state_dict(), "/model/init_from/params"))
    details = list(_differences(init_from, chosen(init_from, module), found))
    return problems + [SpecProblem("/model/init_from", "shape_mismatch", detail) for detail in details[:MAX_TOLD]]


def _differences(
    init_from: InitFrom, wanted: dict[str, Tensor], found: dict[str, tuple[tuple[int, ...], str]]
) -> Iterator[str]:
    taken = wanted.keys() & found.keys()
    if init_from.strict:
        for name in [n for n in wanted if n not in found]:
            yield f"{name} is not in the artifact; leave it out of params, or set strict to false"
        for name in [n for n in found if n not in wanted] if init_from.params is None else ():
            yield f"{name} of the artifact is not in this model; say in params what to take, or set strict to false"
    elif not taken:
        yield "the artifact and this model have no parameter in common"
    for name in [n for n in wanted if n in taken]:
        shape, kind = found[name]
        if shape != tuple(wanted[name].shape):
            yield f"{name} has shape {tuple(wanted[name].shape)} here and {shape} in the artifact"
        elif DTYPES.get(kind) != wanted[name].dtype:
            yield f"{name} is {wanted[name].dtype} here and {kind} in the artifact"
