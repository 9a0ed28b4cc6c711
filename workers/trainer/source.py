"""A user's own Python: from the bytes of one source file to a module or data set that is built, under profile `strict` only.

What goes wrong in the user's code is said as a sentence that names their line; the traceback goes to the job's log, with their
source in it. Pointers are relative to the part of the spec that names the class: "/id", "/class", "/kwargs/<name>".
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import linecache
import sys
import traceback
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from jobs.arguments import SpecProblem, did_you_mean, escape, shown
from jobs.model_spec import PythonModel
from jobs.spec import JobSpec, PythonDataset
from workers.sandbox import is_strict

MESSAGE_CHARACTERS = 300
TORCH_NAMES: dict[type, str] = {nn.Module: "torch.nn.Module", Dataset: "torch.utils.data.Dataset"}

T = TypeVar("T")


class SourceProblem(Exception):
    """The user's code cannot be used, or failed; `problems` says how, `line` is where in their source, if it is one line."""

    def __init__(self, problems: list[SpecProblem], line: int | None = None) -> None:
        super().__init__("; ".join(problem.detail for problem in problems))
        self.problems = problems
        self.line = line

    def within(self, pointer: str) -> SourceProblem:
        """The same, its pointers counted from the whole spec: `pointer` is the part that names the class."""
        moved = [SpecProblem(f"{pointer}{one.pointer}", one.code, one.detail) for one in self.problems]
        return SourceProblem(moved, self.line)


def file_name(spec: JobSpec, part: str) -> str:
    """What sentences and tracebacks call the source of "model" or "data", which may be one upload."""
    one = isinstance(spec.dataset, PythonDataset) and isinstance(spec.model, PythonModel) and spec.dataset.id == spec.model.id
    return "source.py" if one else f"{part}.py"


def load_class(source: bytes, class_name: str, base: type[T], filename: str = "source.py") -> type[T]:
    """The class of that name, which must inherit `base` (nn.Module or Dataset), after running the whole file as a module.

    The same bytes are run once in a process. `filename` is what tracebacks and sentences call the file, a name of its own for
    each source; nothing is read from it. Raises SourceProblem, and RuntimeError where profile `strict` is not up.
    """
    _raise_unless_strict()
    return _named(_run(source, filename), class_name, base)


def build(cls: type[T], kwargs: Mapping[str, Any]) -> T:
    """`cls(**kwargs)` for a class from `load_class`: a module with a `forward`, or a data set with a length and items.

    Raises SourceProblem, with every argument at once that does not fit, and RuntimeError where profile `strict` is not up.
    """
    _raise_unless_strict()
    if problems := [*_argument_problems(cls, kwargs), *_class_problems(cls)]:
        raise SourceProblem(problems)
    with user_errors("", f"{cls.__name__}.__init__"):
        built = cls(**kwargs)
    if isinstance(built, nn.Module) and "_parameters" not in vars(built):
        raise _problem("/class", "invalid_source", f"{cls.__name__}.__init__ does not call super().__init__()")
    if isinstance(built, Dataset):
        _raise_if_empty(built)
    return built


@contextlib.contextmanager
def user_errors(pointer: str, what: str) -> Iterator[None]:
    """Turns what the user's code raises inside into SourceProblem at `pointer`; `what` names the call, as in "Net.forward".

    Passed on unchanged: what no line of the user's had a part in, and want of memory, which has a reason of its own.
    """
    try:
        yield
    except (SourceProblem, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if _out_of_memory(error) or (place := _user_place(error)) is None:
            raise
        traceback.print_exception(error)
        filename, line = place
        raise _problem(pointer, "invalid_source", f"{what} failed at {filename}, line {line}: {_text(error)}", line) from error


def _raise_unless_strict() -> None:
    if not is_strict():
        raise RuntimeError("a user's source is run under the sandbox profile strict only, and this process is not under it")


def _problem(pointer: str, code: str, detail: str, line: int | None = None) -> SourceProblem:
    return SourceProblem([SpecProblem(pointer, code, detail)], line)


# ---- the file

_PREFIX = "postgrad_source_"


def _run(source: bytes, filename: str) -> types.ModuleType:
    name = _PREFIX + hashlib.sha256(source).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = filename
    # In place before it runs: dataclasses and pickle look their module up, tracebacks and inspect its lines.
    sys.modules[name] = module
    lines = source.decode(errors="replace").splitlines(keepends=True)
    linecache.cache[filename] = (len(source), None, lines, filename)
    try:
        code = _compiled(source, filename)
        with user_errors("/id", "the source"):
            exec(code, vars(module))  # noqa: S102 (this is what the profile is for)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _compiled(source: bytes, filename: str) -> types.CodeType:
    try:
        return compile(source, filename, "exec", dont_inherit=True)
    except SyntaxError as error:
        place = f"{filename}, line {error.lineno}" if error.lineno else filename
        raise _problem("/id", "invalid_source", f"{place}: {error.msg}", error.lineno or None) from error
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes; nested too deeply for the parser
        raise _problem("/id", "invalid_source", f"{filename} cannot be compiled: {_text(error)}") from error


def _named(module: types.ModuleType, class_name: str, base: type[T]) -> type[T]:
    found, wanted = vars(module).get(class_name), TORCH_NAMES.get(base, base.__name__)
    if isinstance(found, type) and issubclass(found, base) and found is not base:
        return found
    own = [name for name, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__]
    if class_name not in vars(module):
        there = f"it has {', '.join(own)}" if own else "it defines no class"
        near = did_you_mean(class_name, own)
        raise _problem("/class", "unknown_type", f"{module.__file__} has no class {shown(class_name)}{near or f'; {there}'}")
    if not isinstance(found, type):
        detail = f"{shown(class_name)} in {module.__file__} is not a class; name one that inherits {wanted}"
        raise _problem("/class", "wrong_type", detail)
    raise _problem("/class", "wrong_type", f"the class {shown(class_name)} does not inherit {wanted}")


# ---- the class

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _argument_problems(cls: type, kwargs: Mapping[str, Any]) -> Iterable[SpecProblem]:
    try:
        parameters = inspect.signature(cls).parameters
    except (TypeError, ValueError):  # made by native code or an unusual metaclass: the call itself will tell
        return
    known = {name: one for name, one in parameters.items() if one.kind in _BY_NAME}
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    for name in kwargs:
        if name not in known and not takes_any:
            near = did_you_mean(name, known) or (f"; it takes {', '.join(known)}" if known else "; it takes none")
            yield SpecProblem(
                f"/kwargs/{escape(name)}", "unknown_field", f"{cls.__name__} takes no argument {shown(name)}{near}"
            )
    for name, one in known.items():
        if one.default is inspect.Parameter.empty and name not in kwargs:
            yield SpecProblem(f"/kwargs/{escape(name)}", "missing", f"{cls.__name__} needs the argument {shown(name)}")


def _class_problems(cls: type) -> Iterable[SpecProblem]:
    lacks = []
    if issubclass(cls, nn.Module):
        lacks = ["forward"] if cls.forward is nn.Module.forward else []
    elif issubclass(cls, IterableDataset):
        detail = f"{cls.__name__} is an IterableDataset, which has no length and no order; inherit torch.utils.data.Dataset"
        yield SpecProblem("/class", "not_supported", detail)
    elif issubclass(cls, Dataset):
        own = {name for parent in cls.__mro__ if parent is not Dataset for name in vars(parent)}
        lacks = [name for name in ("__len__", "__getitem__") if name not in own]
    if lacks:
        yield SpecProblem("/class", "invalid_source", f"{cls.__name__} does not define {' and '.join(lacks)}")


def _raise_if_empty(dataset: Dataset[Any]) -> None:
    name = type(dataset).__name__
    with user_errors("/class", f"{name}.__len__"):
        try:
            rows = len(dataset)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError) as error:  # of len itself: not an int, negative, too large
            if _user_place(error) is not None:
                raise
            raise _problem("/class", "invalid_source", f"{name}.__len__ gives no length: {_text(error)}") from error
    if rows == 0:
        raise _problem("/class", "invalid_source", f"{name} is empty: its __len__ gives 0")


# ---- what they raise


def _user_place(error: BaseException) -> tuple[str, int] | None:
    """File and line of the innermost frame that runs the user's source."""
    place = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__", "")).startswith(_PREFIX):
            place = (frame.f_code.co_filename, line)
    return place


def _text(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    except Exception:  # a __str__ of the user's
        text = type(error).__name__
    return text if len(text) <= MESSAGE_CHARACTERS else text[:MESSAGE_CHARACTERS] + " ..."


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
