"""Names that people give to things, as they may be shown anywhere: on one line, and in the order in which they are written.

A terminal obeys control characters, and bidirectional ones let `exe.csv` be read as `vsc.exe`. Both are refused where a name
comes in; what joins letters (emoji, Persian) stays.
"""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

# C0, DEL and C1; then the marks, separators, embeddings and isolates of bidirectional text. JSON Schema has the same words.
PLAIN_NAME_PATTERN = r"^[^\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]*$"
NOT_PLAIN = "a name is one line of text, without control characters and without those that turn its direction"
_PLAIN = re.compile(PLAIN_NAME_PATTERN.removesuffix("$"))


def is_plain_name(name: str) -> bool:
    """Whether a name can be shown as it is."""
    return _PLAIN.fullmatch(name) is not None


def _checked(name: str) -> str:
    if not is_plain_name(name):
        raise PydanticCustomError("not_plain", NOT_PLAIN)
    return name


Name: TypeAlias = Annotated[str, AfterValidator(_checked), Field(json_schema_extra={"pattern": PLAIN_NAME_PATTERN})]
