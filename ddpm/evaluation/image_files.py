"""Where somebody else's images are: a folder, parquet or an .npz. A new kind is a function and an entry in READERS."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm.data.arrays import open_npz
from ddpm.data.folders import IMAGE_SUFFIXES, folders_in, images_below, images_in
from ddpm.data.records import FilePictures, Pictures
from ddpm.data.tables import open_parquet
from ddpm.names import did_you_mean

RECORD = "samples.json"         # what scripts/sample.py says of the images in a folder


class Found(NamedTuple):
    """What is at a path, not decoded yet.

    Attributes:
        kind: an entry of READERS.
        pictures: N of them.
        labels: class names, or ids; None where an image has none; None where no image has any.
        class_names: the names that ids refer to; None where these are not known.
    """

    kind: str
    pictures: Pictures
    labels: Sequence[Any] | None
    class_names: Sequence[str] | None


def find_images(path: Path) -> Found:
    """Finds the images at a path and their labels, and decodes none.

    Args:
        path: a folder of images without labels; a folder of class folders, as scripts/sample.py writes; a parquet
            file, or a folder of them; or an .npz (see `ddpm.data.arrays.open_npz`).

    Raises:
        ValueError: if there is nothing that can be read; one line that names the path.
    """
    record = _record(path / RECORD)
    found = READERS[record["formats"][0] if record else _kind(path)](path)
    count = len(found.pictures)
    if not count:
        raise ValueError(f"{path}: there are no images in it; allowed are {_allowed()}")
    if record and count != record["count"]:
        raise ValueError(
            f"{path}: {count:,} images are there, its {RECORD} speaks of {record['count']:,}; let scripts/sample.py "
            f"finish, or remove {RECORD}"
        )
    return found


def _kind(path: Path) -> str:
    """The entry of READERS that reads a path."""
    if path.is_file():
        kind = path.suffix.lower().removeprefix(".")
        if kind in ("npz", "parquet"):
            return kind
        raise ValueError(f"{path}: is a single file; allowed are {_allowed()}")
    if not path.is_dir():
        near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise ValueError(f"{path}: is not there{near}")
    if _shards(path):
        return "parquet"
    return "npz" if _archives(path) and not images_below(path) else "png"


def _read_files(path: Path) -> Found:
    """Images in class folders, or all in one."""
    folders = {folder: images_below(folder) for folder in folders_in(path)}
    folders = {folder: images for folder, images in folders.items() if images}
    beside = [] if (path / RECORD).is_file() else images_in(path)       # what lies beside that is a grid
    if folders and beside:
        raise ValueError(f"{beside[0]}: lies beside folders of images; give a folder that has either of them")
    if not folders:
        return Found("png", FilePictures(tuple(map(str, beside))), None, None)
    paths = [str(image) for images in folders.values() for image in images]
    labels = [folder.name for folder, images in folders.items() for _ in images]
    return Found("png", FilePictures(tuple(paths)), labels, None)


def _read_parquet(path: Path) -> Found:
    files = [path] if path.is_file() else _shards(path)
    if not files:
        raise ValueError(f"{path}: its {RECORD} speaks of parquet, and there is none; let scripts/sample.py finish")
    try:
        return Found("parquet", *open_parquet([str(file) for file in files]))
    except ValueError as problem:
        reason = str(problem)
        if reason.startswith("data.image_column"):
            there = reason[reason.rindex("(") :]
            reason = f"it is not clear which column holds the images; name it image {there}"
        raise ValueError(f"{path}: {reason.removeprefix('data.source: ')}") from problem


def _read_npz(path: Path) -> Found:
    archives = [path] if path.is_file() else _archives(path)
    if len(archives) != 1:
        raise ValueError(f"{path}: there are {len(archives)} .npz files in it; name one of them")
    return Found("npz", *open_npz(archives[0]))


READERS: dict[str, Callable[[Path], Found]] = {"png": _read_files, "parquet": _read_parquet, "npz": _read_npz}


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
        reason = "its values are others than expected"
    except (OSError, ValueError, KeyError, IndexError, TypeError) as problem:
        reason = " ".join(str(problem).split())
    raise ValueError(f"{file}: is damaged ({reason}); remove it")


def _allowed() -> str:
    return (
        f"a folder of images, or of one folder per class ({', '.join(sorted(IMAGE_SUFFIXES))}), a parquet file or a "
        "folder of them, and an .npz"
    )
