"""Operations between tensors that a node of a Graph may name: a closed table, under torch's names, in the catalog's form.

Every value has the batch as its first dimension, so no operation touches that one: `dim` counts it (as torch does) and is
never 0, and `shape` leaves it out. What the functions do is in workers/trainer/operations.py.
"""

from __future__ import annotations

from typing import Any

MAX_INPUTS = 16
MAX_PIECES = 64
LONGEST = 2**31

Row = dict[str, Any]


def _argument(name: str, *forms: str, **more: Any) -> Row:
    return {"name": name, "forms": list(forms), **more}


def _dim(name: str = "dim", **more: Any) -> Row:
    return _argument(name, "integer", minimum=-16, maximum=16, **more)


def _row(summary: str, inputs: tuple[int, int] = (1, 1), *arguments: Row, outputs: int = 0) -> Row:
    return {
        "summary": summary,
        "inputs": list(inputs),
        "outputs": [str(i) for i in range(outputs)],
        "arguments": list(arguments),
    }


_OTHER = _argument("other", "number", "null", default=None)
_DIMS = _argument("dim", "integer", "integers", minimum=-16, maximum=16, required=True)
_KEEPDIM = _argument("keepdim", "boolean", default=False)
_SHAPE = _argument("shape", "integers", minimum=-1, maximum=LONGEST, required=True)
_SEVERAL = (2, MAX_INPUTS)
_INDEX: dict[str, int] = {"minimum": -LONGEST, "maximum": LONGEST}

OPERATIONS: dict[str, Row] = {
    "add": _row("The sum of its inputs, or of one input and the number `other`", (1, MAX_INPUTS), _OTHER),
    "sub": _row("The first input less the second, or less the number `other`", (1, 2), _OTHER),
    "mul": _row("The product of its inputs, or of one input and the number `other`", (1, MAX_INPUTS), _OTHER),
    "div": _row("The first input divided by the second, or by the number `other`", (1, 2), _OTHER),
    "maximum": _row("The larger of two inputs, element by element", (2, 2)),
    "minimum": _row("The smaller of two inputs, element by element", (2, 2)),
    "matmul": _row("The product of two batches of matrices", (2, 2)),
    "cat": _row("Its inputs one behind the other along `dim`", _SEVERAL, _dim(default=1)),
    "stack": _row("Its inputs one behind the other along a new dimension `dim`", _SEVERAL, _dim(default=1)),
    "reshape": _row("The same numbers in another shape of one row; one size may be -1", (1, 1), _SHAPE),
    "view": _row("The same numbers in another shape of one row, without a copy; one size may be -1", (1, 1), _SHAPE),
    "flatten": _row(
        "The dimensions from start_dim to end_dim as one",
        (1, 1),
        _dim("start_dim", default=1),
        _dim("end_dim", default=-1),
    ),
    "permute": _row(
        "The dimensions in another order; dims begins with 0, the batch",
        (1, 1),
        _argument("dims", "integers", minimum=-16, maximum=16, required=True),
    ),
    "transpose": _row("Two dimensions swapped", (1, 1), _dim("dim0", required=True), _dim("dim1", required=True)),
    "squeeze": _row("Without the dimension `dim`, which has size 1", (1, 1), _dim(required=True)),
    "unsqueeze": _row("With a new dimension of size 1 at `dim`", (1, 1), _dim(required=True)),
    "mean": _row(
        "The mean over the dimensions `dim`; with a padding mask (n, T) as second input over the real positions of dimension 1",
        (1, 2),
        _DIMS,
        _KEEPDIM,
    ),
    "sum": _row("The sum over the dimensions `dim`", (1, 1), _DIMS, _KEEPDIM),
    "amax": _row("The largest number over the dimensions `dim`; equal ones share the gradient", (1, 1), _DIMS, _KEEPDIM),
    "amin": _row("The smallest number over the dimensions `dim`; equal ones share the gradient", (1, 1), _DIMS, _KEEPDIM),
    "max": _row("The largest number over one dimension; one index takes the gradient", (1, 1), _dim(required=True), _KEEPDIM),
    "min": _row("The smallest number over one dimension; one index takes the gradient", (1, 1), _dim(required=True), _KEEPDIM),
    "select": _row(
        "One index of the dimension `dim`, such as the first token",
        (1, 1),
        _dim(default=1),
        _argument("index", "integer", required=True, **_INDEX),
    ),
    "slice": _row(
        "The indices start, start + step, ... before `end` of the dimension `dim`",
        (1, 1),
        _dim(default=1),
        _argument("start", "integer", default=0, **_INDEX),
        _argument("end", "integer", "null", default=None, **_INDEX),
        _argument("step", "integer", default=1, minimum=1, maximum=LONGEST),
    ),
    "split": _row(
        "Pieces of the given sizes along `dim`, named <node>.0, <node>.1, ...",
        (1, 1),
        _argument("split_size", "integer", "integers", minimum=1, maximum=LONGEST, required=True),
        _dim(default=1),
        outputs=MAX_PIECES,
    ),
    "chunk": _row(
        "That many equal pieces along `dim`, named <node>.0, <node>.1, ...",
        (1, 1),
        _argument("chunks", "integer", minimum=1, maximum=MAX_PIECES, required=True),
        _dim(default=1),
        outputs=MAX_PIECES,
    ),
    "positions": _row(
        "0, 1, ... to the size of the dimension `dim`, as int64 of shape (1, size): the same for every row",
        (1, 1),
        _dim(default=1),
    ),
    "padding_mask": _row(
        "True where a sequence is padding: the first input (n, T, ...) has the T positions, the second says how many "
        "of them are real in each row; `prefix` positions before those, such as a class token, are real too",
        (2, 2),
        _argument("prefix", "integer", default=0, minimum=0, maximum=LONGEST),
    ),
    "masked_fill": _row(
        "The first input with `value` where the second, a mask of as many dimensions, is True",
        (2, 2),
        _argument("value", "number", required=True),
    ),
    "expand": _row(
        "The first input, which is the same for every row, once for each row of the second; `shape` of one row may stretch its "
        "other sizes of 1, and -1 leaves a size as it is",
        (2, 2),
        _argument("shape", "integers", "null", minimum=-1, maximum=LONGEST, default=None),
    ),
    "expand_as": _row("The first input in the shape of the second, its sizes of 1 stretched", (2, 2)),
    "Parameter": _row(
        "Numbers that are learned, the same for every row (torch.nn.Parameter): zeros, unless `initializers` fill them; shape "
        "begins with 1, the place of the batch",
        (0, 0),
        _argument("shape", "integers", minimum=1, maximum=65_536, required=True),
    ),
    "shared": _row(
        "An earlier node's module called once more, with the same weights",
        (1, 3),
        _argument("module", "string", required=True),
    ),
}
