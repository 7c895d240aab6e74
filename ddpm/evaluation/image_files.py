"""Finding images on disk: a folder, parquet or .npz. A new kind is a function and an entry in READERS."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm.data.arrays import open_npz
from ddpm.data.folders import IMAGE_SUFFIXES, folders_in, images_below, images_in
from ddpm.data.records import FilePictures, Pictures
from ddpm.data.tables import open_parquet
from ddpm.names import did_you_mean

RECORD = "samples.json"         # describes the images that scripts/sample.py wrote to a folder
ALLOWED = (
    f"allowed are a folder of images, or of one folder per class ({', '.join(sorted(IMAGE_SUFFIXES))}), a parquet file "
    "or a folder of them, and an .npz"
)


class FoundImages(NamedTuple):
    """Images at a path, not decoded yet.

    Attributes:
        kind: an entry of READERS.
        pictures: N of them.
        labels: class names or ids, None for an image without; None if no image has a label.
        class_names: the names of the ids; None if unknown.
    """

    kind: str
    pictures: Pictures
    labels: Sequence[Any] | None
    class_names: Sequence[str] | None


def find_images(path: Path) -> FoundImages:
    """Find the images at a path and their labels, without decoding them.

    Args:
        path: a folder of images without labels; a folder of class folders, as scripts/sample.py writes; a parquet
            file, or a folder of them; or an .npz (see `ddpm.data.arrays.open_npz`).

    Raises:
        ValueError: if there is nothing to read; names the path.
    """
    record = _record(path / RECORD)
    found = READERS[record["formats"][0] if record else _kind(path)](path)
    count = len(found.pictures)
    if not count:
        raise ValueError(f"{path}: there are no images in it; {ALLOWED}")
    if record and count != record["count"]:
        raise ValueError(
            f"{path}: contains {count:,} images, and {RECORD} lists {record['count']:,}; let scripts/sample.py finish, "
            f"or remove {RECORD}"
        )
    return found


def _kind(path: Path) -> str:
    """Return the entry of READERS for a path."""
    if path.is_file():
        kind = path.suffix.lower().removeprefix(".")
        if kind in ("npz", "parquet"):
            return kind
        raise ValueError(f"{path}: is a single file; {ALLOWED}")
    if not path.is_dir():
        near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise ValueError(f"{path}: does not exist{near}")
    if _shards(path):
        return "parquet"
    return "npz" if _archives(path) and not images_below(path) else "png"


def _read_files(path: Path) -> FoundImages:
    """Find image files in class folders, or all in one folder."""
    folders = {folder: images_below(folder) for folder in folders_in(path)}
    folders = {folder: images for folder, images in folders.items() if images}
    top_level = [] if (path / RECORD).is_file() else images_in(path)       # with a record these are grids
    if folders and top_level:
        raise ValueError(f"{top_level[0]}: is next to folders of images; use either class folders or single images")
    if not folders:
        return FoundImages("png", FilePictures(tuple(map(str, top_level))), None, None)
    paths = [str(image) for images in folders.values() for image in images]
    labels = [folder.name for folder, images in folders.items() for _ in images]
    return FoundImages("png", FilePictures(tuple(paths)), labels, None)


def _read_parquet(path: Path) -> FoundImages:
    files = [path] if path.is_file() else _shards(path)
    if not files:
        raise ValueError(f"{path}: {RECORD} lists parquet files, and there are none; let scripts/sample.py finish")
    try:
        return FoundImages("parquet", *open_parquet([str(file) for file in files]))
    except ValueError as problem:
        reason = str(problem)
        if reason.startswith("data.image_column"):
            columns = reason[reason.rindex("(") :]
            reason = f"the image column is ambiguous or missing; name it image {columns}"
        raise ValueError(f"{path}: {reason.removeprefix('data.source: ')}") from problem


def _read_npz(path: Path) -> FoundImages:
    archives = [path] if path.is_file() else _archives(path)
    if len(archives) != 1:
        raise ValueError(f"{path}: contains {len(archives)} .npz files; name one of them")
    return FoundImages("npz", *open_npz(archives[0]))


READERS: dict[str, Callable[[Path], FoundImages]] = {"png": _read_files, "parquet": _read_parquet, "npz": _read_npz}


def _shards(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*.parquet") if not any(x.startswith(".") for x in p.relative_to(path).parts))


def _archives(path: Path) -> list[Path]:
    own = path / "samples.npz"
    return [own] if own.is_file() else sorted(p for p in path.glob("*.npz") if not p.name.startswith("."))


def _record(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text())
        if record["formats"][0] in READERS and isinstance(record["count"], int):
            return record
        reason = "unexpected values"
    except (OSError, ValueError, KeyError, IndexError, TypeError) as problem:
        reason = " ".join(str(problem).split())
    raise ValueError(f"{file}: is damaged ({reason}); remove it")
