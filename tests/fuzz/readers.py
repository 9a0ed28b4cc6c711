"""The readers, each with its made-up files."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fuzz import valid
from tests.fuzz.damage import Damage, damaged, footer_lie, npy_lie, zip_lie
from tests.fuzz.reading import Make
from tests.trainer.exported.forging import records, write
from tests.trainer.exported.mutating import mutated

READERS: dict[str, tuple[Callable[[random.Random], bytes] | None, tuple[Damage, ...], str]] = {
    "csv": (valid.csv, (), "csv"),
    "npz": (valid.npz, (npy_lie, zip_lie), "auto"),
    "parquet": (valid.parquet, (footer_lie,), "auto"),
    "images": (valid.images, (zip_lie,), "auto"),
    "text": (valid.text, (), "text"),
    "python": (valid.python, (), "python"),
    "any": (None, (), "auto"),
    "pt2": (None, (zip_lie,), "auto"),
}
OF_EVERY_KIND = (valid.csv, valid.npz, valid.parquet, valid.images, valid.text, valid.python)


def makers(names: Sequence[str], folder: Path) -> dict[str, tuple[Make, str]]:
    """For each reader what makes its file from a number's generator, and the format that is asked for."""
    return {name: (_maker(name, folder), READERS[name][2]) for name in names}


def _maker(name: str, folder: Path) -> Make:
    good, special, _ = READERS[name]
    if name == "pt2":
        return _programs(folder, special)
    if good is None:
        return lambda chance: damaged(chance.choice(OF_EVERY_KIND)(chance), (), chance)
    # Most numbers of a file say nothing new after damage: one in ten is left whole, and must be accepted.
    return lambda chance: good(chance) if chance.random() < 0.1 else damaged(good(chance), special, chance)


def _programs(folder: Path, special: tuple[Damage, ...]) -> Make:
    """Half of them with damage in the graph, half with damage in the bytes around it."""
    from workers.trainer.exported.run import warm_up

    with tempfile.TemporaryDirectory() as place:
        files = valid.programs(Path(place))
        whole, parts = [file.read_bytes() for file in files], [records(file) for file in files]
    warm_up()

    def make(chance: random.Random) -> bytes:
        if chance.random() < 0.5:
            return damaged(chance.choice(whole), special, chance)
        path = folder / "program"
        write(path, mutated(chance.choice(parts), chance))
        return path.read_bytes()

    return make
