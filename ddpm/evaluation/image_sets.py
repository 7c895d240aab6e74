"""Images from disk, used unchanged: nothing is resized or converted, so images that do not match are an error.

A new kind of file is a function and an entry in READERS.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm.data.folders.scan import IMAGE_SUFFIXES, scan_folder
from ddpm.data.pixels.decode import MODES, Picture, UnreadableImage, has_high_bit_depth, unreadable_if_it_fails
from ddpm.data.records import FilePictures, Pictures
from ddpm.data.sources.arrays import open_npz
from ddpm.data.sources.tables import holds_images, open_parquet
from ddpm.diffusion.class_labels import NO_CLASS
from ddpm.io.image_formats import folder_names
from ddpm.io.image_writer import SAMPLES_RECORD
from ddpm.io.pictures import to_tensor
from ddpm.names import did_you_mean, did_you_mean_path, to_nfc

IMAGES_PER_TASK = 256               # of the thread pool
EXIF_ORIENTATION = 0x0112
ALLOWED_IMAGES = (
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
    labels: Sequence[Any] | None = None
    class_names: Sequence[str] | None = None


@dataclass(frozen=True)
class ImageSet:
    """Existing images, all of one size.

    Attributes:
        path: where they are.
        found: the undecoded images.
        labels: int64 (N,), ids of the reference's classes; None without labels.
        resolution: height and width in pixels.
        channels: C, of the images and of the reference.
        digest: SHA-256, in hexadecimal, of the stored bytes of all images and of the labels.
    """

    path: Path
    found: FoundImages
    labels: Tensor | None
    resolution: int
    channels: int
    digest: str

    def __len__(self) -> int:
        """Return N."""
        return len(self.found.pictures)

    def read(self, indices: Iterable[int]) -> Tensor:
        """Read the images at the given indices, one or more: uint8 (B, C, H, W).

        Raises:
            ValueError: if one has become unreadable; names it.
        """
        size = self.resolution, self.channels
        return torch.from_numpy(np.stack([_pixels(self.path, self.found.pictures, int(i), *size) for i in indices]))

    def summary(self) -> str:
        """Return a short description, such as `out/samples.npz (npz, 10 classes)`."""
        classes = "no labels" if self.labels is None else f"{len(self.labels.unique())} classes"
        return f"{self.path} ({'image files' if self.found.kind == 'png' else self.found.kind}, {classes})"


def read_images(path: Path, resolution: int, channels: int, class_names: Sequence[str]) -> ImageSet:
    """Find images, and decode each once to check that it is intact and matches the reference.

    Memory does not grow with the number of images, except for an .npz with compressed arrays, which is decompressed in
    memory.

    Args:
        path: as for `find_images`.
        resolution: height and width of the reference images.
        channels: C of the reference images.
        class_names: of the reference, in the order of ids; without any, the images have no labels either.

    Raises:
        ValueError: if there are no images, one is unreadable or does not match the reference, or a label is not one of
            its classes; names the path and what is allowed.
    """
    found = find_images(path)
    labels = _class_ids(path, found, class_names)

    def check(chunk: range) -> tuple[bytes, int]:
        """Return the concatenated digests of a range of images, and their maximum value."""
        high = max(int(_pixels(path, found.pictures, i, resolution, channels).max()) for i in chunk)
        return b"".join(hashlib.sha256(found.pictures.read(i)).digest() for i in chunk), high

    digest = hashlib.sha256(json.dumps(None if labels is None else labels.tolist()).encode())
    brightest, everything = 0, range(len(found.pictures))
    chunks = [everything[first : first + IMAGES_PER_TASK] for first in everything[::IMAGES_PER_TASK]]
    with ThreadPoolExecutor() as pool:
        for digests, high in pool.map(check, chunks):
            digest.update(digests)
            brightest = max(brightest, high)
    if brightest <= 1:
        raise ValueError(f"{path}: no value is above 1; allowed are gray levels from 0 to 255: multiply by 255")
    return ImageSet(path, found, labels, resolution, channels, digest.hexdigest())


def _pixels(path: Path, pictures: Pictures, index: int, resolution: int, channels: int) -> np.ndarray:
    """Decode one image unchanged: uint8 (C, H, W)."""
    try:
        with unreadable_if_it_fails():
            image = pictures.open(index)
            problem = _mismatch(image, resolution, channels)
            if problem is None:
                return to_tensor(image).contiguous().numpy()
    except UnreadableImage as error:
        raise ValueError(f"{_location(path, pictures, index)}: unreadable image: {error}") from error
    raise ValueError(f"{_location(path, pictures, index)}: {problem}")


def _array_mismatch(image: np.ndarray, resolution: int, channels: int) -> str | None:
    """Return how an array (H, W) or (H, W, C) differs from the reference; None if it matches."""
    shape, wanted = np.atleast_3d(image).shape, (resolution, resolution, channels)
    if image.dtype != np.uint8:
        return f"values of type {image.dtype}; allowed is uint8 from 0 to 255: scale, round and convert the images"
    if shape == wanted:
        return None
    if shape == (channels, resolution, resolution):
        return f"an array of shape {image.shape}; channels come last, transpose(0, 2, 3, 1)"
    if shape[:2] != wanted[:2]:
        return _other_size(shape[1], shape[0], resolution)
    return f"{shape[2]} channels, the reference has {channels}; choose {channels} of them first"


def _other_size(width: int, height: int, resolution: int) -> str:
    size = f"{resolution}x{resolution}"
    return f"{width}x{height} pixels, the reference has {size}; resize the images to {size} first"


def _mismatch(image: Picture, resolution: int, channels: int) -> str | None:
    """Return how an image differs from the reference format and how to convert it; None if it matches."""
    if isinstance(image, np.ndarray):
        return _array_mismatch(image, resolution, channels)
    if image.size != (resolution, resolution):
        return _other_size(*image.size, resolution)
    # Pillow silently converts 16-bit color to 8 bits; only the raw mode of the file shows it.
    if ";16" in str(getattr(image, "tile", "")) or has_high_bit_depth(image):
        return "more than 8 bits per value; save the images with 8 bits first"
    if channels not in MODES:
        return f"the reference has {channels} channels, more than an image file; save the images as .npz"
    mode = MODES[channels]
    if channels in (1, 3) and image.mode != "P" and image.has_transparency_data:
        return "has transparency; composite the images over a background first"
    if image.mode != mode:
        how = f"convert the images (Pillow: convert('{mode}')) first"
        return f"Pillow's mode {image.mode}, the reference is {mode}; {how}"
    if getattr(image, "n_frames", 1) > 1:
        return "has more than one frame; save each frame as an image first"
    if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
        return "rotated by its EXIF orientation; save the images upright first"
    return None


def _location(path: Path, pictures: Pictures, index: int) -> str:
    return pictures.where(index) if isinstance(pictures, FilePictures) else f"{path}, row {index}"


def _class_ids(path: Path, found: FoundImages, class_names: Sequence[str]) -> Tensor | None:
    """Map labels, which are names or ids, to ids of the reference's classes, by class name."""
    files, names = found.kind == "png", class_names if found.class_names is None else found.class_names
    none = {None, -1} | ({NO_CLASS} - set(class_names) if files else set())
    if found.labels is None or not class_names or all(label in none for label in found.labels):
        return None
    ids: dict[Any, int] = {}
    for label in dict.fromkeys(found.labels):
        is_id = isinstance(label, int) and not isinstance(label, bool)
        in_range = is_id and 0 <= label < len(names)
        name = names[label] if in_range else str(label)
        matching = _match_folder(name, class_names) if files else [i for i, n in enumerate(class_names) if n == name]
        if label in none:
            problem = "has no label, while others do; label all or none"
        elif is_id and not in_range:
            problem = f"label {label} is out of range; allowed are 0 to {len(names) - 1}"
        elif not isinstance(label, (int, str)):
            problem = f"label {label!r} ({type(label).__name__}) is neither a name nor an integer"
        elif not matching:
            problem = f"{name!r} is not a class of the reference{did_you_mean(name, class_names)}"
        elif len(matching) > 1:
            several = " and ".join(repr(class_names[i]) for i in matching)
            problem = f"{name!r} may be {several}; save the images as parquet or npz, which store the names"
        else:
            ids[label] = matching[0]
            continue
        where = _location(path, found.pictures, found.labels.index(label))
        raise ValueError(f"{where}: {problem}; the classes are {abbreviate(class_names, 10)}")
    return torch.tensor([ids[label] for label in found.labels])


def _match_folder(folder: str, class_names: Sequence[str]) -> list[int]:
    """Return the classes whose images scripts/sample.py could have written to a folder of this name.

    A name that is unsafe for a folder was changed, and a name that was taken got a number; which class got which number
    depends on the other generated classes.
    """
    safe = [folder_names([name])[name] for name in class_names]
    tries = ((class_names, folder), (safe, folder), (safe, re.sub(r"_[0-9]+$", "", folder)))
    found = ([i for i, name in enumerate(names) if to_nfc(name) == to_nfc(wanted)] for names, wanted in tries)
    return next((ids for ids in found if ids), [])


def abbreviate(names: Sequence[str], count: int = 5) -> str:
    """Return the first names, separated by commas."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "") or "none"


def find_images(path: Path) -> FoundImages:
    """Find the images at a path and their labels, without decoding them.

    Args:
        path: a folder of images without labels; a folder of class folders, as scripts/sample.py writes; a parquet
            file, or a folder of them; or an .npz (see `ddpm.data.sources.arrays.open_npz`).

    Raises:
        ValueError: if there is nothing to read; names the path.
    """
    record, listed = path / SAMPLES_RECORD, None
    if record.is_file():
        try:
            content = json.loads(record.read_text())
            read, listed = READERS[content["formats"][0]], int(content["count"])
        except (ValueError, KeyError, IndexError, TypeError) as problem:
            raise ValueError(f"{record}: was not written by scripts/sample.py, or is damaged; remove it") from problem
    else:
        read = READERS[_kind(path)]
    found = read(path)
    count = len(found.pictures)
    if listed is not None and listed != count:
        raise ValueError(
            f"{path}: contains {count:,} images, and {record.name} lists {listed:,}; let scripts/sample.py finish, or "
            f"remove {record.name}"
        )
    if not count:
        raise ValueError(f"{path}: contains no images; {ALLOWED_IMAGES}")
    return found


def _kind(path: Path) -> str:
    """Return the entry of READERS for a path."""
    if path.is_file():
        kind = path.suffix.lower().removeprefix(".")
        if kind in ("npz", "parquet"):
            return kind
        raise ValueError(f"{path}: is a single file; {ALLOWED_IMAGES}")
    if not path.is_dir():
        raise ValueError(f"{path}: does not exist{did_you_mean_path(path)}")
    if any(map(holds_images, _shards(path))):
        return "parquet"
    return "npz" if _archives(path) and not scan_folder(path).images_below else "png"


def _read_files(path: Path) -> FoundImages:
    """Find image files in class folders, or all in one folder."""
    content = scan_folder(path)
    of_class = [(folder.path.name, str(image)) for folder in content.folders for image in folder.images_below]
    top_level = [] if (path / SAMPLES_RECORD).is_file() else content.images        # with a record these are grids
    if of_class and top_level:
        raise ValueError(f"{top_level[0]}: is next to folders of images; use either class folders or single images")
    if not of_class:
        return FoundImages("png", FilePictures(tuple(map(str, top_level))))
    labels, paths = zip(*of_class, strict=True)
    return FoundImages("png", FilePictures(paths), labels)


def _read_parquet(path: Path) -> FoundImages:
    files = _shards(path)
    if not files:
        raise ValueError(f"{path}: {SAMPLES_RECORD} lists parquet files, and none exist; let scripts/sample.py finish")
    try:
        return FoundImages("parquet", *open_parquet([str(file) for file in files]))
    except ValueError as problem:
        reason = re.sub(r"^data\.\w+: ", "", str(problem)).replace("as data.image_column", "image")
        raise ValueError(f"{path}: {reason}") from problem


def _read_npz(path: Path) -> FoundImages:
    archives = _archives(path)
    if len(archives) != 1:
        raise ValueError(f"{path}: contains {len(archives)} .npz files; name one of them")
    return FoundImages("npz", *open_npz(archives[0]))


def _shards(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*.parquet") if not any(x.startswith(".") for x in p.relative_to(path).parts))


def _archives(path: Path) -> list[Path]:
    own = path / "samples.npz"
    if path.is_file() or own.is_file():
        return [own if own.is_file() else path]
    return sorted(p for p in path.glob("*.npz") if not p.name.startswith("."))


READERS: dict[str, Callable[[Path], FoundImages]] = {"png": _read_files, "parquet": _read_parquet, "npz": _read_npz}
