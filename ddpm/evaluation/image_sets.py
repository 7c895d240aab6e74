"""Images from disk, used unchanged: nothing is resized or converted, so images that do not match are an error."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddpm.data.decode import MODES, UnreadableImage, unreadable_if_it_fails
from ddpm.data.records import FilePictures, Pictures
from ddpm.evaluation.image_files import FoundImages, find_images
from ddpm.io.image_formats import folder_names
from ddpm.names import did_you_mean

CHUNK = 256                         # images per task of the thread pool
WITHOUT_CLASS = "none"              # folder of images that were generated without a class
SHOWN = 10                          # maximum number of class names in a message
EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class ImageSet:
    """Existing images, all of one size.

    Attributes:
        path: where they are.
        kind: of the files, png, parquet or npz.
        pictures: N of them.
        labels: int64 (N,), ids of the reference's classes; None without labels.
        resolution: height and width in pixels.
        channels: 1 or 3.
        digest: SHA-256, in hexadecimal, of the stored bytes of all images and of the labels.
    """

    path: Path
    kind: str
    pictures: Pictures
    labels: Tensor | None
    resolution: int
    channels: int
    digest: str

    def __len__(self) -> int:
        """N."""
        return len(self.pictures)

    def read(self, indices: Iterable[int]) -> Tensor:
        """Read the images at the given indices, one or more: uint8 (B, C, H, W).

        Raises:
            ValueError: if one has become unreadable; names it.
        """
        size = self.resolution, self.channels
        return torch.from_numpy(np.stack([_pixels(self.path, self.pictures, int(i), *size) for i in indices]))

    def summary(self) -> str:
        """Return a short description, such as `out/samples.npz (npz, 10 classes)`."""
        classes = "no labels" if self.labels is None else f"{len(self.labels.unique())} classes"
        return f"{self.path} ({'image files' if self.kind == 'png' else self.kind}, {classes})"


def read_images(path: Path, resolution: int, channels: int, class_names: Sequence[str]) -> ImageSet:
    """Find images, and decode each once to check that it is intact and matches the reference.

    Memory does not grow with the number of images, except for an .npz with compressed arrays, which is decompressed in
    memory.

    Args:
        path: as for `find_images`.
        resolution: height and width of the reference images.
        channels: 1 (grey) or 3 (RGB), as in the reference.
        class_names: of the reference, in the order of ids.

    Raises:
        ValueError: if there are no images, one is unreadable or does not match the reference, or a label is not one of
            its classes; names the path and what is allowed.
    """
    found = find_images(path)
    count = len(found.pictures)
    labels = _class_ids(path, found, class_names)
    digest = hashlib.sha256(json.dumps(None if labels is None else labels.tolist()).encode())
    chunks = [range(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]
    brightest = 0
    with ThreadPoolExecutor() as pool:
        for digests, high in pool.map(lambda chunk: _check(path, found.pictures, chunk, resolution, channels), chunks):
            digest.update(digests)
            brightest = max(brightest, high)
    if brightest <= 1:
        raise ValueError(f"{path}: no value is above 1; allowed are grey levels from 0 to 255: multiply by 255")
    return ImageSet(path, found.kind, found.pictures, labels, resolution, channels, digest.hexdigest())


def _check(path: Path, pictures: Pictures, chunk: range, resolution: int, channels: int) -> tuple[bytes, int]:
    """Return the concatenated digests of a range of images, and their maximum value."""
    digests, high = [], 0
    for i in chunk:
        high = max(high, int(_pixels(path, pictures, i, resolution, channels).max()))
        digests.append(hashlib.sha256(pictures.read(i)).digest())
    return b"".join(digests), high


def _pixels(path: Path, pictures: Pictures, index: int, resolution: int, channels: int) -> np.ndarray:
    """Decode one image unchanged: uint8 (C, H, W)."""
    try:
        with unreadable_if_it_fails():
            image = pictures.open(index)
            fault = _fault(image, resolution, channels)
            pixels = None if fault else np.array(image)
    except UnreadableImage as problem:
        raise ValueError(f"{_location(path, pictures, index)}: unreadable image: {problem}") from problem
    if fault:
        raise ValueError(f"{_location(path, pictures, index)}: {fault}")
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _fault(image: Image.Image, resolution: int, channels: int) -> str | None:
    """Return how an image differs from the reference format and how to convert it; None if it matches."""
    size, mode = f"{resolution}x{resolution}", MODES[channels]
    words = {"L": "grey", "RGB": "RGB"}
    # Pillow silently converts 16-bit colour to 8 bits; only the raw mode of the file shows it.
    raw = str(getattr(image, "tile", ""))
    faults = {
        f"{image.width}x{image.height} pixels, the reference has {size}; resize them to {size} first":
            image.size != (resolution, resolution),
        "more than 8 bits per value; save them with 8 bits first":
            ";16" in raw or image.mode in ("I", "F") or image.mode.startswith("I;16"),
        f"a palette image; save it as {words[mode]} (Pillow: convert('{mode}')) first": image.mode == "P",
        "has transparency; composite it over a background first": image.has_transparency_data,
        f"{words.get(image.mode, image.mode)}, the reference is {words[mode]}; convert them (Pillow: "
        f"convert('{mode}')) first": image.mode != mode,
        "has more than one frame; save each frame as an image": getattr(image, "n_frames", 1) > 1,
        "rotated by its EXIF orientation; save it upright first": image.getexif().get(EXIF_ORIENTATION, 1) != 1,
    }
    return next((fault for fault, there in faults.items() if there), None)


def _location(path: Path, pictures: Pictures, index: int) -> str:
    return pictures.where(index) if isinstance(pictures, FilePictures) else f"{path}, row {index}"


def _class_ids(path: Path, found: FoundImages, class_names: Sequence[str]) -> Tensor | None:
    """Map labels of any kind to ids of the reference's classes, by class name."""
    if found.labels is None:
        return None
    files = found.kind == "png"
    none = {None, -1} | ({WITHOUT_CLASS} - set(class_names) if files else set())
    without = [label in none for label in found.labels]
    if all(without):
        return None

    def error(index: int, reason: str) -> ValueError:
        few = ", ".join(class_names[:SHOWN]) + (", ..." if len(class_names) > SHOWN else "")
        return ValueError(f"{_location(path, found.pictures, index)}: {reason}; the classes are {few}")

    if any(without):
        raise error(without.index(True), "has no label, while others do; label all or none")
    known: dict[Any, int] = {}
    for index, label in enumerate(found.labels):
        if label in known:
            continue
        name = label
        if isinstance(label, bool):
            name = str(label)
        elif isinstance(label, int):
            names = class_names if found.class_names is None else found.class_names
            if not 0 <= label < len(names):
                raise error(index, f"label {label} is out of range; allowed are 0 to {len(names) - 1}")
            name = names[label]
        elif not isinstance(label, str):
            raise error(index, f"label {label!r} ({type(label).__name__}) is neither a name nor an integer")
        ids = _of_folder(name, class_names) if files else [i for i, n in enumerate(class_names) if n == name]
        if not ids:
            raise error(index, f"{name!r} is not a class of the reference{did_you_mean(name, class_names)}")
        if len(ids) > 1:
            several = " and ".join(repr(class_names[i]) for i in ids)
            raise error(index, f"{name!r} may be {several}; save the images as parquet or npz, which store the names")
        known[label] = ids[0]
    return torch.tensor([known[label] for label in found.labels])


def _of_folder(folder: str, class_names: Sequence[str]) -> list[int]:
    """Return the classes whose images scripts/sample.py could have written to a folder of this name.

    A name that is unsafe for a folder was changed, and a name that was taken got a number; which class got which number
    depends on the other generated classes.
    """
    safe = [folder_names([name])[name] for name in class_names]
    tries = ((class_names, folder), (safe, folder), (safe, re.sub(r"_[0-9]+$", "", folder)))
    found = ([i for i, name in enumerate(names) if name == wanted] for names, wanted in tries)
    return next((ids for ids in found if ids), [])
