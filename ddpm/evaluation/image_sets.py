"""Somebody else's images, read as they are: nothing is resized or converted, so what does not fit is refused."""

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
from ddpm.evaluation.image_files import Found, find_images
from ddpm.io.formats import folder_names
from ddpm.names import did_you_mean

CHUNK = 256                         # images per task of the thread pool
WITHOUT_CLASS = "none"              # folder of images that were drawn without a class
SHOWN = 10                          # class names that a message lists
EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class GivenImages:
    """Images that are there already, all of one size.

    Attributes:
        path: where.
        kind: of files, png, parquet or npz.
        pictures: N of them.
        labels: int64 (N,), ids of the reference's classes; None where there are none.
        resolution: height and width in pixels.
        channels: 1 or 3.
        digest: SHA-256, in hexadecimal, of what is stored of every image, and of the labels.
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

    def read(self, places: Iterable[int]) -> Tensor:
        """The images of some places, one or more of 0..N-1: uint8 (B, C, H, W); no other is read.

        Raises:
            ValueError: if one has become unreadable; names it.
        """
        size = self.resolution, self.channels
        return torch.from_numpy(np.stack([_pixels(self.path, self.pictures, int(i), *size) for i in places]))

    def summary(self) -> str:
        """A few words, such as `out/samples.npz (npz, 10 classes)`."""
        classes = "no labels" if self.labels is None else f"{len(self.labels.unique())} classes"
        return f"{self.path} ({'image files' if self.kind == 'png' else self.kind}, {classes})"


def read_images(path: Path, resolution: int, channels: int, class_names: Sequence[str]) -> GivenImages:
    """Finds images, and decodes each once to see that it is whole and like the reference's.

    Memory does not grow with their number, but for an .npz whose arrays are compressed: it is unpacked in memory.

    Args:
        path: as `find_images` takes it.
        resolution: height and width of the reference's images.
        channels: 1 (grey) or 3 (RGB), as the reference's.
        class_names: of the reference, in the order of ids.

    Raises:
        ValueError: if there are no images, one cannot be read or is not like the reference's, or a label is none of
            its classes; one line that names the path and what is allowed.
    """
    found = find_images(path)
    count = len(found.pictures)
    labels = _class_ids(path, found, class_names)
    digest = hashlib.sha256(json.dumps(None if labels is None else labels.tolist()).encode())
    chunks = [range(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]
    brightest = 0
    with ThreadPoolExecutor() as pool:
        for digests, high in pool.map(lambda part: _check(path, found.pictures, part, resolution, channels), chunks):
            digest.update(digests)
            brightest = max(brightest, high)
    if brightest <= 1:
        raise ValueError(f"{path}: no value in any image is above 1; allowed are levels from 0 to 255; multiply by 255")
    return GivenImages(path, found.kind, found.pictures, labels, resolution, channels, digest.hexdigest())


def _check(path: Path, pictures: Pictures, part: range, resolution: int, channels: int) -> tuple[bytes, int]:
    """Digests of some images, one after the other, and the highest value in them."""
    digests, high = [], 0
    for i in part:
        high = max(high, int(_pixels(path, pictures, i, resolution, channels).max()))
        digests.append(hashlib.sha256(pictures.read(i)).digest())
    return b"".join(digests), high


def _pixels(path: Path, pictures: Pictures, place: int, resolution: int, channels: int) -> np.ndarray:
    """One image as it is: uint8 (C, H, W)."""
    try:
        with unreadable_if_it_fails():
            image = pictures.open(place)
            fault = _fault(image, resolution, channels)
            pixels = None if fault else np.array(image)
    except UnreadableImage as problem:
        raise ValueError(f"{_place(path, pictures, place)}: unreadable image: {problem}") from problem
    if fault:
        raise ValueError(f"{_place(path, pictures, place)}: {fault}")
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _fault(image: Image.Image, resolution: int, channels: int) -> str | None:
    """What would have to be changed about an image, and how; None where nothing would."""
    size, mode = f"{resolution}x{resolution}", MODES[channels]
    words = {"L": "grey", "RGB": "RGB"}
    # Pillow turns 16 bits of colour into 8 without a word; only the raw mode of the file tells.
    raw = str(getattr(image, "tile", ""))
    faults = {
        f"{image.width}x{image.height} pixels, the reference has {size}; resize them to {size} first":
            image.size != (resolution, resolution),
        "more than 8 bits per value; save them with 8 bits first":
            ";16" in raw or image.mode in ("I", "F") or image.mode.startswith("I;16"),
        f"a palette image; save it as {words[mode]} (Pillow: convert('{mode}')) first": image.mode == "P",
        "has transparency; put it on a background first": image.has_transparency_data,
        f"{words.get(image.mode, image.mode)}, the reference is {words[mode]}; convert them (Pillow: "
        f"convert('{mode}')) first": image.mode != mode,
        "holds more than one frame; save each as an image of its own": getattr(image, "n_frames", 1) > 1,
        "turned by its EXIF orientation; save it upright first": image.getexif().get(EXIF_ORIENTATION, 1) != 1,
    }
    return next((fault for fault, there in faults.items() if there), None)


def _place(path: Path, pictures: Pictures, place: int) -> str:
    return pictures.where(place) if isinstance(pictures, FilePictures) else f"{path}, row {place}"


def _class_ids(path: Path, found: Found, class_names: Sequence[str]) -> Tensor | None:
    """Labels of any kind as ids of the reference's classes, which are found by their names."""
    if found.labels is None:
        return None
    files = found.kind == "png"
    none = {None, -1} | ({WITHOUT_CLASS} - set(class_names) if files else set())
    without = [label in none for label in found.labels]
    if all(without):
        return None

    def refused(place: int, reason: str) -> ValueError:
        few = ", ".join(class_names[:SHOWN]) + (", ..." if len(class_names) > SHOWN else "")
        return ValueError(f"{_place(path, found.pictures, place)}: {reason}; the classes are {few}")

    if any(without):
        raise refused(without.index(True), "has no label, and others have; label all or none")
    known: dict[Any, int] = {}
    for place, label in enumerate(found.labels):
        if label in known:
            continue
        name = label
        if isinstance(label, bool):
            name = str(label)
        elif isinstance(label, int):
            names = class_names if found.class_names is None else found.class_names
            if not 0 <= label < len(names):
                raise refused(place, f"label {label} is out of range; allowed are 0 to {len(names) - 1}")
            name = names[label]
        elif not isinstance(label, str):
            raise refused(place, f"label {label!r} ({type(label).__name__}) is neither a name nor a whole number")
        ids = _of_folder(name, class_names) if files else [i for i, n in enumerate(class_names) if n == name]
        if not ids:
            raise refused(place, f"{name!r} is no class of the reference{did_you_mean(name, class_names)}")
        if len(ids) > 1:
            several = " and ".join(repr(class_names[i]) for i in ids)
            raise refused(place, f"{name!r} may be {several}; keep the images as parquet or npz, which have the names")
        known[label] = ids[0]
    return torch.tensor([known[label] for label in found.labels])


def _of_folder(folder: str, class_names: Sequence[str]) -> list[int]:
    """The classes whose images scripts/sample.py would write to a folder of this name.

    A name that is not safe for a folder was changed, and one that was taken got a number; which of several classes has
    which number depends on what else was drawn.
    """
    safe = [folder_names([name])[name] for name in class_names]
    tries = ((class_names, folder), (safe, folder), (safe, re.sub(r"_[0-9]+$", "", folder)))
    found = ([i for i, name in enumerate(names) if name == wanted] for names, wanted in tries)
    return next((ids for ids in found if ids), [])
