"""Whether there is room for more. The last of a disk is kept for what is there already: the database, and jobs that run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from jobs.settings import Settings


@dataclass(frozen=True)
class Room:
    """The disks that the service writes to, and the bytes that are to stay free on each."""

    places: dict[str, Path]  # by what the sentence calls them
    floor_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Room:
        """The data folder, and a SQLite file's if that lies elsewhere."""
        places = {"data folder": settings.data_dir.resolve()}
        url = sa.make_url(settings.database)
        if url.get_backend_name() == "sqlite" and url.database:
            places["database"] = Path(url.database).resolve().parent
        return cls(places, settings.min_free_bytes)

    def shortage(self, wanted_bytes: int = 0) -> str | None:
        """The sentence that says on which disk `wanted_bytes` more would leave too little, None when there is room."""
        for name, place in self.places.items():
            free = shutil.disk_usage(place).free if place.exists() else None
            if free is not None and free - wanted_bytes < self.floor_bytes:
                more = f" and {wanted_bytes} more are to come" if wanted_bytes else ""
                return f"the disk of the {name} has {free} bytes free{more}; {self.floor_bytes} are kept free"
        return None
