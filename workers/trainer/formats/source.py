"""An upload that holds no data but Python: text that parses and defines a class. It is never run here."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from workers.trainer.formats.prepared import UnreadableFile

MAX_BYTES = 2**20
MAX_CLASSES = 200


def read_source(path: Path) -> dict[str, Any]:
    """The schema; `about` is what a preview shows: the classes that it defines, with their bases. Raises UnreadableFile."""
    if path.stat().st_size > MAX_BYTES:
        raise UnreadableFile(f"a Python source of more than {MAX_BYTES:,} bytes is not taken")
    try:
        module = ast.parse(path.read_bytes().decode("utf-8"))
    except SyntaxError as error:
        raise UnreadableFile(f"not Python: line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:  # not UTF-8; NUL; nested too deeply for the parser
        raise UnreadableFile("not a Python source: expected UTF-8 text that Python can parse") from error
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    if not classes:
        raise UnreadableFile("this Python source defines no class")
    found = [{"name": node.name, "bases": [ast.unparse(base)[:200] for base in node.bases]} for node in classes[:MAX_CLASSES]]
    return {"source": "python", "about": {"classes": found}}


def is_source(path: Path) -> bool:
    """Whether the text is Python that defines a class, as no table and no prose does."""
    try:
        read_source(path)
    except UnreadableFile:
        return False
    return True
