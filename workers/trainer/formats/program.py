"""An upload that holds no data but a model: the archive that `postgrad.export` writes, told from other zips by its entries."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from workers.trainer.exported.problem import UnreadableProgram
from workers.trainer.formats.prepared import UnreadableFile
from workers.trainer.formats.zipped import BROKEN

FORMAT_ENTRY = "archive_format"  # torch's own mark, in the one folder that everything lies in


def is_program(path: Path) -> bool:
    """Whether the file is a zip that says it is an archive of torch's export. Reads its list of entries only."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.partition("/")[2] == FORMAT_ENTRY for name in archive.namelist())
    except BROKEN:
        return False


def read_program(path: Path) -> dict[str, Any]:
    """The schema; `about` is what a preview shows of the program. Raises UnreadableFile."""
    # Here and not above: torch is two seconds that a table need not pay.
    from workers.trainer.exported.program import read

    try:
        return {"source": "exported", "about": read(path).describe()}
    except UnreadableProgram as error:
        raise UnreadableFile(f"the model cannot be used: {error}") from error
