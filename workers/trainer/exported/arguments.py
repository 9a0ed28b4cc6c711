"""One argument in a file becomes a value, or a place in the registers, that fits the operator's schema."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from workers.trainer.exported.operators import INT64, MOST, RANGES, STRINGS, WHOLE_RANGE, Parameter
from workers.trainer.exported.problem import UnreadableProgram

MAX_LIST = 4096

# torch's numbers for dtypes in a .pt2 file; complex numbers and quantised ones are not trained here.
DTYPES: dict[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
MEMORY_FORMATS: dict[int, torch.memory_format] = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
STRIDED = 7


@dataclass(frozen=True)
class Slot:
    """A register that holds the value when the program runs."""

    index: int


@dataclass(frozen=True)
class Mixed:
    """A list with at least one Slot among its items."""

    items: tuple[Any, ...]


class Device:
    """Stands for the device that the program runs on, whichever that is."""


HERE = Device()
NUMBERS_TOO = frozenset({"other", "exponent", "value"})  # `x + 1` is add.Tensor with a number for its tensor
Defined = Mapping[str, tuple[int, str]]  # a name's register, and "Tensor", "int", "float" or "bool"


def read(argument: Any, parameter: Parameter, defined: Defined) -> Any:
    """The value of one argument, Slots where it is known only when the program runs. Raises UnreadableProgram."""
    tag, value = union(argument)
    if tag == "as_none":
        if not parameter.optional:
            raise UnreadableProgram(f"its argument {parameter.name} is None")
        return None
    if tag not in _READERS:
        raise UnreadableProgram(f"its argument {parameter.name} is of the kind {tag[:40]!a}, which is not allowed")
    kinds, listed, reader = _READERS[tag]
    kind = "number" if parameter.kind == "Tensor" and parameter.name in NUMBERS_TOO and "number" in kinds else parameter.kind
    if kind not in kinds or (listed and not parameter.listed):
        raise UnreadableProgram(f"its argument {parameter.name} is of the kind {tag}, but it takes {parameter.kind}")
    reading = _Reading(parameter, defined)
    if not listed:
        items = [reader(reading, value)]
        if not parameter.listed:
            return items[0]
    else:
        items = [reader(reading, item) for item in sequence(value)]
    return Mixed(tuple(items)) if any(isinstance(item, Slot) for item in items) else items


def union(value: Any) -> tuple[str, Any]:
    """Tag and content of one of the file's unions, {tag: content}. Raises UnreadableProgram."""
    if not isinstance(value, dict) or len(value) != 1:
        raise UnreadableProgram("an argument is not written as {kind: value}")
    return next(iter(value.items()))


def sequence(value: Any, most: int = MAX_LIST) -> list[Any]:
    """A JSON array. Raises UnreadableProgram when it is something else or longer than `most`."""
    if not isinstance(value, list) or len(value) > most:
        raise UnreadableProgram(f"a list is missing or longer than {most:,}")
    return value


def name_of(value: Any) -> str:
    """The member "name" of an object. Raises UnreadableProgram when there is none."""
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str) or not 0 < len(name) <= 256:
        raise UnreadableProgram("a value has no name")
    return name


def find(name: Any, kinds: tuple[str, ...], defined: Defined) -> Slot:
    """The register of a name that an earlier step defined, as one of these kinds. Raises UnreadableProgram."""
    if not isinstance(name, str) or name not in defined:
        raise UnreadableProgram(f"it uses {str(name)[:60]!a}, which no step before it defines")
    index, kind = defined[name]
    if kind not in kinds:
        raise UnreadableProgram(f"it uses {name[:60]!a}, which is a {kind}, as a {kinds[0]}")
    return Slot(index)


@dataclass(frozen=True)
class _Reading:
    """An argument that is being read. Each method takes what stands behind a tag and raises UnreadableProgram."""

    parameter: Parameter
    defined: Defined

    def tensor(self, value: Any) -> Slot:
        return find(name_of(value), ("Tensor",), self.defined)

    def optional_tensor(self, value: Any) -> Slot | None:
        tag, content = union(value)
        if tag == "as_none":
            return None
        if tag != "as_tensor":
            raise UnreadableProgram(f"its argument {self.parameter.name} holds something that is not a tensor")
        return self.tensor(content)

    def integer(self, value: Any) -> int:
        if self.parameter.kind in ("number", "Tensor"):
            return self.number(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise UnreadableProgram(f"its argument {self.parameter.name} is no integer")
        low, high = RANGES.get(self.parameter.name, (-MOST, MOST))
        if self.parameter.name in WHOLE_RANGE:
            low, high = -INT64 - 1, INT64
        if not low <= value <= high:
            raise UnreadableProgram(f"its argument {self.parameter.name} is {str(value)[:30]}; {low} to {high} is allowed")
        return value

    def number(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not -INT64 <= value <= INT64:
            raise UnreadableProgram(f"its argument {self.parameter.name} is no integer of 64 bits")
        return value

    def real(self, value: Any) -> float:
        if value in ("Infinity", "-Infinity", "NaN"):
            return float(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UnreadableProgram(f"its argument {self.parameter.name} is no number")
        return float(value)

    def boolean(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise UnreadableProgram(f"its argument {self.parameter.name} is neither true nor false")
        if self.parameter.name == "pin_memory" and value:
            raise UnreadableProgram("it asks for pinned memory")
        return value

    def string(self, value: Any) -> str:
        if (
            not isinstance(value, str)
            or self.parameter.name not in STRINGS
            or not STRINGS[self.parameter.name].fullmatch(value)
        ):
            raise UnreadableProgram(f"its argument {self.parameter.name} is {str(value)[:40]!a}, which is not allowed")
        return value

    def dtype(self, value: Any) -> torch.dtype:
        if type(value) is not int or value not in DTYPES:
            raise UnreadableProgram(f"its argument {self.parameter.name} is no dtype that is trained here")
        return DTYPES[value]

    def memory_format(self, value: Any) -> torch.memory_format:
        if type(value) is not int or value not in MEMORY_FORMATS:
            raise UnreadableProgram(f"its argument {self.parameter.name} is no memory format")
        return MEMORY_FORMATS[value]

    def layout(self, value: Any) -> torch.layout:
        if value != STRIDED:
            raise UnreadableProgram("it asks for a layout other than strided")
        return torch.strided

    def device(self, value: Any) -> Device:
        if not isinstance(value, dict) or value.get("type") != "cpu":
            raise UnreadableProgram("it names a device other than the CPU; export the module on the CPU, it trains anywhere")
        return HERE

    def symbol(self, value: Any) -> Any:
        tag, content = union(value)
        if tag == "as_int":
            return self.integer(content)
        if tag == "as_float":
            return self.real(content)
        if tag == "as_bool":
            return self.boolean(content)
        if tag != "as_name":
            raise UnreadableProgram(f"its argument {self.parameter.name} is neither a number nor a name")
        if self.parameter.name in RANGES:
            raise UnreadableProgram(f"its argument {self.parameter.name} depends on the batch size")
        return find(content, ("int",) if self.parameter.kind == "int" else ("int", "float", "bool"), self.defined)


# For each tag of torch's union: the kinds of argument it may stand for, whether it is a list, and who reads an item.
Reader = Callable[[_Reading, Any], Any]
_READERS: dict[str, tuple[tuple[str, ...], bool, Reader]] = {
    "as_tensor": (("Tensor",), False, _Reading.tensor),
    "as_tensors": (("Tensor", "Optional[Tensor]"), True, _Reading.tensor),
    "as_optional_tensor": (("Tensor",), False, _Reading.optional_tensor),
    "as_optional_tensors": (("Optional[Tensor]",), True, _Reading.optional_tensor),
    "as_int": (("int", "number", "float"), False, _Reading.integer),
    "as_ints": (("int",), True, _Reading.integer),
    "as_float": (("float", "number"), False, _Reading.real),
    "as_floats": (("float",), True, _Reading.real),
    "as_bool": (("bool", "number"), False, _Reading.boolean),
    "as_string": (("str",), False, _Reading.string),
    "as_scalar_type": (("ScalarType",), False, _Reading.dtype),
    "as_memory_format": (("MemoryFormat",), False, _Reading.memory_format),
    "as_layout": (("Layout",), False, _Reading.layout),
    "as_device": (("Device",), False, _Reading.device),
    "as_sym_int": (("int", "number", "float"), False, _Reading.symbol),
    "as_sym_ints": (("int",), True, _Reading.symbol),
    "as_sym_float": (("float", "number"), False, _Reading.symbol),
    "as_sym_bool": (("bool", "number"), False, _Reading.symbol),
}
