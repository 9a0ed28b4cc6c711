"""A ZIP of PNG or JPEG images, in folders that are their classes or beside one CSV file that labels them.

Pixels are kept as they are in the file: uint8, one channel for grey images and three for all others, in the order (c, h, w).
"""

from __future__ import annotations

import io
import tempfile
import warnings
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.trainer.formats import table
from workers.trainer.formats.prepared import MAX_CATEGORIES, PREVIEW_ROWS, UnreadableFile, Writer
from workers.trainer.formats.zipped import opened, reading

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
IGNORED = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
MAX_IMAGE_BYTES = 64 * 2**20
MAX_PIXELS = 2**24
MAX_LABEL_BYTES = 64 * 2**20
GREY = frozenset({"1", "L", "LA", "La"})
LABEL = "label"


def read_images(path: Path, writer: Writer) -> dict[str, Any]:
    """The schema; `pixels` uint8 (all images in a row), `offsets` int64 (n + 1,), `sizes` int64 (n, 3) as (c, h, w) and the
    columns of the labels go to `writer`. Rows follow the label file, or are sorted by path. Raises UnreadableFile.
    """
    with opened(path) as (archive, entries):
        kept = [e for e in entries if not _ignored(e.filename)]
        tables = [e for e in kept if e.filename.lower().endswith(".csv")]
        images = {e.filename: e for e in kept if e not in tables}
        odd = next((name for name in images if PurePosixPath(name).suffix.lower() not in SUFFIXES), None)
        if odd is not None:
            raise UnreadableFile(f"the ZIP file's entry {odd[:80]!r} is neither a PNG or JPEG image nor a CSV file of labels")
        if not images:
            raise UnreadableFile("the ZIP file holds no image")
        if len(tables) > 1:
            raise UnreadableFile("the ZIP file holds several CSV files; one of them labels the images")
        if tables:
            names, labels = _labelled(archive, tables[0], images, writer)
        else:
            names, labels = _by_folder(sorted(images), writer)
        sizes = _decode_all(archive, [images[name] for name in names], writer)
    return _schema(names, labels, sizes)


def _ignored(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return parts[0] == "__MACOSX" or parts[-1] in IGNORED


def _schema(names: list[str], labels: dict[str, Any], sizes: npt.NDArray[np.int64]) -> dict[str, Any]:
    low, high = sizes.min(axis=0).tolist(), sizes.max(axis=0).tolist()
    return {
        "source": "images",
        "rows": len(names),
        "channels": high[0],
        "height": [low[1], high[1]],
        "width": [low[2], high[2]],
        "first_images": [name[:200] for name in names[:PREVIEW_ROWS]],
        **labels,
    }


# ---- the labels


def _by_folder(names: list[str], writer: Writer) -> tuple[list[str], dict[str, Any]]:
    """The class is the first folder below those that all images share."""
    paths = [PurePosixPath(name).parts for name in names]
    if not all(len(parts) > 1 for parts in paths):
        raise UnreadableFile("an image stands outside the class folders, and there is no CSV file of labels")
    depth = 0
    while len({parts[depth] for parts in paths}) == 1 and all(len(parts) > depth + 2 for parts in paths):
        depth += 1
    counts = Counter(parts[depth] for parts in paths)
    classes = sorted(counts)
    if len(classes) > MAX_CATEGORIES:
        raise UnreadableFile(f"the images lie in {len(classes)} class folders; at most {MAX_CATEGORIES} are read")
    codes = {name: code for code, name in enumerate(classes)}
    writer.append("codes.0", np.array([codes[parts[depth]] for parts in paths], dtype=np.int32))
    column: dict[str, Any] = {"name": LABEL, "type": "text", "missing": 0, "first_missing": None, "distinct": len(classes)}
    column |= {"categories": classes, "counts": [counts[name] for name in classes]}
    return names, {"columns": [column], "preview": [[parts[depth]] for parts in paths[:PREVIEW_ROWS]]}


def _labelled(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, images: dict[str, zipfile.ZipInfo], writer: Writer
) -> tuple[list[str], dict[str, Any]]:
    """A CSV file whose first column names the images, as paths from the folder that it lies in."""
    if entry.file_size > MAX_LABEL_BYTES:
        raise UnreadableFile(f"the CSV file of labels has {entry.file_size:,} bytes; at most {MAX_LABEL_BYTES:,} are read")
    with tempfile.NamedTemporaryFile() as copy, reading(archive, entry) as stream:
        copy.write(stream.read())
        copy.flush()
        labels, found = table.Columns(), list[str]()
        for block in table.blocks(Path(copy.name)):
            if block.num_columns < 2:
                raise UnreadableFile("the CSV file of labels has no column beside the images' names")
            found += block.column(0).to_pylist()
            labels.add(block.remove_column(0), writer)
    folder = PurePosixPath(entry.filename).parent
    names = [str(folder / name.strip()) for name in found]
    for row, name in enumerate(names, start=1):
        if name not in images:
            raise UnreadableFile(f"row {row} of the CSV file of labels names {name[:80]!r}, which is not in the ZIP file")
    if len(set(names)) < len(names):
        raise UnreadableFile("the CSV file of labels names an image twice")
    schema = labels.schema(writer)
    return names, {key: schema[key] for key in ("columns", "preview")}


# ---- the pixels


def _decode_all(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], writer: Writer) -> npt.NDArray[np.int64]:
    sizes = np.empty((len(entries), 3), dtype=np.int64)
    for index, entry in enumerate(entries):
        pixels = _decode(archive, entry, writer)
        sizes[index] = pixels.shape
        writer.append("pixels", pixels.reshape(-1))
    writer.append("sizes", sizes)
    writer.append("offsets", np.concatenate([[0], np.cumsum(sizes.prod(axis=1))]))
    return sizes


def _decode(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, writer: Writer) -> npt.NDArray[np.uint8]:
    """One image as uint8 (c, h, w); its size is judged by its header, before a pixel is unpacked."""
    from PIL import Image

    name = entry.filename[:80]
    if entry.file_size > MAX_IMAGE_BYTES:
        raise UnreadableFile(f"the image {name!r} has {entry.file_size:,} bytes; at most {MAX_IMAGE_BYTES:,} are read")
    with reading(archive, entry) as stream:
        content = stream.read()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit stands below
            image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
    except Exception as error:  # Pillow's readers raise errors of many kinds on a damaged file
        raise UnreadableFile(f"the image {name!r} is no PNG or JPEG image that can be read") from error
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableFile(f"the image {name!r} is {image.width} x {image.height}; at most {MAX_PIXELS:,} pixels are read")
    if image.mode.startswith(("I", "F")):
        raise UnreadableFile(f"the image {name!r} has more than 8 bits a channel; save it with 8")
    writer.expect(image.width * image.height * 3)
    try:
        values = np.asarray(image.convert("L" if image.mode in GREY else "RGB"), dtype=np.uint8)
    except Exception as error:
        raise UnreadableFile(f"the image {name!r} is damaged or cut off") from error
    return values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))
