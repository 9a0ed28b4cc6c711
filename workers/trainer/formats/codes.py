"""The different texts of one column, told apart block by block: `codes.<i>`, int32, -1 where a cell is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from workers.trainer.formats.prepared import MAX_CATEGORIES, Writer


class Codes:
    """Codes in the order of appearance until the end is known, then by code point; at most MAX_CATEGORIES of them."""

    def __init__(self, index: int) -> None:
        self._name = f"codes.{index}"
        self._codes: dict[str, int] = {}
        self._counts = np.zeros(MAX_CATEGORIES, dtype=np.int64)

    @property
    def full(self) -> bool:
        """Whether there are too many texts to tell them apart: no block needs to be added any more."""
        return len(self._codes) > MAX_CATEGORIES

    def add(self, cells: Any, missing: npt.NDArray[np.bool_], writer: Writer) -> None:
        """`cells` is a pyarrow.DictionaryArray or an array of strings; `missing` marks the cells that have no category."""
        import pyarrow as pa
        import pyarrow.compute as pc

        encoded = cells if pa.types.is_dictionary(cells.type) else cells.dictionary_encode()
        indices = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
        found = np.bincount(indices[~missing], minlength=max(1, len(encoded.dictionary)))
        used = np.flatnonzero(found)
        for text in encoded.dictionary.take(pa.array(used[: MAX_CATEGORIES + 1])).to_pylist():
            if not self.full:
                self._codes.setdefault(text, len(self._codes))
        if self.full:
            writer.drop(self._name)
            return
        recode = np.full(len(found), -1, dtype=np.int32)
        recode[used] = [self._codes[text] for text in encoded.dictionary.take(pa.array(used)).to_pylist()]
        np.add.at(self._counts, recode[used], found[used])
        writer.append(self._name, np.where(missing, np.int32(-1), recode[indices]))

    def schema(self, writer: Writer) -> dict[str, Any]:
        """JSON values: how many texts, and unless they are too many which and how often. The codes get their final order."""
        if self.full:
            return {"distinct": MAX_CATEGORIES + 1}
        kept = sorted(self._codes)  # Python sorts strings by code point
        new = np.full(len(kept) + 1, -1, dtype=np.int32)  # the last one is where -1 points
        for position, text in enumerate(kept):
            new[self._codes[text]] = position
        writer.rewrite(self._name, new)
        counts = [int(self._counts[self._codes[text]]) for text in kept]
        return {"distinct": len(kept), "categories": kept, "counts": counts}
