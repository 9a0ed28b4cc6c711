"""The data of the examples: built-in sets, and one small table for what those do not have."""

from __future__ import annotations

import hashlib
from typing import Any

from jobs.registry import file_id

Body = dict[str, Any]


def _table(rows: int = 40) -> bytes:
    """Numbers x, tokens t from 0 to 6, labels a, b and c, a sign, classes y from 0 to 2, spoken labels l from 1 to 3, shares s
    of a whole."""
    header = "x0,x1,x2,x3,t0,t1,t2,t3,t4,a,b,c,sign,y0,y1,y2,l0,l1,l2,s0,s1"
    lines = [header]
    for i in range(rows):
        numbers = [f"{((i * 7 + j * 3) % 11 - 5) / 5:g}" for j in range(4)]
        tokens = [(i * 3 + j * 5 + i // 7) % 7 for j in range(5)]
        labels = [i >> j & 1 for j in range(3)]
        classes = [(i + j + i // 3) % 3 for j in range(3)]
        spoken = [(i + j * j) % 3 + 1 for j in range(3)]
        share = (i % 9 + 1) / 10
        cells = [*numbers, *tokens, *labels, 1 if i % 2 else -1, *classes, *spoken, f"{share:g}", f"{1 - share:g}"]
        lines.append(",".join(map(str, cells)))
    return ("\n".join(lines) + "\n").encode()


TABLE = _table()
TABLE_ID = file_id(hashlib.sha256(TABLE).hexdigest())


def builtin(name: str) -> Body:
    return {"type": "builtin", "name": name, "normalize": "standard"}


def _columns(*target: str, **more: Any) -> Body:
    features = {"features": ["x0", "x1", "x2", "x3"]} if "inputs" not in more else {}
    return {"type": "file", "id": TABLE_ID, **features, **({"target": list(target)} if target else {}), **more}


CLASSES, TWO_CLASSES, NUMBERS = builtin("iris"), builtin("breast_cancer"), builtin("diabetes")
LABELS, SIGNS, SHARES = _columns("a", "b", "c"), _columns("sign"), _columns("s0", "s1")
TOKENS = _columns("y0", inputs={"x": {"columns": ["t0", "t1", "t2", "t3", "t4"], "dtype": "int64"}})
THREE_CLASSES = _columns(targets={"y": {"columns": ["y0", "y1", "y2"], "classes": 3}})
SENTENCES = _columns("y0", inputs={"x": {"columns": ["x0", "x1", "x2", "x3"]}, "long": {"columns": ["l0"], "dtype": "int64"}})
SPEECH = _columns(targets={"y": {"columns": ["l0", "l1", "l2"], "dtype": "int64"}})
