"""Parameters, buffers and constants: what a file says of them, and their bytes as tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.trainer.exported.archive import Archive
from workers.trainer.exported.arguments import DTYPES, STRIDED, sequence, union
from workers.trainer.exported.problem import UnreadableProgram

MAX_ELEMENTS = 200_000_000  # of all parameters, buffers and constants together
MAX_DIMENSIONS = 16
HELD = frozenset({torch.float32, torch.int64, torch.int32, torch.uint8, torch.bool})


@dataclass(frozen=True)
class Held:
    """One tensor of the file. `record` is where its bytes are; two names with the same record are one tensor."""

    record: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def meta(self) -> Tensor:
        """The same tensor without its values, on the meta device."""
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device="meta")

    def load(self, archive: Archive) -> Tensor:
        """The tensor, in memory of its own. Raises UnreadableProgram when its record is damaged."""
        empty = torch.empty_strided(self.shape, self.strides, dtype=self.dtype)
        if self.elements:
            flat = torch.frombuffer(bytearray(archive.bytes(self.record)), dtype=self.dtype)
            # Dense, so its elements lie in the record as they lie in memory.
            empty.as_strided((self.elements,), (1,)).copy_(flat)
        return empty


def read(archive: Archive, kind: str, graph: str) -> dict[str, Held]:
    """What the file holds of a `kind`, "weights" or "constants", for the graph "train" or "eval". Raises UnreadableProgram."""
    document = archive.json(f"data/{kind}/{graph}_{kind}_config.json")
    config = document.get("config") if isinstance(document, dict) else None
    if not isinstance(config, dict):
        raise UnreadableProgram(f"the list of {kind} is missing")
    found = {}
    for name, item in config.items():
        try:
            found[name] = _held(archive, f"data/{kind}/", item)
        except UnreadableProgram as problem:
            raise UnreadableProgram(f"{name[:80]!a}: {problem}") from problem
    # Tied weights are one tensor; constants with one record become one tensor each.
    sizes = {held.record if kind == "weights" else name: held.elements for name, held in found.items()}
    if sum(sizes.values()) > MAX_ELEMENTS:
        raise UnreadableProgram(f"the {kind} hold over {MAX_ELEMENTS:,} numbers")
    return found


def _held(archive: Archive, folder: str, item: Any) -> Held:
    if not isinstance(item, dict) or item.get("use_pickle") is not False:
        raise UnreadableProgram("it is pickled, and pickles are never read here")
    path, meta = item.get("path_name"), item.get("tensor_meta")
    if not isinstance(path, str) or not isinstance(meta, dict):
        raise UnreadableProgram("it is not described as a tensor")
    dtype = meta.get("dtype")
    if type(dtype) is not int or DTYPES.get(dtype) not in HELD:
        raise UnreadableProgram("its dtype is not float32, int64, int32, uint8 or bool")
    shape, strides = (tuple(_size(size) for size in sequence(meta.get(key), MAX_DIMENSIONS)) for key in ("sizes", "strides"))
    if meta.get("layout") != STRIDED or meta.get("storage_offset") != {"as_int": 0} or not _dense(shape, strides):
        raise UnreadableProgram("it shares its memory with something else, or is not dense")
    held = Held(folder + path, DTYPES[dtype], shape, strides, meta.get("requires_grad") is True)
    if archive.size(held.record) != held.elements * held.dtype.itemsize:
        raise UnreadableProgram(f"its record has {archive.size(held.record):,} bytes, which is not what its shape takes")
    if held.requires_grad and not held.dtype.is_floating_point:
        raise UnreadableProgram("it is no float32 and cannot be trained")
    return held


def _size(value: Any) -> int:
    tag, size = union(value)
    if tag != "as_int" or type(size) is not int or not 0 <= size <= MAX_ELEMENTS:
        raise UnreadableProgram("its shape is no list of fixed sizes")
    return size


def _dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether these strides put every element into a place of its own, with no gap. Any order of the dimensions will do."""
    if len(shape) != len(strides):
        return False
    if 0 in shape:
        return True
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True
